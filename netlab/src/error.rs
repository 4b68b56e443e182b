//! What can go wrong between a scenario file and a running network, with the facts that tell whose fault it is.

use std::{io, net::IpAddr, path::PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which the lab fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller may not make namespaces.
    #[error("{action} needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN); run it with sudo")]
    Privilege {
        /// What was asked for.
        action: String,
    },
    /// A namespace of that name is there already.
    #[error("network namespace {name} exists already; choose another name or remove it with `ip netns del {name}`")]
    NamespaceExists {
        /// Name under `/run/netns`.
        name: String,
    },
    /// There is no namespace of that name.
    #[error("network namespace {name} does not exist; `ip netns list` shows those that do")]
    NamespaceMissing {
        /// Name under `/run/netns`.
        name: String,
    },
    /// A name that cannot be a file under `/run/netns`.
    #[error(
        "{name:?} cannot name a namespace: use 1 to 200 letters, digits, `.`, `_` or `-`, and begin with a letter or digit"
    )]
    NamespaceName {
        /// The name.
        name: String,
    },
    /// A step on a namespace failed in the kernel.
    #[error("cannot {action} network namespace {name}: {source}")]
    Namespace {
        /// Name under `/run/netns`, or `current`.
        name: String,
        /// Which step: create, enter, remove.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A scenario file says something that cannot be.
    #[error("{file}:{line}: {key}: {problem}")]
    Scenario {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A scenario file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    ScenarioFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No shipped scenario has that name.
    #[error("no scenario {name}; shipped are {shipped}, and a path with a `/` or `.toml` names a file")]
    NoScenario {
        /// The name.
        name: String,
        /// Those that there are.
        shipped: String,
    },
    /// A scenario has no such variant.
    #[error("{file} has no variant {name}; it has {}", or_none(.known))]
    NoVariant {
        /// The scenario's file.
        file: String,
        /// The variant.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A setting that the scenario cannot have.
    #[error("setting {setting:?}: {problem}")]
    Setting {
        /// The setting.
        setting: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A scenario with something that no engine with real packets plays.
    #[error("scenario {scenario}: {what}, which no engine with real packets plays; use `lab run --engine virtual`")]
    BeyondRealPackets {
        /// The scenario.
        scenario: String,
        /// Where it asks for what.
        what: String,
    },
    /// A link that the kernel engine was asked to play, and cannot.
    #[error("{place}: the kernel engine cannot play it: {why}; use --engine wire, or auto")]
    NotByTheKernel {
        /// Node and interface.
        place: String,
        /// What is missing.
        why: String,
    },
    /// The wire engine cannot work.
    #[error("wire engine, interface {interface}: {source}")]
    Wire {
        /// In the router's namespace.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Whether the kernel keeps the rates of a lab cannot be watched.
    #[error("cannot watch the kernel's shapers: {source}")]
    Shapers {
        /// What the kernel said.
        source: io::Error,
    },
    /// AF_XDP is not to be had.
    #[error("{source}")]
    Xdp {
        /// What the kernel said.
        source: Box<pathlab_xdp::Error>,
    },
    /// A lab that needs a process of ours cannot outlive it.
    #[error("lab {id}: {place} is played by the wire engine, which ends with this process: {why}; use `lab run`")]
    Fleeting {
        /// The lab.
        id: String,
        /// Node and interface.
        place: String,
        /// Why the kernel does not play it.
        why: String,
    },
    /// A netlink request was refused.
    #[error("namespace {namespace}: cannot {request}: {source}")]
    Netlink {
        /// The namespace in which the socket was opened.
        namespace: String,
        /// The request in words.
        request: String,
        /// The error number.
        source: io::Error,
    },
    /// There is no such network interface.
    #[error("namespace {namespace}: no interface {interface}")]
    NoInterface {
        /// The namespace.
        namespace: String,
        /// The interface.
        interface: String,
    },
    /// A kernel parameter was refused.
    #[error("namespace {namespace}: cannot set {key} to {value}: {source}")]
    Sysctl {
        /// The namespace.
        namespace: String,
        /// As `sysctl` spells it, such as `net.ipv4.ip_forward`.
        key: String,
        /// What was to be written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An offload setting was refused.
    #[error("namespace {namespace}: cannot turn transmit checksum offload of {interface} off: {source}")]
    Offload {
        /// The namespace.
        namespace: String,
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no such queueing discipline.
    #[error("this kernel has no {kind} qdisc; load module sch_{kind}, or use a kernel built with it")]
    NoQdisc {
        /// Its name for `tc`.
        kind: &'static str,
    },
    /// The kernel's choice among next hops cannot be fixed.
    #[error(
        "this kernel has no net.ipv4.fib_multipath_hash_seed (Linux 6.11), so that flows would take other next hops in every run; use `lab run --engine virtual`"
    )]
    NoHashSeed,
    /// A load's sender cannot be started.
    #[error("cannot send load from node {node} to {to}: {source}")]
    Load {
        /// Where it sends.
        node: String,
        /// Where to.
        to: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A name that cannot be a lab's.
    #[error("{id:?} cannot name a lab: use 1 to 40 letters, digits or `-`, and begin with a letter or digit")]
    LabName {
        /// The name.
        id: String,
    },
    /// A lab of that name is there already.
    #[error("lab {id} is up already; choose another name, or take it down with `pathlab lab down {id}`")]
    LabExists {
        /// The name.
        id: String,
    },
    /// There is no such lab.
    #[error("no lab {id}; `pathlab lab list` shows those that are up")]
    NoLab {
        /// The name.
        id: String,
    },
    /// The lab belongs to a process that still lives.
    #[error("lab {id} is run by process {pid}, which takes it down when it ends; stop that")]
    LabRuns {
        /// The name.
        id: String,
        /// The process.
        pid: u32,
    },
    /// There is no such node.
    #[error("lab {lab} has no node {node}; `pathlab lab list` shows labs with their nodes")]
    NoNode {
        /// The lab.
        lab: String,
        /// The node.
        node: String,
    },
    /// A program cannot be started.
    #[error("cannot start {program}: {source}")]
    Command {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// What was put on the host could not be noted or taken back.
    #[error(transparent)]
    Guard(#[from] pathlab_guard::Error),
}

fn or_none(variants: &str) -> &str {
    if variants.is_empty() { "no variants" } else { variants }
}
