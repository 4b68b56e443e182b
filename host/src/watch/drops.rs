//! Packets that the kernel gave up, by its own reason and interface, and the UDP sockets that had no room: what `bpf/drops.bpf.c` counts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use aya::Btf;
use serde::Serialize;

use super::{
    Result,
    btf::Types,
    object::{Filter, Object},
    reading::{Names, since},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drops.bpf.o"));
const PROGRAMS: [(&str, &str); 2] = [("dropped", "kfree_skb"), ("refused", "udp_fail_queue_rcv_skb")];
const PREFIX: &str = "SKB_DROP_REASON_";
/// include/net/dropreason.h: above these bits stands whose reasons they are; 0 is the network stack itself.
const SUBSYSTEM_SHIFT: u32 = 16;

/// The counting programs, and the kernel's names of its reasons.
#[derive(Debug)]
pub(crate) struct Drops {
    object: Object,
    reasons: BTreeMap<u32, String>,
}

/// Packets by reason and interface, refusals by socket, and what could not be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DropCounts {
    by_reason: BTreeMap<(String, Option<String>), u64>,
    by_socket: BTreeMap<SocketAddr, [u64; 2]>,
    unplaced: u64,
    uncounted: u64,
}

/// Drops in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DropReport {
    /// By reason and interface, the most first.
    pub reasons: Vec<Dropped>,
    /// Datagrams that had no room, by the socket's own address, the most first.
    pub sockets: Vec<Refused>,
    /// Packets of any namespace that belonged to no device and no socket any more.
    pub unplaced: u64,
    /// Packets whose reason or socket is not told for want of room.
    pub uncounted: u64,
}

/// Packets given up for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dropped {
    /// The kernel's name, without `SKB_DROP_REASON_`.
    pub reason: String,
    /// Where they were, or came from; absent for what was on none.
    pub interface: Option<String>,
    /// How many; one that stands for several segments (GSO, GRO) counts once.
    pub packets: u64,
}

/// Datagrams that a socket had no room for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// What the socket is bound to.
    pub socket: SocketAddr,
    /// Over its own receive buffer.
    pub buffer_full: u64,
    /// Over the memory that all UDP sockets may have (`net.ipv4.udp_mem`).
    pub memory_full: u64,
}

impl Drops {
    pub(crate) fn attach(types: &Types<'_>, btf: &Btf, filter: &Filter) -> Result<Self> {
        let reasons = types.values("skb_drop_reason").unwrap_or_default();
        let number = |name: &str| {
            let wanted = format!("{PREFIX}{name}");
            reasons.iter().find(|(_, name)| **name == wanted).map_or(0, |(number, _)| *number)
        };
        let constants = [
            ("HAS_RX_SK", u32::from(types.arguments("kfree_skb") >= Some(4))),
            ("SOCKET_RCVBUFF", number("SOCKET_RCVBUFF")),
            ("PROTO_MEM", number("PROTO_MEM")),
        ];
        Ok(Self { object: Object::attach(OBJECT, &PROGRAMS, btf, filter, &constants)?, reasons })
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn read(&self, names: &Names) -> Result<DropCounts> {
        let [unplaced, uncounted] = self.object.counters("DROPS_COUNTED")?;
        let mut counts = DropCounts { unplaced, uncounted, ..DropCounts::default() };
        for (key, parts) in self.object.parts::<8, 1>("DROPS")? {
            let [reason, interface] = [0, 4].map(|at| u32::from_ne_bytes(key[at..at + 4].try_into().expect("four")));
            let key = (reason_name(reason, &self.reasons), names.of(interface));
            *counts.by_reason.entry(key).or_default() += parts.iter().map(|[count]| count).sum::<u64>();
        }
        for (key, parts) in self.object.parts::<20, 2>("RECEIVERS")? {
            counts.by_socket.insert(socket(&key), [0, 1].map(|at| parts.iter().map(|part| part[at]).sum()));
        }
        Ok(counts)
    }
}

fn reason_name(reason: u32, names: &BTreeMap<u32, String>) -> String {
    match names.get(&reason) {
        Some(name) => name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
        None => format!("{}:{}", reason >> SUBSYSTEM_SHIFT, reason & ((1 << SUBSYSTEM_SHIFT) - 1)),
    }
}

/// `struct receiver`.
fn socket(key: &[u8; 20]) -> SocketAddr {
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(&key[..16]).expect("sixteen"));
    let port = u16::from_ne_bytes([key[16], key[17]]);
    SocketAddr::new(IpAddr::V6(address).to_canonical(), port)
}

