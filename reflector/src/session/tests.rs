//! The rules against byte vectors, against a table of hostile addresses, and against anything.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::wire::{NtpTimestamp, Tlv};

const NOW: Time<Monotonic> = Time::from_nanos(1_000_000_000);

fn reflector(rules: Rules) -> SessionReflector {
    SessionReflector::new(rules, ErrorEstimate::from_nanos(1000, true))
}

fn request(payload: &[u8]) -> Request<'_> {
    Request {
        peer: "192.0.2.1:50000".parse().expect("an address"),
        local: Some([198, 51, 100, 1].into()),
        local_port: 862,
        unicast: true,
        ttl: Some(64),
        traffic_class: Some(0),
        arrival: Time::from_nanos(1_792_000_000_000_000_000).into(),
        payload,
    }
}

/// The length of the reply, or the reason for none.
fn length(verdict: Verdict) -> Result<usize, Reason> {
    match verdict {
        Verdict::Reply(reply) => Ok(reply.len()),
        Verdict::Refused(reason) => Err(reason),
    }
}

fn verdict(rules: Rules, change: impl FnOnce(&mut Request<'_>)) -> Result<usize, Reason> {
    let mut request = request(&[7; 60]);
    change(&mut request);
    length(reflector(rules).respond(&request, NOW, &mut [0; 100]))
}

#[test]
fn what_is_shaped_like_ptp_is_answered_to_listed_peers_alone_and_a_reply_never_is() {
    let mut payload = vec![0; 60];
    payload[..4].copy_from_slice(&(crate::wire::ptp_shape::FIRST + 7).to_be_bytes());
    let listed = || vec!["192.0.2.1/32".parse().expect("a prefix")];
    let ask = |rules: Rules, peer: &str, payload: &[u8]| {
        let peer = peer.parse().expect("an address");
        let request = Request { peer, local_port: 319, ..request(payload) };
        let mut reply = [0; 100];
        let verdict = length(reflector(rules).respond(&request, NOW, &mut reply));
        (verdict, reply)
    };
    let shaped = || Rules { ptp_shaped: true, allow: listed(), ..Rules::default() };
    let (verdict, reply) = ask(shaped(), "192.0.2.1:319", &payload);
    assert_eq!((verdict, &reply[..4]), (Ok(60), &[0, 2, 0, 7][..]), "a stateless reply is shaped like PTP as well");
    let ours = Err(Reason::SourcePortOurs);
    assert_eq!(ask(shaped(), "192.0.2.1:319", &reply[..60]).0, ours, "two reflectors must not circle");
    assert_eq!(ask(shaped(), "192.0.2.9:319", &payload).0, Err(Reason::NotAllowed));
    assert_eq!(ask(Rules { allow: vec![], ..shaped() }, "192.0.2.1:319", &payload).0, ours);
    assert_eq!(ask(Rules { ptp_shaped: false, ..shaped() }, "192.0.2.1:319", &payload).0, ours);
    payload[1] = 3;
    assert_eq!(ask(shaped(), "192.0.2.1:319", &payload).0, ours, "a sequence number out of the range");
}

#[test]
fn hostile_addresses_get_no_reply() {
    let from = |peer: &str| verdict(Rules::default(), |request| request.peer = peer.parse().expect("an address"));
    assert_eq!(from("192.0.2.1:50000"), Ok(60));
    assert_eq!(from("127.0.0.1:50000"), Ok(60));
    for (peer, reason) in [
        ("192.0.2.1:862", Reason::SourcePortOurs),
        ("192.0.2.1:0", Reason::SourcePortZero),
        ("224.0.0.1:50000", Reason::SourceMulticast),
        ("[ff02::1]:50000", Reason::SourceMulticast),
        ("255.255.255.255:50000", Reason::SourceBroadcast),
        ("0.0.0.0:50000", Reason::SourceUnspecified),
        ("0.1.2.3:50000", Reason::SourceUnspecified),
        ("[::]:50000", Reason::SourceUnspecified),
    ] {
        assert_eq!(from(peer), Err(reason), "{peer}");
    }
    let to =
        |local: &str| verdict(Rules::default(), |request| request.local = Some(local.parse().expect("an address")));
    for local in ["255.255.255.255", "239.1.1.1", "ff02::1", "0.0.0.0"] {
        assert_eq!(to(local), Err(Reason::DestinationGroup), "{local}");
    }
    let broadcast = verdict(Rules::default(), |request| request.unicast = false);
    assert_eq!(broadcast, Err(Reason::DestinationGroup));
}

#[test]
fn the_allowlist_and_the_rate_hold() {
    let allow = || Rules { allow: vec!["203.0.113.0/24".parse().expect("a prefix")], ..Rules::default() };
    assert_eq!(verdict(allow(), |_| ()), Err(Reason::NotAllowed));
    let inside = verdict(allow(), |request| request.peer = "203.0.113.9:1".parse().expect("an address"));
    assert_eq!(inside, Ok(60));

    let two = NonZeroU32::new(2).expect("not zero");
    let limits = Limits { source: Some(RateLimit::per_second(two)), ..Limits::default() };
    let mut reflector = reflector(Rules { limiter: Some(Limiter::new(limits).into()), ..Rules::default() });
    let verdicts = [(); 3].map(|()| length(reflector.respond(&request(&[7; 60]), NOW, &mut [0; 100])));
    assert_eq!(verdicts[2], Err(Reason::RateLimited));
    assert_eq!(verdicts[..2], [Ok(60); 2]);
}

#[test]
fn a_stateful_reflector_numbers_its_replies_and_a_full_table_is_said() {
    let mut reflector = reflector(Rules { sessions: Some(1), ..Rules::default() });
    let mut reply = [0; 100];
    for number in 0..3 {
        assert_eq!(length(reflector.respond(&request(&[7; 44]), NOW, &mut reply)), Ok(44));
        let (packet, _) = ReflectedPacket::parse(&reply).expect("a reply");
        assert_eq!((packet.sequence.get(), packet.sender_sequence.get()), (number, 0x0707_0707));
    }
    let mut other = [7; 44];
    other[15] = 8; // another SSID is another session
    assert_eq!(length(reflector.respond(&request(&other), NOW, &mut reply)), Err(Reason::SessionsFull));
}

#[test]
fn a_reply_buffer_too_small_is_a_reason_and_no_panic() {
    let mut reflector = reflector(Rules::default());
    assert_eq!(length(reflector.respond(&request(&[0; 60]), NOW, &mut [0; 59])), Err(Reason::TooLong));
    let Verdict::Reply(reply) = reflector.respond(&request(&[0; 60]), NOW, &mut [0; 60]) else { panic!("a reply") };
    let mut cut = [7; 59];
    reflector.finish(&reply, Time::from_nanos(1), &mut cut);
    assert_eq!(cut, [7; 59], "what is not the reply is left alone");
}

#[test]
fn every_reason_has_its_own_counter() {
    let mut tally = Tally::default();
    for (times, reason) in Reason::ALL.iter().enumerate() {
        (0..times).for_each(|_| tally.refuse(*reason));
    }
    let counts = tally.by_reason();
    assert_eq!(counts.len(), Reason::ALL.len(), "names are distinct");
    for (times, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(counts[reason.name()], times as u64);
    }
    tally.received = (0..Reason::ALL.len() as u64).sum();
    assert!(tally.adds_up());
}

/// `name | request | T2 | T3 | TTL | Error Estimate | reply or reason`: the file that the in-driver reflector is held to as well.
#[test]
fn vectors_shared_with_the_driver() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..][..2], 16).expect("hexadecimal")).collect()
    };
    let number = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let mut names = Vec::new();
    for line in include_str!("../../../xdp/tests/vectors/stamp-reflect.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, sent, t2, t3, ttl, error_estimate, wanted] = fields[..] else { panic!("seven fields: {line}") };
        let (sent, ttl) = (hex(sent), ttl.parse().expect("a TTL"));
        let estimate = ErrorEstimate::from_bits(number(error_estimate) as u16);
        let mut reflector = SessionReflector::new(Rules::default(), estimate);
        let stamp = |bits: &str| NtpTimestamp::from_bits(number(bits));
        let request = Request { ttl: Some(ttl), ..request(&sent) };
        let mut reply = vec![0xee; sent.len()];
        match reflector.respond(&request, NOW, &mut reply) {
            Verdict::Reply(answer) => {
                assert_eq!(answer.len(), sent.len(), "{name}");
                // The vectors hold any 64 bits, of which nanoseconds are a part: the stamps go in as bits.
                let (packet, _) = ReflectedPacket::mut_from_prefix(&mut reply).expect("a reply");
                packet.receive_timestamp = stamp(t2);
                packet.timestamp = stamp(t3);
                // The driver knows no TLVs: what follows the base packet has vectors of its own.
                assert_eq!(reply[..BASE_LEN], hex(wanted)[..BASE_LEN], "{name}");
            }
            Verdict::Refused(reason) => assert_eq!(reason.name(), wanted, "{name}"),
        }
        names.push(name);
    }
    assert!(names.len() >= 20 && names.contains(&"base packet"), "the file is there and read: {names:?}");
}

