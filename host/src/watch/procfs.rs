//! What procfs counts of UDP, for anybody who may read it: the protocol's counters, and each socket's own drops.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::Serialize;

/// A socket that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Octets that wait, the kernel's own overhead included.
    pub(crate) waiting: u64,
    /// Datagrams for which there was no room, since the socket was opened.
    pub(crate) drops: u64,
}

/// A UDP socket's receive queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketQueue {
    /// What the socket is bound to; sockets that share it are one.
    pub socket: SocketAddr,
    /// Octets that wait now, the kernel's own overhead included.
    pub waiting: u64,
    /// Datagrams for which there was no room in the window.
    pub drops: u64,
}

/// The UDP counters of `/proc/net/snmp` and `snmp6`, called as nstat(8) does: `UdpInDatagrams`, `Udp6RcvbufErrors`.
pub(crate) fn udp_counters(snmp: &str, snmp6: &str) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    if let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        counters.extend(pairs.filter_map(|(name, value)| Some((format!("Udp{name}"), value.parse().ok()?))));
    }
    let lines = snmp6.lines().filter(|line| line.starts_with("Udp6"));
    counters.extend(lines.filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    }));
    counters
}

/// `/proc/net/udp` or `udp6`: the sockets by what they are bound to. Lines that are not understood are left out.
pub(crate) fn udp_sockets(text: &str) -> BTreeMap<SocketAddr, Queue> {
    let mut sockets = BTreeMap::<SocketAddr, Queue>::new();
    for line in text.lines().skip(1) {
        let Some((local, waiting, drops)) = udp_socket(line) else { continue };
        let queue = sockets.entry(local).or_default();
        queue.waiting += waiting;
        queue.drops += drops;
    }
    sockets
}

fn udp_socket(line: &str) -> Option<(SocketAddr, u64, u64)> {
    // sl local remote st tx_queue:rx_queue tr:when retrnsmt uid timeout inode ref pointer drops
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, waiting) = fields.get(4)?.split_once(':')?;
    Some((address(fields.get(1)?)?, u64::from_str_radix(waiting, 16).ok()?, fields.get(12)?.parse().ok()?))
}

/// Words in the order of this machine's octets, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match words.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let octets = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counters_have_nstats_names() {
        let snmp = "Tcp: RtoAlgorithm\nTcp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 12 3 4\nUdpLite: InDatagrams\nUdpLite: 9\n";
        let snmp6 = "Ip6InReceives                   \t5\nUdp6InDatagrams                 \t7\n";
        let told = udp_counters(snmp, snmp6);
        let wanted = [("Udp6InDatagrams", 7), ("UdpInDatagrams", 12), ("UdpNoPorts", 3), ("UdpRcvbufErrors", 4)];
        assert_eq!(told, wanted.map(|(name, value)| (name.to_owned(), value)).into());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_that_share_an_address_are_one() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 42: 0100007F:6987 00000000:0000 07 00000000:00034A80 00:00000000 00000000     0        0 4242 2 0000000000000000 17\n\
            \x20 43: 0100007F:6987 00000000:0000 07 00000000:00000100 00:00000000 00000000     0        0 4243 2 0000000000000000 5\n\
            \x20 44: broken\n";
        let sockets = udp_sockets(text);
        assert_eq!(sockets, [("127.0.0.1:27015".parse().unwrap(), Queue { waiting: 0x34b80, drops: 22 })].into());
        let six = address("B80D0120000000000000000001000000:0035").unwrap();
        assert_eq!(six, "[2001:db8::1]:53".parse().unwrap());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_left_out(text: String) {
            let _ = (udp_counters(&text, &text), udp_sockets(&text), address(&text));
        }
    }
}
