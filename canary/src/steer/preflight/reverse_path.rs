//! Whether the kernel's own guard against forged sources drops what comes back by the canary path, or what we mark.
//! IPv4 alone: IPv6 has no such sysctl.

use std::fs;

use super::kernel;
use crate::{
    Mode,
    steer::{Error, Result, plan::Plan},
};

/// `rp_filter`: strict looks for the very device by which an answer would leave.
const STRICT: u32 = 1;
const CONF: &str = "/proc/sys/net/ipv4/conf";

/// Refuses strict filtering on the canary device: clients and ICMP errors that come in there would be dropped, as the
/// way back to them is by the control path. A router marks before it filters: where `src_valid_mark` then lets the
/// mark count, a strict device in front of the game host drops every canary packet.
pub(super) fn lets_pass(plan: &Plan, dev: &str) -> Result<()> {
    if setting(dev, "rp_filter")? == STRICT {
        return Err(Error::StrictReversePath { dev: dev.to_owned() });
    }
    if plan.mode == Mode::Router {
        for entry in fs::read_dir(CONF).map_err(kernel("list the devices"))?.flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            let is_device = !matches!(other.as_str(), "all" | "default" | "lo");
            if is_device && setting(&other, "rp_filter")? == STRICT && setting(&other, "src_valid_mark")? != 0 {
                return Err(Error::MarkCountsForSource { dev: other });
            }
        }
    }
    Ok(())
}

/// What counts is the larger of the device's value and that of `all` (Linux `IN_DEV_MAXCONF`, `IN_DEV_ORCONF`).
fn setting(dev: &str, name: &str) -> Result<u32> {
    let read = |place: &str| -> Result<u32> {
        let text =
            fs::read_to_string(format!("{CONF}/{place}/{name}")).map_err(kernel("read a reverse path setting"))?;
        Ok(text.trim().parse().unwrap_or(0))
    };
    Ok(read("all")?.max(read(dev)?))
}
