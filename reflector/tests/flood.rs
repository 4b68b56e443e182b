//! Hostile datagrams at the reflector's port: random, cut short, from its own port, to broadcast. None may crash it, get more than
//! it sent, or go uncounted.

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/running.rs"]
mod running;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use namespace::in_private_namespace;
use pathlab_guard::privilege::root_or_skip;
use pathlab_reflector::{ReflectorConfig, datapath::SocketOptions};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use running::Running;

const PORT: u16 = 862;
const BASE_LEN: usize = 44;

/// The sequence number of the packet that ends the flood; no datagram of the flood has it.
const LAST: u32 = u32::MAX;

#[test]
fn a_million_hostile_datagrams() {
    if root_or_skip("a_million_hostile_datagrams") {
        in_private_namespace(|_| flood(1_000_000));
    }
}

/// What came back for each datagram of the flood.
struct Replies {
    /// Length of each datagram as sent.
    sent: Vec<u16>,
    /// How many replies each has got.
    got: Vec<u8>,
    buffer: Box<[u8]>,
}

impl Replies {
    /// Takes every reply that is there and holds it against its request; true if the one to [`LAST`] was among them.
    fn take(&mut self, socket: &UdpSocket) -> bool {
        let mut last = false;
        while let Some(len) = receive(socket, &mut self.buffer) {
            assert!(len >= BASE_LEN, "a reply of {len} octets");
            let index = u32::from_be_bytes(*self.buffer[24..].first_chunk().expect("a base packet"));
            if index == LAST {
                last = true;
                continue;
            }
            let sent = usize::from(self.sent[index as usize]);
            assert!(sent >= BASE_LEN, "a reply to a datagram of {sent} octets");
            assert!(len <= sent, "{len} octets in reply to {sent}");
            self.got[index as usize] += 1;
            assert_eq!(self.got[index as usize], 1, "a second reply to datagram {index}");
        }
        last
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    match socket.recv(buffer) {
        Ok(len) => Some(len),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("recv: {error}"),
    }
}

/// Random octets of any length up to 1500, most of them near the limit of 44; the number of the datagram in front.
fn hostile<'a>(buffer: &'a mut [u8; 1500], index: u32, random: &mut ChaCha8Rng) -> &'a [u8] {
    let len = match random.random_range(0..10) {
        0..4 => random.random_range(0..BASE_LEN),
        4..8 => random.random_range(BASE_LEN..BASE_LEN + 60),
        8 => BASE_LEN,
        _ => random.random_range(0..=1500),
    };
    let datagram = &mut buffer[..len];
    random.fill_bytes(datagram);
    let number = index.to_be_bytes();
    let cut = len.min(number.len());
    datagram[..cut].copy_from_slice(&number[..cut]);
    datagram
}

fn flood(count: u32) {
    let unicast = SocketAddr::from(([127, 0, 0, 1], PORT));
    let broadcast = SocketAddr::from(([127, 255, 255, 255], PORT));
    let running = Running::start(ReflectorConfig {
        listen: vec![unicast, broadcast],
        socket: SocketOptions::stamped(),
        ..ReflectorConfig::default()
    });
    assert_eq!(running.addresses, [unicast, broadcast]);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    stranger.set_broadcast(true).expect("SO_BROADCAST");
    stranger.set_nonblocking(true).expect("non-blocking");
    let alike = UdpSocket::bind(("127.0.0.2", PORT)).expect("a free port");
    alike.set_nonblocking(true).expect("non-blocking");

    let mut random = ChaCha8Rng::seed_from_u64(0x5741_4d50);
    let mut replies = Replies { sent: Vec::new(), got: vec![0; count as usize], buffer: vec![0; 65_536].into() };
    let (mut to_broadcast, mut from_alike) = (0_u64, 0_u64);
    let mut buffer = [0; 1500];
    for index in 0..count {
        let datagram = hostile(&mut buffer, index, &mut random);
        replies.sent.push(datagram.len() as u16);
        let long_enough = u64::from(datagram.len() >= BASE_LEN);
        match random.random_range(0..20) {
            0 => {
                stranger.send_to(datagram, broadcast).expect("send");
                to_broadcast += long_enough;
            }
            1 => {
                alike.send_to(datagram, unicast).expect("send");
                from_alike += long_enough;
            }
            _ => {
                stranger.send_to(datagram, unicast).expect("send");
            }
        }
        if index % 64 == 0 {
            replies.take(&stranger);
        }
    }
    let ended = (0..100).find(|_| {
        let mut last = [0; BASE_LEN];
        last[..4].copy_from_slice(&LAST.to_be_bytes());
        stranger.set_nonblocking(true).expect("non-blocking");
        stranger.send_to(&last, unicast).expect("send");
        wait_readable(&stranger) && replies.take(&stranger)
    });
    let lasts = 1 + ended.expect("it still answers after the flood");
    assert_eq!(receive(&alike, &mut buffer), None, "no reply to its own port number");

    let report = running.finish();
    let refused: u64 = report.refused.values().sum();
    assert_eq!(report.received, report.replied + refused + report.kernel_drops);
    assert_eq!(report.received, u64::from(count) + lasts, "nothing went missing before the socket");
    let short = replies.sent.iter().filter(|len| usize::from(**len) < BASE_LEN).count() as u64;
    for (reason, sent) in [("short", short), ("source_port_ours", from_alike), ("destination_group", to_broadcast)] {
        let counted = report.refused[reason];
        assert!(counted <= sent && counted + report.kernel_drops >= sent, "{reason}: {counted} of {sent}");
    }
    assert!(report.replied > 0 && replies.got.contains(&1), "some were test packets");
    eprintln!(
        "{count} datagrams: {} replied, {refused} refused, {} dropped by the kernel",
        report.replied, report.kernel_drops
    );
}

/// Waits for a reply by a blocking peek with a deadline.
fn wait_readable(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(false).expect("blocking");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let readable = socket.peek(&mut [0; 1]).is_ok();
    socket.set_nonblocking(true).expect("non-blocking");
    readable
}
