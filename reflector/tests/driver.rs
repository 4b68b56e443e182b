//! The reflector in the driver across a veth, in the same shape as the one over sockets: every request answered and accounted for,
//! and traffic that is not its own untouched.

#[path = "support/namespace.rs"]
mod namespace;

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use namespace::in_private_namespace;
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::Plane;
use pathlab_reflector::{
    Stop,
    clock::realtime_now,
    datapath::DriverReflector,
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket, WireTime},
};
use pathlab_xdp::{AttachedMode, XdpMode, XdpPass, XdpReflectorConfig, offload};
use zerocopy::IntoBytes;

const REQUESTS: u32 = 50;

#[test]
fn the_driver_holds_the_same_conversation() {
    if !root_or_skip("the_driver_holds_the_same_conversation") {
        return;
    }
    in_private_namespace(|server| {
        ip(&["link", "add", "s0", "type", "veth", "peer", "name", "c0"]);
        ip(&["link", "set", "s0", "up"]);
        ip(&["address", "add", "192.0.2.1/24", "dev", "s0"]);
        ip(&["address", "add", "2001:db8::1/64", "dev", "s0", "nodad"]);
        let config = XdpReflectorConfig { mode: XdpMode::Native, ..XdpReflectorConfig::new(862) };
        let mut reflector = DriverReflector::attach("s0", &config).expect("attached");
        assert_eq!(reflector.mode(), AttachedMode::Native);
        let stop = Stop::new().expect("eventfd");
        thread::scope(|scope| {
            scope.spawn(|| {
                let _stop = StopWhenDropped(&stop);
                in_private_namespace(|client| talk(server, client));
            });
            reflector.run(&stop).expect("maps and lists are there");
        });
        let report = reflector.report().expect("counters");
        assert_eq!((report.datapath, report.listen), ("xdp", vec!["s0:862".to_owned()]));
        assert_eq!((report.replied, report.refused["short"]), (2 * u64::from(REQUESTS), 2));
        assert_eq!(report.received, report.replied + report.refused.values().sum::<u64>());
        assert_eq!(report.received_on, [(Plane::Xdp, report.replied)].into());
    });
}

/// Ends the reflector's run also when the client's assertions fail.
struct StopWhenDropped<'a>(&'a Stop);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// Fetches the client's end of the veth out of the namespace `server` into the present one, `client`, and talks to the reflector.
fn talk(server: &str, client: &str) {
    let inside = format!("--net={server}");
    run(Command::new("nsenter").args([&inside, "ip", "link", "set", "c0", "netns", client]));
    ip(&["link", "set", "c0", "up"]);
    ip(&["address", "add", "192.0.2.2/24", "dev", "c0"]);
    ip(&["address", "add", "2001:db8::2/64", "dev", "c0", "nodad"]);
    offload::set_tx_checksum("c0", false).expect("checksums computed by the sender");
    let _pass = XdpPass::attach("c0", XdpMode::Native).expect("native XDP on a veth");
    ["192.0.2.1:862", "[2001:db8::1]:862"].into_iter().for_each(converse);
}

/// One datagram too short, then requests that are all answered.
fn converse(reflector: &str) {
    let reflector: SocketAddr = reflector.parse().expect("an address");
    let any = if reflector.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    socket.send_to(&[0; 43], reflector).expect("send");
    for sequence in 0..REQUESTS {
        let sent = realtime_now();
        let request = SenderPacket::new(sequence, sent.into(), ErrorEstimate::from_nanos(1000, false));
        socket.send_to(request.as_bytes(), reflector).expect("send");
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).expect("a reply");
        assert_eq!((len, from.ip()), (44, reflector.ip()));
        let (reply, _) = ReflectedPacket::parse(&buffer[..len]).expect("a reply");
        assert_eq!((reply.sender_sequence.get(), reply.sender_timestamp), (sequence, request.timestamp));
        let (Some(WireTime::Ntp(received)), Some(WireTime::Ntp(replied))) = (reply.received_at(), reply.sent_at())
        else {
            panic!("two NTP times")
        };
        assert!(sent <= received && received <= replied && replied <= realtime_now());
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let status = command.status().expect("iproute2 and util-linux");
    assert!(status.success(), "{command:?}: {status}");
}