#[test]
fn the_stamps_stand_in_the_reply_as_given() {
    let (received, sent) = (Time::from_nanos(1_792_000_000_123_456_789), Time::from_nanos(1_792_000_000_123_460_000));
    let mut reply = [0; 44];
    let request = Request { arrival: received.into(), ..request(&[0; 44]) };
    let mut reflector = reflector(Rules::default());
    let Verdict::Reply(unfinished) = reflector.respond(&request, NOW, &mut reply) else { panic!("a reply") };
    reflector.finish(&unfinished, sent, &mut reply);
    let (packet, _) = ReflectedPacket::parse(&reply).expect("a reply");
    assert_eq!((packet.receive_timestamp.time(), packet.timestamp.time()), (Some(received), Some(sent)));
}

fn any_peer() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
        (Just([192, 0, 2, 1]), 1..5_u16).prop_map(SocketAddr::from),
    ]
}

proptest! {
    #[test]
    fn any_datagram_gets_one_verdict_and_no_reply_longer_than_itself(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        peer in any_peer(),
        local in proptest::option::of(any_peer()),
        unicast: bool,
        ttl: Option<u8>,
        times in any::<(i64, i64)>(),
        stateful in proptest::option::of(0..3_usize),
        room in 0..400_usize,
    ) {
        let mut reflector = reflector(Rules { sessions: stateful, ..Rules::default() });
        let request = Request {
            peer,
            local: local.map(|local| local.ip()),
            local_port: 862,
            unicast,
            ttl,
            traffic_class: ttl,
            arrival: Time::from_nanos(times.0).into(),
            payload: &payload,
        };
        let mut reply = vec![0xee; room];
        match reflector.respond(&request, Time::from_nanos(times.1), &mut reply) {
            Verdict::Reply(unfinished) => {
                let len = unfinished.len();
                prop_assert_eq!(len, payload.len());
                prop_assert!(len >= BASE_LEN && unicast && peer.port() != 862);
                let layout = |bytes: &[u8]| Tlv::all(&bytes[BASE_LEN..]).map(|tlv| Tlv { flags: 0, ..tlv }).collect::<Vec<_>>();
                prop_assert_eq!(layout(&reply[..len]), layout(&payload), "every TLV is where it was");
                prop_assert!(reply[len..].iter().all(|byte| *byte == 0xee), "nothing is written beyond the reply");
                reflector.finish(&unfinished, Time::from_nanos(times.0), &mut reply);
                prop_assert!(reply[len..].iter().all(|byte| *byte == 0xee), "nor by what finishes it");
            }
            Verdict::Refused(reason) => {
                prop_assert_eq!(reason == Reason::Short, payload.len() < BASE_LEN);
                prop_assert!(reply.iter().all(|byte| *byte == 0xee));
            }
        }
    }
}

