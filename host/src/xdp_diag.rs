//! AF_XDP sockets of all processes with their losses, over sock_diag: what `ip -s link` never shows.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use pathlab_guard::genetlink::{attributes, messages};

use crate::port::{XdpSocket, XdpStatistics};

/// linux/sock_diag.h, linux/xdp_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SHOW_INFO_RINGS_UMEM_STATISTICS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 4;
const INFO: u16 = 1;
const RX_RING: u16 = 3;
const UMEM: u16 = 5;
const FILL_RING: u16 = 6;
const STATISTICS: u16 = 9;
/// `XDP_DU_F_ZEROCOPY`
const ZERO_COPY: u32 = 1;

/// Every AF_XDP socket of this network namespace. A kernel without `CONFIG_XDP_SOCKETS_DIAG` answers `ENOENT`.
pub(crate) fn sockets() -> io::Result<Vec<XdpSocket>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // nlmsghdr; struct xdp_diag_req: family, protocol, pad, inode, show, cookie[2]
    let mut request = Vec::with_capacity(36);
    request.extend(36_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_XDP as u8, 0, 0, 0]);
    request.extend([0; 4]);
    request.extend(SHOW_INFO_RINGS_UMEM_STATISTICS.to_ne_bytes());
    request.extend([0; 8]);
    socket.send(&request, 0)?;
    let mut sockets = Vec::new();
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
        if take(&buffer, &mut sockets)? {
            return Ok(sockets);
        }
    }
}

/// Adds the sockets of one datagram; whether it was the last.
fn take(datagram: &[u8], sockets: &mut Vec<XdpSocket>) -> io::Result<bool> {
    for (kind, payload, _) in messages(datagram) {
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            // struct xdp_diag_msg is 16 octets
            _ => sockets.push(read(payload.get(16..).unwrap_or_default())),
        }
    }
    Ok(false)
}

fn read(answer: &[u8]) -> XdpSocket {
    let word = |payload: &[u8], at: usize| {
        payload.get(at * 4..).and_then(<[u8]>::first_chunk).map(|word| u32::from_ne_bytes(*word))
    };
    let wide = |payload: &[u8], at: usize| {
        payload.get(at * 8..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_ne_bytes(*word))
    };
    let mut socket = XdpSocket::default();
    for (kind, payload) in attributes(answer) {
        match kind {
            INFO => {
                (socket.ifindex, socket.queue) =
                    (word(payload, 0).unwrap_or_default(), word(payload, 1).unwrap_or_default());
            }
            RX_RING => socket.rx_ring = word(payload, 0),
            FILL_RING => socket.fill_ring = word(payload, 0),
            // struct xdp_diag_umem: size (64 bits), id, num_pages, chunk_size, headroom, ifindex, queue_id, flags, refs
            UMEM => socket.zero_copy = word(payload, 8).map(|flags| flags & ZERO_COPY != 0),
            // struct xdp_diag_stats
            STATISTICS => {
                socket.statistics = Some(XdpStatistics {
                    rx_dropped: wide(payload, 0),
                    rx_ring_full: wide(payload, 2),
                    rx_fill_ring_empty: wide(payload, 3),
                });
            }
            _ => {}
        }
    }
    socket
}

/// For the fuzz target: a dump of any octets has no more sockets than headers.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_octets(octets: &[u8]) {
    let mut sockets = Vec::new();
    let _ = take(octets, &mut sockets);
    assert!(sockets.len() <= octets.len() / 16, "{} sockets of {} octets", sockets.len(), octets.len());
    read(octets);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(octets: Vec<u8>) {
            super::any_octets(&octets);
        }
    }
}
