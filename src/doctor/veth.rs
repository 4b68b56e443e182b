//! What this kernel's datapaths can do, shown on a veth in two namespaces made for it: no port of the host is touched.

use std::{ffi::OsStr, net::SocketAddr, process, sync::mpsc, thread};

use anyhow::{Context, Result};
use pathlab_guard::{Guardian, Journal, Object, privilege};
use pathlab_netlab::{
    link::{self, End},
    netlink::Netlink,
    netns::Namespace,
};
use pathlab_record::Plane;
use pathlab_reflector::{
    ReflectorReport, Stop,
    datapath::{AfXdpConfig, AfXdpReflector, SocketOptions},
};
use pathlab_xdp::{
    XdpMode, XdpPass,
    xsk::{CopyMode, XskOptions},
};

use super::{
    Check,
    proof::{self, Seen, stamps},
};
use crate::guardian;

const PORT: u16 = 862;
const REFLECTOR: &str = "192.0.2.1";
const PROBE: &str = "192.0.2.2";
const INTERFACE: &str = "veth0";

/// Each datapath past the stack, in each mode, with what arrived.
pub(crate) fn checks() -> Vec<Check> {
    if !privilege::is_root() {
        let why = "namespaces and XDP programs need root";
        return vec![Check::cannot_tell("XDP and AF_XDP on a veth", why, "sudo pathlab doctor")];
    }
    let made = Veth::make();
    let veth = match &made {
        Ok(veth) => veth,
        Err(error) => {
            let remedy = "a kernel with CONFIG_VETH and CONFIG_NET_NS, and rights beyond a container's";
            return vec![Check::cannot_tell("XDP and AF_XDP on a veth", format!("{error:#}"), remedy)];
        }
    };
    let mut checks = Vec::new();
    for (mode, hybrid) in [(XdpMode::Native, false), (XdpMode::Generic, false), (XdpMode::Native, true)] {
        let name = match (mode, hybrid) {
            (_, true) => "XDP_TX",
            (XdpMode::Native, _) => "AF_XDP over native XDP",
            _ => "AF_XDP over generic XDP",
        };
        match veth.converse(mode, hybrid) {
            Err(error) => {
                let remedy = "Linux 6.1 or later with CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL";
                checks.push(Check::no(format!("{name}, veth"), format!("{error:#}"), remedy));
            }
            Ok((seen, _)) if seen.received == 0 => {
                let remedy = "report this with the kernel's version: a veth on its own should answer";
                checks.push(Check::no(format!("{name}, veth"), "no reply came", remedy));
            }
            Ok((seen, report)) => {
                checks.push(Check::yes(
                    format!("{name}, veth"),
                    format!("{} of {} requests answered", seen.received, seen.sent),
                ));
                if !hybrid {
                    let of = |planes: &std::collections::BTreeMap<Plane, u64>, plane| {
                        u32::try_from(planes.get(&plane).copied().unwrap_or(0)).unwrap_or(u32::MAX)
                    };
                    checks.push(stamps(
                        format!("{name}, receive, plane xdp"),
                        of(&report.received_on, Plane::Xdp),
                        seen.received,
                        proof::RECEIVED,
                    ));
                    checks.push(stamps(
                        format!("{name}, send, plane kernel (completion)"),
                        of(&report.sent_on, Plane::Kernel),
                        seen.received,
                        "Linux 6.8 or later",
                    ));
                }
            }
        }
    }
    checks.push(Check::no(
        "plane nic, veth",
        "a veth has no card: its stamps end at the driver, and the wire's share holds what a card would part",
        "a card in the table of drivers: pathlab doctor --iface IF",
    ));
    checks
}

/// Two namespaces with a veth between them, noted in an undo journal; gone when dropped, and after kill -9.
struct Veth {
    // Fields drop in order: the names go, then the journal finds nothing left, then the guardian is let go.
    reflector: Namespace,
    probe: Namespace,
    _undo: Journal,
    _guardian: Guardian,
}

impl Veth {
    fn make() -> Result<Self> {
        let names = ["r", "p"].map(|end| format!("pathlab-doctor-{}-{end}", process::id()));
        let mut undo = Journal::create("doctor", &process::id().to_string())?;
        let verb = guardian::verb();
        let guardian = Guardian::spawn(&undo, verb.iter().map(|word| -> &OsStr { word }))?;
        undo.record_all(names.iter().map(|name| Object::Netns { name: name.clone() }))?;
        let [reflector, probe] = [Namespace::create(&names[0])?, Namespace::create(&names[1])?];
        let end = |namespace| End { namespace, interface: INTERFACE, mac: None };
        link::veth(end(&reflector), end(&probe), 1500)?;
        for (namespace, address) in [(&reflector, REFLECTOR), (&probe, PROBE)] {
            let address = format!("{address}/24").parse().expect("an address with a length");
            Netlink::open(namespace)?.add_address(INTERFACE, address)?;
        }
        Ok(Self { reflector, probe, _undo: undo, _guardian: guardian })
    }

    /// A reflector on one end, test packets from the other.
    fn converse(&self, mode: XdpMode, hybrid: bool) -> Result<(Seen, ReflectorReport)> {
        let stop = Stop::new()?;
        let (ready, wait) = mpsc::channel();
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                self.reflector.run(|| -> Result<ReflectorReport> {
                    let xsk = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
                    let config = AfXdpConfig { mode, hybrid, xsk, pin: false, ..AfXdpConfig::new(PORT) };
                    // The channel's other end closes when this thread ends, ready or not.
                    let ready = ready;
                    let mut reflector = AfXdpReflector::attach(INTERFACE, &config)?;
                    let _ = ready.send(());
                    reflector.run(&stop)?;
                    Ok(reflector.report()?)
                })?
            });
            let seen = if wait.recv().is_ok() {
                self.probe.run(|| -> Result<Seen> {
                    // What comes by XDP_TX reaches a veth's end only if that has a program, too.
                    let _pass = XdpPass::attach(INTERFACE, XdpMode::Native)?;
                    let target: SocketAddr = (REFLECTOR.parse::<std::net::IpAddr>()?, PORT).into();
                    Ok(proof::conversation(target, &SocketOptions::stamped())?)
                })
            } else {
                Ok(Ok(Seen::default()))
            };
            stop.request();
            let report = serving.join().ok().context("the reflector's thread ended in a panic")??;
            Ok((seen??, report))
        })
    }
}
