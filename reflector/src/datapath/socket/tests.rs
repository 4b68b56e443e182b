//! The socket against this kernel, over loopback.

use namespace::in_private_namespace;
use pathlab_guard::privilege::{root_or_skip, skip};

use super::*;

#[path = "../../../tests/support/namespace.rs"]
mod namespace;

/// Waits for the descriptor to report something; loopback answers at once, the deadline is for a broken test.
fn wait(socket: &StampedSocket) {
    let mut polled = [sys::Polled::readable(socket)];
    sys::poll(&mut polled, 5000).expect("poll");
    assert!(polled[0].is_ready(), "nothing within five seconds");
}

fn pair(address: &str, options: &SocketOptions, numbering: Numbering) -> (StampedSocket, StampedSocket) {
    let address = address.parse().expect("an address");
    let bind = || StampedSocket::bind_with(address, options, numbering).expect("a free port");
    (bind(), bind())
}

/// The ways of this kernel, ours first.
fn numberings() -> impl Iterator<Item = Numbering> {
    let ours = kernel_takes_stamp_ids(([127, 0, 0, 1], 0).into()).expect("sockets");
    [Numbering::Ours, Numbering::Kernels].into_iter().filter(move |numbering| ours || *numbering == Numbering::Kernels)
}

fn receive_all(socket: &mut StampedSocket, count: usize, mut each: impl FnMut(Datagram<'_>)) {
    let mut seen = 0;
    while seen < count {
        wait(socket);
        seen += socket.receive(&mut each).expect("receive");
    }
    assert_eq!(seen, count);
}

fn stamps_of(socket: &mut StampedSocket, count: usize) -> Vec<(u32, SentStamp)> {
    let mut stamps = Vec::new();
    while stamps.len() < count {
        wait(socket);
        socket.sent_stamps(|id, stamp| stamps.push((id.0, stamp))).expect("error queue");
    }
    stamps
}

#[test]
fn every_datagram_is_stamped_on_every_plane_in_both_families() {
    for numbering in numberings() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = SocketOptions { sched_stamps: true, dscp: Some(46), ..SocketOptions::stamped() };
            let (mut a, mut b) = pair(address, &options, numbering);
            // Receive stamping is turned on for the host by a deferred job: datagrams before that arrive without.
            loop {
                a.send(b.local_addr(), None, b"warm").expect("send");
                let mut stamped = false;
                receive_all(&mut b, 1, |datagram| stamped = datagram.kernel.is_some());
                if stamped {
                    break;
                }
            }
            while a.sent_stamps(|_, _| {}).expect("error queue") > 0 {}

            let before = crate::clock::realtime_now();
            let sent: Vec<_> = (0..100)
                .map(|i: u32| a.send(b.local_addr(), Some(a.local_addr().ip()), &i.to_be_bytes()).expect("send").0)
                .collect();
            let mut next = 0_u32;
            let (from, to) = (a.local_addr(), b.local_addr());
            receive_all(&mut b, 100, |datagram| {
                assert_eq!(datagram.payload, next.to_be_bytes());
                assert_eq!((datagram.peer, datagram.local), (from, Some(to.ip())));
                assert_eq!((datagram.ttl, datagram.traffic_class), (Some(255), Some(46 << 2)));
                assert!(datagram.unicast && datagram.ifindex.is_some());
                let kernel = datagram.kernel.expect("a stamp");
                assert!(before <= kernel && kernel <= datagram.app);
                next += 1;
            });
            let stamps = stamps_of(&mut a, 200);
            for sched in [true, false] {
                let of_plane = stamps.iter().filter_map(|(id, stamp)| match *stamp {
                    SentStamp::Sched(time) if sched => Some((*id, time)),
                    SentStamp::Kernel(time) if !sched => Some((*id, time)),
                    _ => None,
                });
                let (ids, times): (Vec<_>, Vec<_>) = of_plane.unzip();
                assert_eq!(ids, sent, "sched: {sched}, {numbering:?} {address}");
                assert!(times.iter().all(|time| *time >= before));
            }
        }
    }
}