mod authenticated {
    use std::time::Duration;

    use super::*;
    use crate::{
        keys::{Key, Protection},
        wire::ReturnTrace,
    };

    fn key(octet: u8) -> Key {
        Key::new(&[octet; 32]).expect("long enough")
    }

    fn keyed(sessions: Option<usize>) -> SessionReflector {
        let keys = Keys::of(Protection::Authenticated, key(1)).with(7, key(2));
        reflector(Rules { keys: Some(keys.into()), sessions, ..Rules::default() })
    }

    fn signed(ssid: u16, key: &Key, extensions: &[u8]) -> Vec<u8> {
        let mut plain = SenderPacket::new(41, NtpTimestamp::from_bits(5), ErrorEstimate::from_bits(0x0101));
        plain.ssid = ssid.into();
        let mut packet = AuthenticatedSenderPacket::from(plain);
        packet.hmac = key.hmac(&[&packet.as_bytes()[..AUTHENTICATED_PART]]);
        [packet.as_bytes(), extensions].concat()
    }

    fn answer(reflector: &mut SessionReflector, payload: &[u8]) -> Result<Vec<u8>, Reason> {
        let mut bytes = vec![0; payload.len()];
        match reflector.respond(&request(payload), NOW, &mut bytes) {
            Verdict::Reply(reply) => {
                assert_eq!(reply.len(), payload.len());
                reflector.finish(&reply, Time::from_nanos(1_792_000_000_000_000_009), &mut bytes);
                Ok(bytes)
            }
            Verdict::Refused(reason) => Err(reason),
        }
    }

