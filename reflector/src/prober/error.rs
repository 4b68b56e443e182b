//! What can go wrong for a probe, in sentences that say whose fault it is and what to do.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use pathlab_xdp::pacing::ClaimError;

/// Why a probe did not run, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The sessions file cannot be read.
    #[error("sessions file {}: cannot be read", path.display())]
    SessionsUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the sessions file is wrong.
    #[error("{file}:{line}: {what}")]
    SessionLine {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The field and what is wrong with it.
        what: String,
    },
    /// A session that the options describe is wrong.
    #[error("{what}")]
    Session {
        /// The field and what is wrong with it.
        what: String,
    },
    /// No session, or more than the limit.
    #[error("{sessions} sessions asked for, possible are 1 to {limit}")]
    SessionCount {
        /// How many were asked for.
        sessions: usize,
        /// The most.
        limit: usize,
    },
    /// Source prefixes were given, but none of this target's family.
    #[error("target {target}: no source prefix of its address family was given, add one with --source")]
    NoSourceOfFamily {
        /// The target.
        target: SocketAddr,
    },
    /// The source ports run out.
    #[error(
        "{sessions} sessions do not fit into the ports from {first} up, lower the source port or widen the source prefix"
    )]
    NoPortLeft {
        /// The first source port.
        first: u16,
        /// Sessions asked for, to one target.
        sessions: usize,
    },
    /// An option is out of its range.
    #[error("{option} {value}: {limit}")]
    Option {
        /// The option, as the command line spells it.
        option: &'static str,
        /// What was asked for.
        value: String,
        /// What is possible.
        limit: String,
    },
    /// A source is not an address of this host.
    #[error("source {address}: not an address of this host; `ip -brief address` lists them")]
    NoSuchSource {
        /// The address.
        address: IpAddr,
    },
    /// A socket could not be opened.
    #[error(transparent)]
    Socket(#[from] crate::Error),
    /// Nothing at all came back.
    #[error("nothing came back from {target}{more}: {why}")]
    Unreachable {
        /// The first target, as an example.
        target: SocketAddr,
        /// ` and 3 other targets`, or nothing.
        more: String,
        /// What the host or the network said, and what to check.
        why: String,
    },
    /// A system call of the event loop failed.
    #[error("probe: {call} failed")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl From<ClaimError> for ProbeError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Cpu { cpu, allowed } => Self::Option {
                option: "--cpu",
                value: cpu.to_string(),
                limit: format!("this process may run on {allowed:?}"),
            },
            ClaimError::RealTime(source) => Self::Option {
                option: "--class",
                value: "fifo".into(),
                limit: format!("{source}; give CAP_SYS_NICE, or raise RLIMIT_RTPRIO to 1"),
            },
            ClaimError::System { call, source } => Self::System { call, source },
        }
    }
}