/// The loopback interface has no card: what is asked of one is absent, costs no software stamp, and the one slot stays taken.
#[test]
fn asking_a_card_that_is_not_there_costs_no_other_stamp() {
    for numbering in numberings() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let slots = TransmitSlots::new(Some(1));
            let options = SocketOptions {
                nic_receive_stamps: true,
                nic_transmit_stamps: Some(slots.clone()),
                ..SocketOptions::stamped()
            };
            let (mut a, mut b) = pair(address, &options, numbering);
            let sent: Vec<_> = (0..20).map(|_| a.send(b.local_addr(), None, b"now").expect("send").0).collect();
            let stamps = stamps_of(&mut a, 20);
            assert_eq!(stamps.iter().map(|stamp| stamp.0).collect::<Vec<_>>(), sent, "{numbering:?} {address}");
            assert!(stamps.iter().all(|(_, stamp)| matches!(stamp, SentStamp::Kernel(_))), "{stamps:?}");
            receive_all(&mut b, 20, |datagram| assert_eq!(datagram.nic, None));
            let counts = slots.counts();
            assert_eq!((counts.sends, counts.stamped), (20, 0));
            assert!(counts.asked >= 1 && counts.asked == counts.overdue + 1, "{counts:?}");
        }
    }
}

#[test]
fn stamps_keep_to_their_sends_when_sends_fail_between_them() {
    for numbering in numberings() {
        let (mut a, mut b) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
        let too_long = vec![0; 65_600];
        let wanted: Vec<_> = (0..20)
            .map(|_| {
                a.send(b.local_addr(), None, &too_long).expect_err("longer than UDP can carry");
                a.send("127.0.0.1:0".parse().expect("an address"), None, b"").expect_err("port 0");
                a.send("192.0.2.1:9".parse().expect("an address"), Some([203, 0, 113, 9].into()), b"")
                    .expect_err("not our address");
                a.send(b.local_addr(), None, b"good").expect("send").0
            })
            .collect();
        let got: Vec<_> = stamps_of(&mut a, 20).iter().map(|stamp| stamp.0).collect();
        assert_eq!(got, wanted, "{numbering:?}");
        receive_all(&mut b, 20, |datagram| assert_eq!(datagram.payload, b"good"));
    }
}

#[test]
fn stamps_keep_to_their_sends_when_a_filter_refuses_some() {
    if !root_or_skip("stamps_keep_to_their_sends_when_a_filter_refuses_some") {
        return;
    }
    in_private_namespace(|_| {
        let rules = "add table inet refuse; add chain inet refuse out { type filter hook output priority 0; }; \
                     add rule inet refuse out udp dport 9 drop";
        let nft = std::process::Command::new("nft").arg(rules).status().expect("nftables");
        assert!(nft.success());
        for numbering in numberings() {
            let (mut a, mut b) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
            let wanted: Vec<_> = (0..20)
                .map(|_| {
                    let refused = a.send(([127, 0, 0, 1], 9).into(), None, b"").expect_err("a filter drops it");
                    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
                    a.send(b.local_addr(), None, b"good").expect("send").0
                })
                .collect();
            let got: Vec<_> = stamps_of(&mut a, 20).iter().map(|stamp| stamp.0).collect();
            assert_eq!(got, wanted, "{numbering:?}");
            receive_all(&mut b, 20, |datagram| assert_eq!(datagram.payload, b"good"));
        }
    });
}

#[test]
fn an_icmp_error_is_reported_apart_and_disturbs_neither_half() {
    let Some(numbering) = numberings().find(|numbering| *numbering == Numbering::Ours) else {
        return skip(
            "an_icmp_error_is_reported_apart_and_disturbs_neither_half",
            "no ICMP errors beside stamps before Linux 6.13",
        );
    };
    let (mut a, gone) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
    let closed = gone.local_addr();
    drop(gone);
    let ids: Vec<_> = (0..3).map(|_| a.send(closed, None, b"anybody?").expect("send").0).collect();
    assert_eq!(a.receive(|_| ()).expect("a delayed error is not ours to return"), 0);
    let stamps = stamps_of(&mut a, 3);
    assert_eq!(stamps.iter().map(|stamp| stamp.0).collect::<Vec<_>>(), ids);
    let reports: Vec<_> = a.halves().1.undelivered().collect();
    assert_eq!(reports.len(), 3);
    assert!(reports.iter().all(|report| report.peer == closed
        && report.errno == libc::ECONNREFUSED
        && report.reporter == Some(closed.ip())));
}

