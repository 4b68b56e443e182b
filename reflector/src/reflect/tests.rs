//! The loop over sockets, across loopback.

use std::net::UdpSocket;

use super::*;

/// The thread is late for both the stamp of its first reply and the second request.
#[test]
fn a_stamp_that_has_come_is_told_in_the_next_reply_however_late_both_are_read() {
    let rules = Rules { sessions: Some(1), ..Rules::default() };
    let listen = vec![([127, 0, 0, 1], 0).into()];
    let config = ReflectorConfig { listen, socket: SocketOptions::stamped(), rules, ..ReflectorConfig::default() };
    let mut reflector = Reflector::new(config).expect("a free port");
    let reflects = reflector.local_addrs()[0];
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.connect(reflects).expect("loopback");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");

    client.send(&[0; 44]).expect("sent");
    let Reflector { ports, desk, .. } = &mut reflector;
    let Port { socket, departing } = &mut ports[0];
    let (receiver, sender) = socket.halves();
    let answer = |datagram: Datagram<'_>| desk.answer(&datagram, reflects.port(), monotonic_now(), sender, departing);
    assert_eq!(receiver.receive(answer).expect("what loopback has brought"), 1);
    desk.send_waiting(sender, departing);
    client.recv(&mut [0; 64]).expect("the first reply");

    client.send(&[0; 44]).expect("sent");
    let stop = Stop::new().expect("a descriptor");
    stop.request();
    reflector.run(&stop).expect("a sound socket");
    client.recv(&mut [0; 64]).expect("the second reply");
    assert_eq!(reflector.report().follow_ups, [(Plane::Kernel, FollowUps { in_time: 2, late: 0 })].into());
}
