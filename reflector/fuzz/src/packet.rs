//! What the fuzz targets hold true of any packet; `tests/fuzz_replay.rs` of the crate includes this file and runs the same on
//! generated input.

use std::net::{IpAddr, SocketAddr};

use pathlab_record::Time;
use pathlab_reflector::{
    keys::{Key, Keys, Protection},
    session::{Reason, ReplyError, Request, Rules, SessionReflector, Verdict},
    wire::{
        AUTHENTICATED_PART, AuthenticatedSenderPacket, BASE_LEN, ErrorEstimate, MOST_REPORTS, NtpTimestamp,
        RETURN_TRACE, ReflectedPacket, ReflectorStages, ReturnTrace, SenderPacket, Tlv, UdpFrame,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// Parsing never panics, loses nothing, and refuses exactly what is short; times and estimates decode to what encodes again.
pub fn codec(data: &[u8]) {
    let (sender, reflected) = (SenderPacket::parse(data), ReflectedPacket::parse(data));
    assert_eq!(sender.is_ok(), data.len() >= BASE_LEN);
    assert_eq!(reflected.is_ok(), data.len() >= BASE_LEN);
    if let Err(error) = sender {
        assert_eq!(error.arrived, data.len() as u64);
    }
    let (Ok((sender, rest)), Ok((reflected, _))) = (sender, reflected) else { return };
    assert_eq!([sender.as_bytes(), rest].concat(), data);
    assert_eq!([reflected.as_bytes(), rest].concat(), data);
    let _ = (reflected.received_at(), reflected.sent_at());
    for field in [sender.timestamp, reflected.receive_timestamp, reflected.sender_timestamp] {
        if let Some(time) = field.time() {
            // A nanosecond is more than four units: the way through nanoseconds may lose that much and no more.
            let back = NtpTimestamp::from(time).bits();
            assert!(back.wrapping_sub(field.bits()).cast_signed().abs() <= 4, "{field:?} became {back:#x}");
        }
    }
    for estimate in [sender.error_estimate, reflected.sender_error_estimate] {
        if let Some(nanos) = estimate.nanos() {
            let again = ErrorEstimate::from_nanos(nanos, estimate.is_synchronised());
            assert!(again.nanos() >= Some(nanos));
        }
    }
}

/// The first octets choose addresses and rules, the rest is the datagram: one verdict, no reply longer than it, none to a short one,
/// none to the reflector's own port.
pub fn respond(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<32>() else { return };
    let peer_ip: IpAddr = if head[0] & 1 == 0 {
        IpAddr::from(*head[1..].first_chunk::<4>().expect("32 octets"))
    } else {
        IpAddr::from(*head[1..].first_chunk::<16>().expect("32 octets"))
    };
    let peer = SocketAddr::new(peer_ip, u16::from_be_bytes([head[17], head[18]]));
    let rules = Rules { sessions: (head[0] & 2 != 0).then_some(2), ..Rules::default() };
    let mut reflector = SessionReflector::new(rules, ErrorEstimate::from_nanos(u64::from(head[19]), head[0] & 4 != 0));
    let nanos = i64::from_be_bytes(*head[20..].first_chunk().expect("32 octets"));
    let request = Request {
        peer,
        local: (head[0] & 8 != 0).then(|| IpAddr::from(*head[28..].first_chunk::<4>().expect("32 octets"))),
        local_port: 862,
        unicast: head[0] & 16 == 0,
        ttl: (head[0] & 32 != 0).then_some(head[19]),
        traffic_class: Some(head[19]),
        arrival: Time::from_nanos(nanos).into(),
        payload,
    };
    let mut reply = vec![0xee; payload.len() + 8];
    match reflector.respond(&request, Time::from_nanos(nanos), &mut reply) {
        Verdict::Reply(unfinished) => {
            let len = unfinished.len();
            assert!(len == payload.len() && len >= BASE_LEN);
            assert!(peer.port() != 862 && peer.port() != 0 && !peer.ip().is_multicast() && request.unicast);
            reflector.finish(&unfinished, Time::from_nanos(nanos), &mut reply);
            let (packet, rest) = ReflectedPacket::parse(&reply[..len]).expect("a reply is a packet");
            let (sender, sender_rest) = SenderPacket::parse(payload).expect("and so is what it answers");
            assert_eq!((packet.sender_sequence, packet.sender_timestamp), (sender.sequence, sender.timestamp));
            let layout = |bytes| Tlv::all(bytes).map(|tlv| Tlv { flags: 0, ..tlv }).collect::<Vec<_>>();
            assert_eq!(layout(rest), layout(sender_rest));
            assert_eq!(reply[len..], [0xee; 8]);
        }
        Verdict::Refused(reason) => {
            assert_eq!(reason == Reason::Short, payload.len() < BASE_LEN);
            assert!(reply.iter().all(|octet| *octet == 0xee));
        }
    }
}

/// An Ethernet frame: parsing never panics, and a frame that is turned round is one that parses, with the ends changed.
pub fn frame(data: &[u8]) {
    let Ok(parsed) = UdpFrame::parse(data) else { return };
    let payload = parsed.payload(data).to_vec();
    assert!(payload.len() + 42 <= data.len());
    let (mut bytes, mut answer) = (data.to_vec(), parsed);
    let length = answer.turn_round(&mut bytes, &payload).expect("no longer than itself");
    assert!(length <= data.len());
    let read = UdpFrame::parse(&bytes[..length]).expect("a datagram still");
    assert_eq!((read.peer, read.local, read.ttl), (parsed.local, parsed.peer, 255));
    assert_eq!((read, read.payload(&bytes[..length])), (answer, &payload[..]));
}

/// Extensions, keyed: the first octet chooses the mode, the next ones what is signed. One verdict, every TLV where it was, and what an HMAC
/// vouched for is vouched for again in the reply.
pub fn extensions(data: &[u8]) {
    let Some((head, rest)) = data.split_first() else { return };
    let key = || Key::new(&[7; 32]).expect("32 octets");
    let authenticated = head & 1 != 0;
    let protection = if authenticated { Protection::Authenticated } else { Protection::Extensions };
    let rules = Rules {
        keys: Some(Keys::of(protection, key()).into()),
        sessions: (head & 2 != 0).then_some(1),
        allowed_dscp: u64::from(*head),
        ..Rules::default()
    };
    let plain = SenderPacket::new(3, NtpTimestamp::from_bits(9), ErrorEstimate::from_bits(0x0101));
    let mut payload = if authenticated {
        let mut packet = AuthenticatedSenderPacket::from(plain);
        packet.hmac = key().hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
        packet.as_bytes().to_vec()
    } else {
        plain.as_bytes().to_vec()
    };
    let base = payload.len();
    payload.extend(rest);
    if head & 4 != 0 {
        let tag = key().hmac(&[plain.sequence.as_bytes(), rest]);
        payload.extend([&[0x80, 8, 0, 16][..], &tag].concat());
    }
    let mut reflector = SessionReflector::new(rules, ErrorEstimate::from_bits(0x0101));
    let request = Request {
        peer: SocketAddr::from(([192, 0, 2, 1], 5000)),
        local: None,
        local_port: 862,
        unicast: true,
        ttl: None,
        traffic_class: Some(*head),
        arrival: Time::from_nanos(1).into(),
        payload: &payload,
    };
    let mut reply = vec![0xee; payload.len()];
    let Verdict::Reply(unfinished) = reflector.respond(&request, Time::from_nanos(1), &mut reply) else {
        panic!("it is authentic, and there is room")
    };
    reflector.finish(&unfinished, Time::from_nanos(2), &mut reply);
    let layout = |bytes| Tlv::all(bytes).map(|tlv| Tlv { flags: 0, ..tlv }).collect::<Vec<_>>();
    assert_eq!(layout(&reply[base..]), layout(&payload[base..]));
    if authenticated {
        let tag: &[u8; 16] = reply[AUTHENTICATED_PART..base].try_into().expect("16 octets");
        assert!(key().verifies(&[&reply[..AUTHENTICATED_PART]], tag));
    }
    for tlv in Tlv::all(&reply[base..]) {
        if let Ok(stages) = ReflectorStages::read_from_bytes(&reply[base..][tlv.value()]) {
            let _ = [stages.received_nic, stages.sent_app, stages.departed_nic].map(|stamp| stamp.stamp());
        }
    }
}

/// A Return Trace of any octets, signed by the sender's key, then an error that quotes any of them: its parser reads or refuses, a reply leaves with the Hop
/// Limit that was asked for or with the usual one, and what is told is what there was.
pub fn return_trace(data: &[u8]) {
    let mut value = data.to_vec();
    if let Some((head, reports)) = ReturnTrace::read(data) {
        assert!(reports.len() <= MOST_REPORTS && head.reports.get() as usize == reports.len());
        for report in reports {
            let _ = report.answer();
        }
        assert!(ReturnTrace::split(&mut value).is_some(), "what is read can be answered");
    }
    let key = || Key::new(&[7; 32]).expect("32 octets");
    let rules = Rules {
        keys: Some(Keys::of(Protection::Authenticated, key()).into()),
        sessions: Some(1),
        return_trace: true,
        ..Rules::default()
    };
    let mut reflector = SessionReflector::new(rules, ErrorEstimate::from_bits(0x0101));
    let peer = SocketAddr::from(([192, 0, 2, 1], 5000));
    for turn in 0..3_u32 {
        let plain = SenderPacket::new(turn, NtpTimestamp::from_bits(9), ErrorEstimate::from_bits(0x0101));
        let mut packet = AuthenticatedSenderPacket::from(plain);
        packet.hmac = key().hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
        let Ok(length) = u16::try_from(data.len()) else { return };
        let tlv = [&[0x80, RETURN_TRACE][..], &length.to_be_bytes(), data].concat();
        let tag = key().hmac(&[plain.sequence.as_bytes(), &tlv]);
        let payload = [packet.as_bytes(), &tlv, &[0x80, 8, 0, 16], &tag].concat();
        let request = Request {
            peer,
            local: None,
            local_port: 862,
            unicast: true,
            ttl: None,
            traffic_class: None,
            arrival: Time::from_nanos(1).into(),
            payload: &payload,
        };
        let mut reply = vec![0xee; payload.len()];
        let Verdict::Reply(unfinished) = reflector.respond(&request, Time::from_nanos(1), &mut reply) else {
            panic!("it is authentic, and there is room")
        };
        reflector.finish(&unfinished, Time::from_nanos(2), &mut reply);
        let asked = ReturnTrace::split(&mut value).map(|(head, _)| head.asked).filter(|asked| *asked > 0);
        assert_eq!(unfinished.hop_limit(), asked);
        if let Some((head, reports)) = ReturnTrace::read(&reply[112 + 4..][..data.len()]).filter(|_| asked.is_some()) {
            assert_eq!((head.given, reports.len()), (head.asked, 0), "what ends on its way tells nobody");
        }
        let from = IpAddr::from([198, 51, 100, 1]);
        let quoted = &reply[..data.len().min(32)];
        reflector.reply_error(&ReplyError { peer, from, kind: (11, 0), at: Time::from_nanos(3), quoted });
        reflector.reply_error(&ReplyError { peer, from, kind: (11, 0), at: Time::from_nanos(-3), quoted: data });
    }
}
