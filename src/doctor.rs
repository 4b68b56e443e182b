//! `pathlab doctor`: what works on this host, what does not, and what to do about it; stamps are proven by packets, not by promises.

mod check;
mod host;
mod port;
mod proof;
mod veth;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use pathlab_xdp::nic::{self, NicFacts};
use serde::Serialize;

pub(crate) use self::{
    check::{Answer, Check},
    port::Port,
};
use crate::{
    Global,
    exit::{Exit, Misuse},
    output, probe, report,
};

/// Say what works here, what does not, and what to do about it; real packets prove the timestamps
#[derive(Args)]
pub(crate) struct Doctor {
    /// Examine this interface closely: an XDP program and an AF_XDP socket are put on it and taken off again, which on some cards
    /// resets the queues for a moment. All interfaces briefly, without touching them, if not given
    #[arg(long, value_name = "IF")]
    iface: Option<String>,
    /// A Session-Reflector behind the interface, to which a few test packets are sent to see which stamps arrive
    #[arg(long, value_name = "ADDR[:PORT]", requires = "iface")]
    target: Option<String>,
}

/// Everything that was found out.
#[derive(Serialize)]
pub(crate) struct Examination {
    /// Kernel, rights, clocks.
    pub(crate) host: Vec<Check>,
    /// Datagrams through the loopback interface.
    pub(crate) loopback: Vec<Check>,
    /// Every datapath across a veth in namespaces made for it and removed again.
    pub(crate) veth: Vec<Check>,
    /// The ports.
    pub(crate) ports: Vec<Port>,
}

/// Examines and tells. It is no failure that something does not work here.
pub(crate) fn run(args: &Doctor, global: &Global) -> Result<Exit> {
    let target: Option<SocketAddr> = args.target.as_deref().map(probe::target).transpose()?;
    let ports = match &args.iface {
        Some(name) => {
            NicFacts::read(name).map_err(|error| Misuse(format!("interface {name}: {error}; see `ip link`")))?;
            vec![Port::examine(name, true, target)]
        }
        None => nic::interfaces()?.iter().map(|name| Port::examine(name, false, None)).collect(),
    };
    let examination = Examination { host: host::checks(), loopback: proof::loopback(), veth: veth::checks(), ports };
    if global.json {
        output::json("doctor", &examination)?;
    } else {
        out!("{}", report::doctor::text(&examination));
    }
    Ok(Exit::Done)
}