    #[test]
    fn a_reply_is_signed_with_its_b3_by_the_key_of_its_session() {
        let mut reflector = keyed(Some(4));
        for (ssid, key) in [(0, key(1)), (7, key(2)), (8, key(1))] {
            let bytes = answer(&mut reflector, &signed(ssid, &key, &[])).expect("a reply");
            let (reply, _) = AuthenticatedReflectedPacket::parse(&bytes).expect("112 octets");
            assert!(key.verifies(&[&bytes[..AUTHENTICATED_PART]], &reply.hmac));
            let plain = reply.plain();
            assert_eq!((plain.sequence.get(), plain.sender_sequence.get(), plain.ssid.get()), (0, 41, ssid));
            assert_eq!(plain.timestamp.time(), Some(Time::from_nanos(1_792_000_000_000_000_009)));
            assert_eq!((plain.sender_ttl, plain.sender_error_estimate.bits()), (64, 0x0101));
        }
    }

    /// Extensions with a Return Trace that asks for `hop_limit` and has room for two reports, under an HMAC.
    fn tracing(hop_limit: u8, key: &Key) -> Vec<u8> {
        let value = [ReturnTrace::asking(hop_limit).as_bytes(), &[0; 56]].concat();
        let tlv = [&[0x80, 251, 0, value.len() as u8][..], &value].concat();
        let tag = key.hmac(&[&41_u32.to_be_bytes(), &tlv]);
        [&tlv[..], &[0x80, 8, 0, 16], &tag].concat()
    }

    fn traced(rules: impl FnOnce(&mut Rules)) -> SessionReflector {
        let mut all = Rules {
            keys: Some(Keys::of(Protection::Authenticated, key(1)).into()),
            sessions: Some(4),
            return_trace: true,
            ..Rules::default()
        };
        rules(&mut all);
        reflector(all)
    }

    /// The Hop Limit of the reply, flags of its Return Trace, and the octets of the reply.
    fn trace_answer(reflector: &mut SessionReflector, payload: &[u8], at: i64) -> (Option<u8>, u8, Vec<u8>) {
        let mut bytes = vec![0; payload.len()];
        let now = Time::from_nanos(at);
        let Verdict::Reply(reply) = reflector.respond(&request(payload), now, &mut bytes) else { panic!("a reply") };
        reflector.finish(&reply, Time::from_nanos(1_792_000_000_000_000_009), &mut bytes);
        (reply.hop_limit(), bytes[payload.len() - tracing(0, &key(1)).len()], bytes)
    }

