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
    /// The canary path is the way of all clients already.
    #[error(
        "the canary path was promoted (ip {family} routing table {table}): `pathlab canary rollback` takes that back"
    )]
    Promoted {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
        /// The table.
        table: u32,
    },
    /// A packet filter of somebody else that compares or changes our bits of the mark.
    #[error(
        "chain {chain} of table {table} uses the bits {bits:#010x} of the mark, which overlap mark_mask = {:#010x}: choose \
         other bits, or have that rule keep to its own",
        .ours.0
    )]
    FilterUsesMark {
        /// Their table.
        table: String,
        /// Their chain.
        chain: String,
        /// The bits that they compare or change.
        bits: u32,
        /// Our mask.
        ours: Mask,
    },
    /// Clients of a family are reached, but no canary path of that family was given.
    #[error(
        "this host has ip {family} routes to clients, but steer.canary has no path of that family: give it one, or leave \
         those clients out with `exclude = [\"{}\"]`",
        everything(*.family)
    )]
    NoPath {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
    },
    /// Packets that pass the control path are too long for the canary path.
    #[error(
        "the canary path carries {mtu} bytes (ip {family}, {dev}), the control path {control_mtu} ({control}): make them \
         alike, or write steer.largest_packet if the server never sends that much"
    )]
    MtuDiffers {
        /// `-4` or `-6`.
        family: pathlab_guard::Family,
        /// The canary device.
        dev: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The control device.
        control: String,
        /// The MTU of its route in bytes.
        control_mtu: u32,
    },
    /// The server's packets would leave by the canary path with an address of the control path's provider.
    #[error(
        "packets from {source_address} (an address of {control}) would leave by {dev}, whose provider drops sources that \
         are not its own (BCP 38): bind the server to an address that both accept, or name it in steer.accepted_sources"
    )]
    WrongSource {
        /// The source address.
        source_address: IpAddr,
        /// The canary device.
        dev: String,
        /// The control device.
        control: String,
    },
    /// The canary device is a tunnel that gives its own packets the mark of those inside.
    #[error(
        "{dev} is a tunnel whose own packets to {remote} keep the mark and would go into it again, all of them lost: \
         `ip {family} rule add to {remote} lookup main priority {priority}`",
        family = pathlab_guard::Family::of(*.remote)
    )]
    TunnelIntoItself {
        /// The canary device.
        dev: String,
        /// Its other end.
        remote: IpAddr,
        /// Before ours.
        priority: u32,
    },
    /// Strict reverse path filtering on the canary device.
    #[error(
        "rp_filter is strict on {dev}: packets and ICMP errors that come in by the canary path would be dropped: \
         `sysctl -w net.ipv4.conf.{dev}.rp_filter=2`"
    )]
    StrictReversePath {
        /// The canary device.
        dev: String,
    },
    /// Strict reverse path filtering that takes our mark into account.
    #[error(
        "rp_filter is strict on {dev} and src_valid_mark is set: what comes in there with the mark of the canary would be \
         dropped: `sysctl -w net.ipv4.conf.{dev}.rp_filter=2`"
    )]
    MarkCountsForSource {
        /// The device.
        dev: String,
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
    /// The wrong-arm proof.
    #[error("the wrong-arm proof: cannot {what}: {source}")]
    Proof {
        /// What was tried.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The watching of sessions.
    #[error("the watching of sessions: cannot {what}: {source}")]
    Passive {
        /// What was tried.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
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
    /// The steerer has the control socket but does not answer: it is stopped or hangs.
    #[error(
        "the steerer of `{name}` (pid {pid}) does not answer: it no longer renews the lease, and sessions go back to control when that runs \
         out; `pathlab canary rollback` kills it"
    )]
    Silent {
        /// The experiment.
        name: String,
        /// Its process.
        pid: u32,
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

fn everything(family: pathlab_guard::Family) -> &'static str {
    match family {
        pathlab_guard::Family::V4 => "0.0.0.0/0",
        pathlab_guard::Family::V6 => "::/0",
    }
}

impl From<super::nfnetlink::Refused> for Error {
    fn from(refused: super::nfnetlink::Refused) -> Self {
        Self::Nft { what: refused.what, source: refused.source }
    }
}