#[test]
fn a_wildcard_socket_knows_the_address_that_was_asked_and_answers_from_it() {
    let numbering = numberings().next().expect("the kernel's, everywhere");
    let (mut a, _) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
    let (mut any, _) = pair("0.0.0.0:0", &SocketOptions::stamped(), numbering);
    let asked = SocketAddr::from(([127, 7, 7, 7], any.local_addr().port()));
    a.send(asked, None, b"ping").expect("send");
    let (mut peer, mut local) = (None, None);
    receive_all(&mut any, 1, |datagram| (peer, local) = (Some(datagram.peer), datagram.local));
    assert_eq!(local, Some(asked.ip()));
    any.send(peer.expect("a peer"), local, b"pong").expect("send");
    receive_all(&mut a, 1, |datagram| assert_eq!(datagram.peer, asked));
}

#[test]
fn drops_of_a_full_buffer_are_counted_to_the_last() {
    let options = SocketOptions { receive_buffer: Some(4096), ..SocketOptions::default() };
    let (mut a, mut b) = pair("127.0.0.1:0", &options, Numbering::Ours);
    for _ in 0..500 {
        a.send(b.local_addr(), None, &[0; 500]).expect("send");
    }
    let mut received = 0;
    while b.receive(|_| received += 1).expect("receive") > 0 {}
    assert!(b.kernel_drops() > 0);
    assert_eq!(received + b.kernel_drops(), 500);
}

#[test]
fn what_cannot_be_bound_is_said_in_one_sentence() {
    let taken = StampedSocket::bind("127.0.0.1:0".parse().expect("an address"), &SocketOptions::default())
        .expect("a free port");
    let error = StampedSocket::bind(taken.local_addr(), &SocketOptions::default()).err().expect("taken");
    assert!(matches!(error, Error::PortInUse(address) if address == taken.local_addr()));
    assert!(error.to_string().starts_with(&format!("{}: the port is in use", taken.local_addr())));

    let error = StampedSocket::bind("192.0.2.1:862".parse().expect("an address"), &SocketOptions::default());
    assert!(matches!(error.err().expect("not ours"), Error::NoSuchAddress(_)));

    let options = SocketOptions { device: Some("no-such-if0".into()), ..SocketOptions::default() };
    let error = StampedSocket::bind("127.0.0.1:0".parse().expect("an address"), &options).err().expect("none");
    assert!(matches!(error, Error::NoSuchInterface(name) if name == "no-such-if0"));
}

#[test]
fn a_batch_leaves_in_order_and_what_cannot_leave_holds_up_nothing() {
    use crate::datapath::Outgoing;

    const COUNT: u8 = 70;
    const TOO_LONG: u8 = 40;
    for numbering in numberings() {
        let (mut a, mut b) = pair("127.0.0.1:0", &SocketOptions::stamped(), numbering);
        let to = b.local_addr();
        let payload = |place| if place == TOO_LONG { vec![0; 70_000] } else { vec![place] };
        let payloads: Vec<_> = (0..COUNT).map(payload).collect();
        let batch: Vec<_> =
            payloads.iter().map(|payload| Outgoing { to, from: None, dscp: None, hop_limit: None, payload }).collect();
        let mut outcomes = Vec::new();
        a.halves().1.send_all(&batch, |place, outcome| outcomes.push((place, outcome)));

        let left = |place: &u8| *place != TOO_LONG;
        let mut ids = Vec::new();
        for (place, (named, outcome)) in outcomes.into_iter().enumerate() {
            assert_eq!(named, place);
            match outcome {
                Ok(id) => ids.push(id.0),
                Err(error) => assert_eq!((place, error.raw_os_error()), (TOO_LONG.into(), Some(libc::EMSGSIZE))),
            }
        }
        assert_eq!(ids.len(), usize::from(COUNT) - 1);
        let mut arrived = Vec::new();
        receive_all(&mut b, ids.len(), |datagram| arrived.push(datagram.payload[0]));
        assert_eq!(arrived, (0..COUNT).filter(left).collect::<Vec<_>>());
        let mut stamped: Vec<_> = stamps_of(&mut a, ids.len()).into_iter().map(|(id, _)| id).collect();
        stamped.sort_unstable();
        assert_eq!(stamped, ids);
    }
}