    #[test]
    fn a_reply_ends_on_its_way_where_an_authentic_sender_asks_and_a_later_one_tells_where() {
        const SECOND: i64 = 1_000_000_000;
        let mut reflector = traced(|_| {});
        let ask = |hop_limit| signed(0, &key(1), &tracing(hop_limit, &key(1)));
        let (first, flags, bytes) = trace_answer(&mut reflector, &ask(3), SECOND);
        assert_eq!((first, flags), (Some(3), 0));
        let (second, ..) = trace_answer(&mut reflector, &ask(4), SECOND);
        assert_eq!(second, Some(4));
        let router: IpAddr = [198, 51, 100, 9].into();
        let mut error = ReplyError {
            peer: "192.0.2.1:50000".parse().expect("an address"),
            from: router,
            kind: (11, 0),
            at: Time::from_nanos(1_792_000_000_007_000_009),
            quoted: &bytes[..28],
        };
        reflector.reply_error(&error);
        // The same again, another's, and one that quotes too little: nothing.
        reflector.reply_error(&error);
        error.peer.set_port(50_001);
        reflector.reply_error(&error);
        reflector.reply_error(&ReplyError { quoted: &bytes[..3], ..error });
        let read = |bytes: &[u8]| {
            let value = bytes[AUTHENTICATED_LEN + 4..][..72].to_vec();
            let (head, reports) = ReturnTrace::read(&value).expect("ours");
            (head.limited.get(), reports.iter().map(|report| report.answer()).collect::<Vec<_>>())
        };
        let told = Some((router, Duration::from_millis(7)));
        for at in [SECOND, 2 * SECOND, 3 * SECOND + 1] {
            let (hop_limit, flags, bytes) = trace_answer(&mut reflector, &ask(0), at);
            let silent = (at > 3 * SECOND).then_some(None);
            let wanted: Vec<_> = silent.into_iter().chain([told]).collect();
            assert_eq!((hop_limit, flags, read(&bytes)), (None, 0, (2, wanted)), "after {at}");
        }
        let (_, _, bytes) = trace_answer(&mut reflector, &ask(0), 4 * SECOND);
        assert_eq!(read(&bytes), (2, vec![None]), "told three times");
        let counts = reflector.return_trace_counts().expect("allowed");
        assert_eq!((counts.limited, counts.refused, counts.answered), (2, 0, 1));
    }

    #[test]
    fn no_reply_ends_on_its_way_unless_everything_allows_it() {
        let request = signed(0, &key(1), &tracing(3, &key(1)));
        let unknown = (None, 0x80);
        let flags = |mut reflector, request: &[u8]| {
            let (hop_limit, flags, _) = trace_answer(&mut reflector, request, 1);
            (hop_limit, flags)
        };
        assert_eq!(flags(traced(|_| {}), &request), (Some(3), 0));
        assert_eq!(flags(traced(|rules| rules.return_trace = false), &request), unknown);
        assert_eq!(flags(traced(|rules| rules.sessions = None), &request), unknown);
        let forged = signed(0, &key(1), &tracing(3, &key(2)));
        assert_eq!(flags(traced(|_| {}), &forged), (None, 0x20), "integrity failed");
        let open = |rules: &mut Rules| rules.keys = Some(Keys::of(Protection::Extensions, key(1)).into());
        let plain = SenderPacket::new(41, NtpTimestamp::from_bits(5), ErrorEstimate::from_bits(0x0101));
        let in_the_open = [plain.as_bytes(), &tracing(3, &key(1))].concat();
        assert_eq!(flags(traced(open), &in_the_open), unknown, "signed TLVs of a packet that is not");
    }

    #[test]
    fn replies_that_end_on_their_way_are_bounded_and_the_others_go_through() {
        let mut reflector = traced(|_| {});
        let request = signed(0, &key(1), &tracing(3, &key(1)));
        let limited = (0..1000).filter(|_| trace_answer(&mut reflector, &request, 1).0.is_some()).count();
        assert!((1..=200).contains(&limited), "{limited}");
        let counts = reflector.return_trace_counts().expect("allowed");
        assert_eq!((counts.limited, counts.refused), (limited as u64, 1000 - limited as u64));
    }

    #[test]
    fn what_is_not_authentic_gets_no_reply() {
        let good = signed(7, &key(2), &[]);
        let mut reflector = keyed(None);
        assert!(answer(&mut reflector, &good).is_ok());
        for place in 0..AUTHENTICATED_LEN {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert_eq!(answer(&mut reflector, &bad), Err(Reason::BadHmac), "octet {place}");
        }
        assert_eq!(answer(&mut reflector, &signed(7, &key(1), &[])), Err(Reason::BadHmac));
        assert_eq!(answer(&mut reflector, &good[..111]), Err(Reason::Unauthenticated));
        assert_eq!(answer(&mut reflector, &[0; 44]), Err(Reason::Unauthenticated));
        assert_eq!(answer(&mut reflector, &[0; 43]), Err(Reason::Short));
        let keys = Keys::default().with(7, key(2));
        let mut of_one = super::reflector(Rules { keys: Some(keys.into()), ..Rules::default() });
        assert!(answer(&mut of_one, &good).is_ok());
        assert_eq!(answer(&mut of_one, &signed(8, &key(2), &[])), Err(Reason::NoKey));
    }

