//! Everything for which steering refuses to start or stops, each with the fact and the next step.

use std::{io, net::IpAddr, path::PathBuf};

use crate::{Mask, Share};

/// Result of steering.
pub type Result<T> = std::result::Result<T, Error>;

/// Why steering did not start, or what failed while it ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of `canary.toml` that cannot be steered by.
    #[error("{key} = {value}: {reason}")]
    Config {
        /// The key, such as `key.length`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would do.
        reason: &'static str,
    },
    /// The seed file is missing or holds no seed.
    #[error("seed file {path}: {reason}: write a number up to 4294967295 into it, decimal or 0x hexadecimal")]
    Seed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// More than the experiment allows.
    #[error("a share of {share} is above cap_share = {cap}")]
    AboveCap {
        /// Asked for.
        share: Share,
        /// Allowed.
        cap: Share,
    },
    /// A ramp that would take sessions away from the canary arm.
    #[error(
        "a ramp from {from} to {to} would move canary sessions back to control: roll back, and start again with {to}"
    )]
    RampDown {
        /// The share now.
        from: Share,
        /// Asked for.
        to: Share,
    },
    /// The device of the canary path.
    #[error("device {dev} of the canary path does not exist: `ip link` shows those that do")]
    NoDevice {
        /// Its name.
        dev: String,
    },
    /// The device is there but down.
    #[error("device {dev} of the canary path is down: `ip link set {dev} up`")]
    DeviceDown {
        /// Its name.
        dev: String,
    },
    /// The gateway does not answer ARP or neighbour discovery.
    #[error("gateway {via} does not answer on {dev}: the canary path would lose every packet")]
    GatewaySilent {
        /// The gateway.
        via: IpAddr,
        /// The device.
        dev: String,
    },
    /// Another steerer owns the table in this network namespace.
    #[error("experiment `{name}` is steering already in this network namespace: `pathlab canary status` shows it")]
    Running {
        /// What its table says.
        name: String,
    },
    /// A routing rule of somebody else at our priority.
    #[error("an ip {family} rule with priority {priority} exists already: choose another [steer] priority")]
    PriorityTaken {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
        /// The priority.
        priority: u32,
    },
    /// A routing rule of somebody else that looks at our bits of the mark.
    #[error(
        "the ip {family} rule with priority {priority} uses mark {mark:#x}/{mask:#x}, which overlaps mark_mask = {:#x}: \
         choose other bits",
        .ours.0
    )]
    MarkTaken {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
        /// Priority of the other rule.
        priority: u32,
        /// Its mark.
        mark: u32,
        /// Its mask.
        mask: u32,
        /// Our mask.
        ours: Mask,
    },
    /// Routes of somebody else in the table that we would use.
    #[error("ip {family} routing table {table} has routes already: `ip {family} route show table {table}` shows whose")]
    TableTaken {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
        /// The table.
        table: u32,
    },
    /// nf_tables refused.
    #[error("nf_tables refused {what}: {source}")]
    Nft {
        /// The object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A routing question failed.
    #[error("{call}: {source}")]
    Kernel {
        /// What was asked.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The gate was shut by the kernel, because it was not renewed in time.
    #[error("the lease ran out: every session is on control, and stays there until an operator starts again")]
    Lapsed,
    /// The journal, the guardian, a rule or a route.
    #[error(transparent)]
    Guard(#[from] pathlab_guard::Error),
    /// The control socket.
    #[error("control socket {path}: {source}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Nobody listens at the control socket.
    #[error("no steerer of `{name}` is running on this host: `pathlab canary start` starts one")]
    NotRunning {
        /// The experiment.
        name: String,
    },
    /// The steerer said no.
    #[error("{0}")]
    Refused(String),
}

impl From<super::nfnetlink::Refused> for Error {
    fn from(refused: super::nfnetlink::Refused) -> Self {
        Self::Nft { what: refused.what, source: refused.source }
    }
}
