//! Every kind of frame that a wire can bring, over the wire: tags, options, extension headers, no checksum, a source that is not
//! allowed. Each is answered, or passed to the stack on purpose, or refused by name; which of these is said here for each datapath.

#[path = "../../xdp/tests/frame/mod.rs"]
#[allow(dead_code)] // where headers lie is for those who overwrite octets
mod frame;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/option.rs"]
mod option;
#[path = "support/veth.rs"]
mod veth;

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use frame::{Frame, THEIR_V4, THEIR_V6};
use namespace::in_private_namespace;
use option::set_option;
use pathlab_guard::privilege::root_or_skip;
use pathlab_reflector::{
    ReflectorReport, Stop,
    clock::realtime_now,
    datapath::{AfXdpConfig, AfXdpReflector},
    session::Rules,
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket},
};
use pathlab_xdp::{
    XdpMode,
    xsk::{CopyMode, NicStamps, Redirect, RedirectConfig, XskOptions, XskSocket},
};
use veth::{ADDRESSES, ip, serve_on_veth, with_client, with_peer};
use zerocopy::IntoBytes;

const PORT: u16 = 862;
const PATIENCE: Duration = Duration::from_secs(10);

fn config(mode: XdpMode, hybrid: bool) -> AfXdpConfig {
    let xsk = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
    AfXdpConfig { mode, hybrid, xsk, ..AfXdpConfig::new(PORT) }
}

fn addresses(of: &[&str]) -> Vec<std::net::IpAddr> {
    of.iter().map(|address| address.parse().expect("an address")).collect()
}

fn serve(server: &str, config: &AfXdpConfig, talk: impl FnOnce() + Send) -> ReflectorReport {
    let mut reflector = AfXdpReflector::attach("s0", config).expect("attached");
    with_client(server, |stop| reflector.run(stop).expect("an interface that is up"), talk);
    let report = reflector.report().expect("statistics");
    assert_eq!(report.received, report.replied + report.refused.values().sum::<u64>() + report.kernel_drops);
    report
}

/// A socket of the family of `peer`, connected to it.
fn client(peer: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a free port");
    socket.connect(peer).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn request(sequence: u32, length: usize) -> Vec<u8> {
    let packet = SenderPacket::new(sequence, realtime_now().into(), ErrorEstimate::from_nanos(1000, false));
    let mut bytes = packet.as_bytes().to_vec();
    bytes.resize(length, 0);
    bytes
}

fn is_answered(socket: &UdpSocket, sequence: u32, length: usize) {
    socket.send(&request(sequence, length)).expect("send");
    let mut buffer = [0; 2000];
    assert_eq!(socket.recv(&mut buffer).expect("a reply"), length);
    let (reply, _) = ReflectedPacket::parse(&buffer[..length]).expect("a reply");
    assert_eq!(reply.sender_sequence.get(), sequence);
}

/// The replies to `requests`, sent and received as frames, tags and all: whether the kernel has VLAN devices plays no part.
fn exchange(requests: &[Frame]) -> Vec<Frame> {
    let xsk = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
    let mut socket = XskSocket::bind("c0", 0, &xsk).expect("binds");
    let redirect = RedirectConfig {
        local: vec![THEIR_V4, THEIR_V6],
        mode: XdpMode::Native,
        nic_stamps: NicStamps::Off,
        ..RedirectConfig::new(requests[0].source.port())
    };
    let mut program = Redirect::attach("c0", &redirect).expect("attaches");
    program.add(&socket).expect("adds");
    let mut received = Vec::new();
    for request in requests {
        let mut frame = socket.frame().expect("a free frame");
        frame.copy_from(&request.bytes());
        socket.send(frame, 0, false).expect("room in the ring");
        while socket.flush().expect("an interface that is up") > 0 {}
        socket.complete(&mut Vec::new(), usize::MAX);
    }
    let deadline = Instant::now() + PATIENCE;
    while received.len() < requests.len() {
        assert!(Instant::now() < deadline, "{} of {} replies", received.len(), requests.len());
        socket.wait(Duration::from_millis(100)).expect("a sound socket");
        socket.receive(&mut received, requests.len()).expect("an interface that is up");
    }
    received.iter().map(|reply| Frame::read(reply.frame.packet())).collect()
}

#[test]
fn one_and_two_tags_are_answered_in_the_driver_and_over_af_xdp() {
    if !root_or_skip("one_and_two_tags_are_answered_in_the_driver_and_over_af_xdp") {
        return;
    }
    let mut requests = Vec::new();
    for vlans in [vec![], vec![7], vec![100, 7]] {
        for (sequence, length) in [44, 45, 200, 1400].into_iter().enumerate() {
            for frame in [Frame::v4(request(sequence as u32, length)), Frame::v6(request(sequence as u32, length))] {
                requests.push(Frame { vlans: vlans.clone(), ..frame });
            }
        }
    }
    for hybrid in [false, true] {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let mut reflector = AfXdpReflector::attach("s0", &config(XdpMode::Native, hybrid)).expect("attached");
            let run = |stop: &Stop| reflector.run(stop).expect("an interface that is up");
            let mut replies = with_peer(server, run, || exchange(&requests));
            let report = reflector.report().expect("statistics");
            // those of the driver overtake those of the worker
            for request in &requests {
                let answers = |reply: &Frame| {
                    let answered = request.answered(reply.payload.clone());
                    *reply == answered && reply.payload[24..28] == request.payload[..4]
                };
                let same_size = |reply: &Frame| reply.payload.len() == request.payload.len() && answers(reply);
                replies.swap_remove(replies.iter().position(same_size).expect("the reply to every request"));
            }
            let through_af_xdp: u64 = report.queues.iter().map(|queue| queue.replied).sum();
            assert_eq!((report.replied, through_af_xdp), (24, if hybrid { 18 } else { 24 }), "{report:?}");
        });
    }
}

