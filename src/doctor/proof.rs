//! Real datagrams through sockets, and which stamps of them arrived.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use pathlab_reflector::{
    clock::{ClockQuality, realtime_now},
    datapath::{SentStamp, SocketOptions, StampedSocket},
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket},
};
use zerocopy::IntoBytes;

use super::Check;

/// Packets of one proof.
const PACKETS: u32 = 10;
/// How long their stamps and replies may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the sockets.
const LOOK: Duration = Duration::from_millis(1);

/// Where no packet has a stamp of these planes: what would help.
pub(super) const SCHED: &str = "Linux 3.17 or later, outside of a sandbox that plays the kernel";
pub(super) const SENT: &str = "a driver that calls skb_tx_timestamp; until then plane sched stands in";
pub(super) const RECEIVED: &str = "outside of a sandbox that plays the kernel; until then plane app stands in";

/// How many of [`PACKETS`] had which stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) sent: u32,
    pub(super) sched: u32,
    pub(super) kernel: u32,
    pub(super) nic: u32,
    /// Datagrams that came (back).
    pub(super) received: u32,
    pub(super) received_kernel: u32,
    pub(super) received_nic: u32,
    /// Replies with a Receive Timestamp and a Timestamp of the reflector's.
    pub(super) reflected: u32,
}

/// Through 127.0.0.1 and `::1`, one socket to another: no right is needed, no card is there.
pub(crate) fn loopback() -> Vec<Check> {
    let mut checks = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().expect("an address");
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let seen = (|| {
            let options = SocketOptions { sched_stamps: true, ..SocketOptions::stamped() };
            let mut from = StampedSocket::bind((address, 0).into(), &options)?;
            let mut to = StampedSocket::bind((address, 0).into(), &options)?;
            Ok::<_, pathlab_reflector::Error>(exchange(&mut from, &mut to))
        })();
        match seen {
            Err(error) => {
                let remedy = "ip link set lo up; sysctl net.ipv6.conf.lo.disable_ipv6=0";
                checks.push(Check::cannot_tell(format!("{family} over loopback"), error.to_string(), remedy));
            }
            Ok(seen) if seen.received == 0 => {
                checks.push(Check::no(format!("{family} over loopback"), "no datagram came", "ip link set lo up"));
            }
            Ok(seen) => checks.extend([
                stamps(format!("{family} send, plane sched"), seen.sched, seen.sent, SCHED),
                stamps(format!("{family} send, plane kernel"), seen.kernel, seen.sent, SENT),
                stamps(format!("{family} receive, plane kernel"), seen.received_kernel, seen.received, RECEIVED),
            ]),
        }
    }
    checks
}

/// How many stamps arrived, as an answer.
pub(super) fn stamps(what: impl Into<String>, stamped: u32, of: u32, remedy: &str) -> Check {
    match stamped {
        0 => Check::no(what, format!("0 of {of} packets"), remedy),
        all if all == of => Check::yes(what, format!("{all} of {of} packets")),
        some => Check::yes(what, format!("{some} of {of} packets; the others go without, which samples say")),
    }
}

/// Packets one after the other; each waits for its stamps. What comes late is not waited for.
fn exchange(from: &mut StampedSocket, to: &mut StampedSocket) -> Seen {
    let mut seen = Seen::default();
    let target = to.local_addr();
    // Receive stamping is switched on for the whole host by a deferred job: datagrams before that arrive without.
    let deadline = Instant::now() + PATIENCE;
    let mut warm = false;
    while !warm && Instant::now() < deadline {
        let _ = from.send(target, None, b"");
        thread::sleep(LOOK);
        let _ = to.receive(|datagram| warm |= datagram.kernel.is_some());
    }
    while to.receive(|_| ()).is_ok_and(|count| count > 0) {}
    while from.sent_stamps(|_, _| ()).is_ok_and(|count| count > 0) {}
    for _ in 0..PACKETS {
        let before = seen;
        seen.sent += u32::from(from.send(target, None, b"pathlab doctor").is_ok());
        let deadline = Instant::now() + PATIENCE / PACKETS;
        while Instant::now() < deadline {
            let _ = from.sent_stamps(|_, stamp| note(&mut seen, stamp));
            let _ = to.receive(|datagram| {
                seen.received += 1;
                seen.received_kernel += u32::from(datagram.kernel.is_some());
            });
            if seen.sched > before.sched && seen.kernel > before.kernel && seen.received > before.received {
                break;
            }
            thread::sleep(LOOK);
        }
    }
    seen
}

fn note(seen: &mut Seen, stamp: SentStamp) {
    match stamp {
        SentStamp::Sched(_) => seen.sched += 1,
        SentStamp::Kernel(_) => seen.kernel += 1,
        SentStamp::Nic(_) => seen.nic += 1,
    }
}

/// STAMP test packets to a reflector, one after the other, so that a card's one register is free for each.
pub(super) fn conversation(target: SocketAddr, options: &SocketOptions) -> Result<Seen, pathlab_reflector::Error> {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let mut socket = StampedSocket::bind((any, 0).into(), options)?;
    let estimate =
        ClockQuality::measure().map_or(ErrorEstimate::from_nanos(u64::MAX, false), ClockQuality::error_estimate);
    let mut seen = Seen::default();
    for sequence in 0..PACKETS {
        let before = seen;
        let packet = SenderPacket::new(sequence, realtime_now().into(), estimate);
        seen.sent += u32::from(socket.send(target, None, packet.as_bytes()).is_ok());
        let deadline = Instant::now() + PATIENCE / PACKETS;
        while Instant::now() < deadline {
            let _ = socket.sent_stamps(|_, stamp| note(&mut seen, stamp));
            let _ = socket.receive(|datagram| {
                seen.received += 1;
                seen.received_kernel += u32::from(datagram.kernel.is_some());
                seen.received_nic += u32::from(datagram.nic.is_some());
                let reply = ReflectedPacket::parse(datagram.payload);
                seen.reflected +=
                    u32::from(reply.is_ok_and(|(reply, _)| reply.received_at().is_some() && reply.sent_at().is_some()));
            });
            let nic = options.nic_transmit_stamps.is_none() || seen.nic > before.nic;
            if nic && seen.kernel > before.kernel && seen.received > before.received {
                break;
            }
            thread::sleep(LOOK);
        }
    }
    Ok(seen)
}