impl DropCounts {
    pub(crate) fn since(&self, earlier: &Self) -> DropReport {
        let mut reasons: Vec<Dropped> = since(&self.by_reason, &earlier.by_reason)
            .map(|((reason, interface), packets)| Dropped { reason, interface, packets })
            .collect();
        reasons.sort_by_key(|dropped| std::cmp::Reverse(dropped.packets));
        let mut sockets: Vec<Refused> = self
            .by_socket
            .iter()
            .map(|(socket, now)| {
                let before = earlier.by_socket.get(socket).copied().unwrap_or_default();
                let [buffer_full, memory_full] = [0, 1].map(|at| now[at].saturating_sub(before[at]));
                Refused { socket: *socket, buffer_full, memory_full }
            })
            .filter(|refused| refused.buffer_full + refused.memory_full > 0)
            .collect();
        sockets.sort_by_key(|refused| std::cmp::Reverse(refused.buffer_full + refused.memory_full));
        DropReport {
            reasons,
            sockets,
            unplaced: self.unplaced.saturating_sub(earlier.unplaced),
            uncounted: self.uncounted.saturating_sub(earlier.uncounted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_kernels_name_or_its_numbers() {
        let names = [(6, "SKB_DROP_REASON_SOCKET_RCVBUFF".to_owned()), (1, "SKB_CONSUMED".to_owned())].into();
        let told = [6, 1, 200, 3 << 16 | 5].map(|reason| reason_name(reason, &names));
        assert_eq!(told, ["SOCKET_RCVBUFF", "SKB_CONSUMED", "0:200", "3:5"]);
    }

    #[test]
    fn a_socket_of_ipv4_has_an_ipv4_address() {
        let mut key = [0; 20];
        key[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        key[16..18].copy_from_slice(&27_015_u16.to_ne_bytes());
        assert_eq!(socket(&key).to_string(), "192.0.2.1:27015");
        key[..16].fill(0);
        assert_eq!(socket(&key).to_string(), "[::]:27015");
    }

    #[test]
    fn a_window_has_what_came_in_it_the_most_first() {
        let reason = |name: &str, interface: Option<&str>| (name.to_owned(), interface.map(str::to_owned));
        let local: SocketAddr = "[::]:7".parse().unwrap();
        let earlier = DropCounts {
            by_reason: [(reason("NO_SOCKET", None), 5), (reason("SOCKET_RCVBUFF", Some("b")), 2)].into(),
            by_socket: [(local, [2, 0])].into(),
            unplaced: 1,
            uncounted: 0,
        };
        let mut now = earlier.clone();
        now.by_reason.insert(reason("SOCKET_RCVBUFF", Some("b")), 12);
        now.by_reason.insert(reason("CPU_BACKLOG", Some("b")), 30);
        now.by_socket.insert(local, [9, 3]);
        now.unplaced = 4;
        let report = now.since(&earlier);
        let told: Vec<(&str, u64)> = report.reasons.iter().map(|drop| (drop.reason.as_str(), drop.packets)).collect();
        assert_eq!(told, [("CPU_BACKLOG", 30), ("SOCKET_RCVBUFF", 10)]);
        assert_eq!(report.sockets, [Refused { socket: local, buffer_full: 7, memory_full: 3 }]);
        assert_eq!((report.unplaced, report.uncounted), (3, 0));
        assert_eq!(now.since(&now), DropReport::default());
    }
}