/// What is passed comes to a socket of the stack as it was sent, and the next packet is answered again.
#[test]
fn options_extension_headers_and_a_missing_checksum_are_answered_or_passed_on_purpose() {
    if !root_or_skip("options_extension_headers_and_a_missing_checksum_are_answered_or_passed_on_purpose") {
        return;
    }
    const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
    /// next header (the kernel fills it in), length, PadN of four octets
    const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    for hybrid in [false, true] {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let stack = ADDRESSES.map(|address| UdpSocket::bind((address, PORT)).expect("a free port"));
            for socket in &stack {
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            }
            set_option(&stack[1], libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, &1_i32.to_ne_bytes());
            let report = serve(server, &config(XdpMode::Native, hybrid), || {
                let [v4, v6] = addresses(&ADDRESSES).try_into().expect("two addresses");
                let passed: [(_, i32, i32, &[u8]); 4] = [
                    (v4, libc::IPPROTO_IP, libc::IP_OPTIONS, &ROUTER_ALERT),
                    (v6, libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &PADDING),
                    (v6, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &PADDING),
                    (v6, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX, &1_i32.to_ne_bytes()),
                ];
                for length in [44, 200] {
                    for (sequence, (address, level, name, value)) in passed.into_iter().enumerate() {
                        let socket = client((address, PORT).into());
                        set_option(&socket, level, name, value);
                        let sent = request(sequence as u32, length);
                        socket.send(&sent).expect("send");
                        let (mut buffer, at) = ([0; 2000], usize::from(address.is_ipv6()));
                        let (arrived, from) = stack[at].recv_from(&mut buffer).expect("passed to the stack");
                        assert_eq!((&buffer[..arrived], from.port()), (&sent[..], socket.local_addr().unwrap().port()));
                    }
                    // Over IPv4 no checksum is the sender's choice (RFC 768), and the reply has none either.
                    let unsummed = client((v4, PORT).into());
                    set_option(&unsummed, libc::SOL_SOCKET, libc::SO_NO_CHECK, &1_i32.to_ne_bytes());
                    is_answered(&unsummed, 9, length);
                    is_answered(&client((v6, PORT).into()), 10, length);
                }
            });
            assert_eq!((report.received, report.replied, report.handed_to_stack), (4, 4, 0), "{report:?}");
        });
    }
}

/// `include/uapi/linux/udp.h`.
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;

#[test]
fn the_allowlist_holds_in_the_driver_and_over_af_xdp() {
    if !root_or_skip("the_allowlist_holds_in_the_driver_and_over_af_xdp") {
        return;
    }
    for (mode, hybrid) in
        [(XdpMode::Native, false), (XdpMode::Native, true), (XdpMode::Generic, false), (XdpMode::Generic, true)]
    {
        in_private_namespace(|server| {
            serve_on_veth(1);
            let allow = ["192.0.2.128/25", "2001:db8::2"].map(|prefix| prefix.parse().expect("a prefix")).into();
            let rules = Rules { allow, ..Rules::default() };
            let report = serve(server, &AfXdpConfig { rules, ..config(mode, hybrid) }, || {
                ip(&["address", "add", "192.0.2.200/24", "dev", "c0"]);
                let [v4, v6] = addresses(&ADDRESSES).try_into().expect("two addresses");
                let allowed = UdpSocket::bind("192.0.2.200:0").expect("a free port");
                allowed.connect((v4, PORT)).expect("a route");
                allowed.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                for length in [44, 200] {
                    client((v4, PORT).into()).send(&request(1, length)).expect("send");
                    is_answered(&allowed, 2, length);
                    is_answered(&client((v6, PORT).into()), 3, length);
                }
            });
            assert_eq!((report.replied, report.refused["not_allowed"]), (4, 2), "{mode:?} {report:?}");
        });
    }
}
