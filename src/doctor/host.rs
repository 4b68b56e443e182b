//! What the host allows: the kernel's age, this process's capabilities, the clocks.

use std::fs;

use pathlab_reflector::clock::ClockQuality;
use pathlab_xdp::{nic::KernelVersion, tai_minus_utc};

use super::Check;

/// The oldest kernel that our BPF programs load on: `bpf_ktime_get_tai_ns` came with it.
const OLDEST: KernelVersion = KernelVersion(6, 1);

/// Number, name and use of what we may need (`linux/capability.h`).
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (12, "CAP_NET_ADMIN", "XDP, what the card stamps, SO_MARK, steering"),
    (13, "CAP_NET_RAW", "AF_XDP sockets"),
    (23, "CAP_SYS_NICE", "SCHED_FIFO for exact slots"),
    (38, "CAP_PERFMON", "BPF programs that read the kernel's own structures"),
    (39, "CAP_BPF", "loading BPF programs"),
];

/// All of it.
pub(crate) fn checks() -> Vec<Check> {
    let mut checks = vec![kernel(KernelVersion::running())];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective(&status) {
        Some(held) => checks.extend(CAPABILITIES.map(|capability| capability_held(held, capability))),
        None => checks.push(Check::cannot_tell("capabilities", "/proc/self/status does not say", "mount /proc")),
    }
    checks.push(clock());
    checks.push(match tai_minus_utc() {
        Ok(offset) if offset.as_nanos() == 0 => Check::no(
            "TAI offset",
            "the kernel was not told that TAI and UTC differ: XDP's clock shows UTC, which is taken into account",
            "chrony with `leapsectz right/UTC`",
        ),
        Ok(offset) => Check::yes("TAI offset", format!("{} s", offset.as_nanos() / 1_000_000_000)),
        Err(error) => Check::cannot_tell("TAI offset", error.to_string(), "allow adjtimex"),
    });
    checks
}

fn kernel(version: KernelVersion) -> Check {
    let KernelVersion(major, minor) = version;
    let seen = format!("Linux {major}.{minor}");
    match version {
        KernelVersion(0, 0) => Check::cannot_tell("kernel", "/proc/sys/kernel/osrelease does not say", "mount /proc"),
        _ if version < OLDEST => Check::no("kernel", seen, "Linux 6.1 or later for XDP; sockets work"),
        _ => Check::yes("kernel", seen),
    }
}

fn capability_held(held: u64, (number, name, used_for): (u32, &str, &str)) -> Check {
    // CAP_SYS_ADMIN holds what CAP_PERFMON and CAP_BPF were split from.
    let admin = number >= 38 && held & (1 << 21) != 0;
    if held & (1 << number) != 0 || admin {
        Check::yes(name, used_for)
    } else {
        // All of them: setcap replaces what a file had.
        let all = CAPABILITIES.map(|(_, name, _)| name.to_lowercase()).join(",");
        let remedy = format!("run as root, or `setcap {all}+ep` on the pathlab binary");
        Check::no(name, format!("not held; needed for {used_for}"), remedy)
    }
}

/// `CapEff` of `/proc/self/status`.
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

fn clock() -> Check {
    match ClockQuality::measure() {
        Ok(clock) if clock.synchronised => {
            Check::yes("clock synchronised", format!("within {}", crate::report::span(clock.max_error)))
        }
        Ok(_) => Check::no(
            "clock synchronised",
            "no daemon holds the kernel's clock to a reference: one-way delays are unknown, round trips are not",
            "chrony, or ptp4l with phc2sys",
        ),
        Err(error) => Check::cannot_tell("clock synchronised", error.to_string(), "allow adjtimex"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Answer, *};

    #[test]
    fn capabilities_are_read_bit_by_bit() {
        let status = "Name:\tpathlab\nCapEff:\t0000000000003000\n";
        let held = effective(status).expect("as the kernel writes it");
        let answers = CAPABILITIES.map(|capability| capability_held(held, capability).answer);
        assert_eq!(answers, [Answer::Yes, Answer::Yes, Answer::No, Answer::No, Answer::No]);
        for capability in [CAPABILITIES[3], CAPABILITIES[4]] {
            assert_eq!(capability_held(1 << 21, capability).answer, Answer::Yes, "CAP_SYS_ADMIN");
        }
        let remedies = CAPABILITIES.map(|capability| capability_held(0, capability).remedy.expect("one"));
        assert!(remedies.iter().all(|remedy| *remedy == remedies[0]), "one command for all");
        assert!(remedies[0].contains("setcap cap_net_admin,cap_net_raw,cap_sys_nice,cap_perfmon,cap_bpf+ep"));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn old_kernels_are_named() {
        assert_eq!(kernel(KernelVersion(5, 15)).answer, Answer::No);
        assert_eq!(kernel(KernelVersion(6, 1)).answer, Answer::Yes);
        assert_eq!(kernel(KernelVersion(0, 0)).answer, Answer::CannotTell);
    }
}