    #[test]
    fn what_is_not_authentic_takes_nothing_from_whom_it_claims_to_be() {
        let one = NonZeroU32::new(1).expect("not zero");
        let limits = Limits { source: Some(RateLimit::per_second(one)), ..Limits::default() };
        let keys = Keys::of(Protection::Authenticated, key(1));
        let rules = Rules {
            keys: Some(keys.into()),
            sessions: Some(1),
            limiter: Some(Limiter::new(limits).into()),
            ..Rules::default()
        };
        let mut reflector = reflector(rules);
        for ssid in 0..9 {
            assert_eq!(answer(&mut reflector, &signed(ssid, &key(3), &[])), Err(Reason::BadHmac));
        }
        assert!(answer(&mut reflector, &signed(5, &key(1), &[])).is_ok(), "neither its share nor its room");
    }

    #[test]
    fn tlvs_are_answered_under_their_hmac_alone() {
        let asked = [0x80, 3, 0, 4, 0, 0, 0, 0];
        let tag = key(1).hmac(&[&[0, 0, 0, 41], &asked]);
        let whole = [&asked[..], &[0x80, 8, 0, 16], &tag].concat();
        let mut reflector = keyed(Some(1));
        let bytes = answer(&mut reflector, &signed(0, &key(1), &whole)).expect("a reply");
        let extensions = &bytes[AUTHENTICATED_LEN..];
        assert_eq!(extensions[..8], [0, 3, 0, 4, 1, 2, 1, 2]);
        assert_eq!(Integrity::of(extensions, &[0; 4], Some(&key(1)), true), Integrity::Verified, "its own number is 0");
        let bytes = answer(&mut reflector, &signed(0, &key(1), &asked)).expect("a reply");
        assert_eq!(bytes[AUTHENTICATED_LEN..], [0x20, 3, 0, 4, 0, 0, 0, 0]);

        let keys = Keys::of(Protection::Extensions, key(1));
        let mut open = super::reflector(Rules { keys: Some(keys.into()), ..Rules::default() });
        let base = SenderPacket::new(41, NtpTimestamp::from_bits(5), ErrorEstimate::from_bits(0x0101));
        let bytes = answer(&mut open, &[base.as_bytes(), &whole].concat()).expect("a reply");
        assert_eq!(Integrity::of(&bytes[BASE_LEN..], &[0, 0, 0, 41], Some(&key(1)), true), Integrity::Verified);
        let bytes = answer(&mut open, &[base.as_bytes(), &asked].concat()).expect("a reply");
        assert_eq!(bytes[BASE_LEN..], [0, 3, 0, 4, 1, 2, 1, 2], "none is needed here");
    }

    proptest! {
        #[test]
        fn any_datagram_gets_one_verdict_keyed_or_not(
            mut payload in proptest::collection::vec(any::<u8>(), 0..300),
            extensions: bool, sessions in proptest::option::of(0..3_usize), sign: bool, grow: bool,
        ) {
            let protection = if extensions { Protection::Extensions } else { Protection::Authenticated };
            let keys = Keys::of(protection, key(1));
            let mut reflector = reflector(Rules { keys: Some(keys.into()), sessions, ..Rules::default() });
            if grow && payload.len() > 120 {
                // a TLV of ours where TLVs begin
                let at = if extensions { BASE_LEN } else { AUTHENTICATED_LEN };
                payload[at..at + 4].copy_from_slice(&[0x80, 250, 0, 4]);
            }
            if sign && payload.len() >= AUTHENTICATED_LEN {
                let tag = key(1).hmac(&[&payload[..AUTHENTICATED_PART]]);
                payload[AUTHENTICATED_PART..AUTHENTICATED_LEN].copy_from_slice(&tag);
            }
            match answer(&mut reflector, &payload) {
                Ok(bytes) => {
                    prop_assert!(extensions || sign);
                    if !extensions {
                        let (reply, _) = AuthenticatedReflectedPacket::parse(&bytes).expect("112 octets");
                        prop_assert!(key(1).verifies(&[&bytes[..AUTHENTICATED_PART]], &reply.hmac));
                    }
                }
                Err(reason) => {
                    let wanted = match payload.len() {
                        0..44 => Reason::Short,
                        44..112 if !extensions => Reason::Unauthenticated,
                        _ if !extensions && !sign => Reason::BadHmac,
                        _ => Reason::SessionsFull,
                    };
                    prop_assert_eq!(reason, wanted);
                }
            }
        }
    }
}
