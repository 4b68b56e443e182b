//! Software stamps of real datagrams over loopback: no privilege needed.
#![allow(unsafe_code)]

use std::{
    mem,
    net::{IpAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use pathlab_xdp::timestamping::{self, CONTROL_SPACE, Control, Options, TransmitKind};

/// One `recvmsg`, waiting for it until `deadline`.
fn receive(socket: &UdpSocket, flags: i32, deadline: Instant) -> (usize, Control) {
    let mut payload = [0_u8; 256];
    let mut control = [0_u64; CONTROL_SPACE / 8];
    loop {
        let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_SPACE;
        // SAFETY: the header points at buffers of this frame with their true sizes, none of them moved during the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
        if let Ok(received) = usize::try_from(received) {
            assert_eq!(header.msg_flags & libc::MSG_CTRUNC, 0, "CONTROL_SPACE is too small");
            let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
            return (received, Control::parse(&bytes[..header.msg_controllen]));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing arrived: {}", std::io::Error::last_os_error());
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, on this frame.
        unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32 + 1) };
    }
}

fn conversation(address: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let receiver = UdpSocket::bind((address, 0)).expect("bind");
    let sender = UdpSocket::bind((address, 0)).expect("bind");
    timestamping::enable(receiver.as_fd(), Options { receive: true, ..Options::SOFTWARE })
        .expect("enable on the receiver");
    timestamping::enable(sender.as_fd(), Options { transmit_sched: true, ..Options::SOFTWARE })
        .expect("enable on the sender");

    // The kernel switches stamping on for the whole host by a worker of its own: the first datagrams may come before it.
    let target = receiver.local_addr().expect("address");
    let other = UdpSocket::bind((address, 0)).expect("bind");
    loop {
        other.send_to(&[0], target).expect("send");
        if receive(&receiver, 0, deadline).1.software.is_some() {
            break;
        }
    }

    for id in 0..20 {
        sender.send_to(&[7; 44], target).expect("send");
        let (length, seen) = receive(&receiver, 0, deadline);
        assert_eq!(length, 44);
        assert!(seen.software.is_some(), "datagram {id} has no receive stamp");
        assert_eq!(seen.transmit, None);
        let local = seen.local.expect("packet info");
        assert_eq!(local.destination, address.parse::<IpAddr>().expect("address"));
        assert_eq!(local.source_for_reply, local.destination);
        assert!(seen.hop_limit.is_some() && seen.traffic_class == Some(0));

        let mut sent = None;
        for kind in [TransmitKind::Sched, TransmitKind::Sent] {
            let (length, seen) = receive(&sender, libc::MSG_ERRQUEUE, deadline);
            assert_eq!(length, 0, "OPT_TSONLY returns no payload");
            let report = seen.transmit.expect("a transmit report");
            assert_eq!((report.id, report.kind), (id, kind));
            assert!(
                seen.software.is_some() && seen.software >= sent,
                "{kind:?} of {id}: {:?} after {sent:?}",
                seen.software
            );
            sent = seen.software;
        }
    }
}

#[test]
fn every_send_is_stamped_over_ipv4() {
    conversation("127.0.0.1");
}

#[test]
fn every_send_is_stamped_over_ipv6() {
    conversation("::1");
}
