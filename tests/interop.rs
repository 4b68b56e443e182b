//! STAMP as others speak it: every packet of theirs answered by us, every packet of ours by them, and every field read alike.

#[path = "support/hosts.rs"]
mod hosts;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/realtime.rs"]
mod realtime;
#[path = "support/verbs.rs"]
mod verbs;

use std::{
    io::Write,
    net::{SocketAddr, UdpSocket},
    path::Path,
};

use pathlab_guard::privilege::root_or_skip;
use pathlab_netlab::netns::Namespace;
use pathlab_record::Term;
use pathlab_reflector::{
    clock::realtime_now,
    wire::{ErrorEstimate, ReflectedPacket, SenderPacket, WireTime},
};
use pathlab_xdp::{XdpMode, XdpPass};
use peers::{
    scapy_or_skip, scapy_reads, stamp_suite_or_skip, stamp_suite_reflects, stamp_suite_reflects_with,
    stamp_suite_sends, stamp_suite_sends_with, tshark_or_skip, tshark_reads,
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use verbs::{Probe, Reflector};
use zerocopy::IntoBytes;

/// Packets of a conversation.
const COUNT: u32 = 200;
/// The right one of two hosts, where reflectors are.
const FAR: [&str; 2] = ["192.0.2.2:862", "[2001:db8::2]:862"];

const ON_SOCKETS: &str = "--listen 192.0.2.2:862 --listen [2001:db8::2]:862";
const IN_DRIVER: &str =
    "--datapath xdp --xdp-mode native --iface left --listen 192.0.2.2:862 --listen [2001:db8::2]:862";

#[test]
fn stamp_suite_gets_every_reply_from_our_socket_reflector() {
    if !root_or_skip("stamp_suite_gets_every_reply_from_our_socket_reflector") {
        return;
    }
    let Some(program) = stamp_suite_or_skip("stamp_suite_gets_every_reply_from_our_socket_reflector") else { return };
    let [near, far] = hosts::in_a_row("suite-socket");
    let account = all_answered(&program, &near, Reflector::start(&far, ON_SOCKETS));
    assert_eq!(account["received_on"]["kernel"], 2 * COUNT, "the kernel stamped each");
}

#[test]
fn stamp_suite_gets_every_reply_from_our_reflector_in_the_driver() {
    if !root_or_skip("stamp_suite_gets_every_reply_from_our_reflector_in_the_driver") {
        return;
    }
    let Some(program) = stamp_suite_or_skip("stamp_suite_gets_every_reply_from_our_reflector_in_the_driver") else {
        return;
    };
    let [near, far] = hosts::in_a_row("suite-driver");
    let _pass = pass(&near);
    let account = all_answered(&program, &near, Reflector::start(&far, IN_DRIVER));
    assert_eq!((&account["datapath"], &account["received_on"]["xdp"]), (&json!("xdp"), &json!(2 * COUNT)));
}

/// A veth end takes XDP_TX only while the other end runs an XDP program too.
fn pass(near: &Namespace) -> XdpPass {
    near.run(|| XdpPass::attach(hosts::RIGHT, XdpMode::Native)).expect("entered").expect("native XDP on a veth")
}

/// stamp-suite sends in both families, and both ends say that nothing was lost; the reflector's account.
fn all_answered(program: &Path, near: &Namespace, reflector: Reflector) -> Value {
    for target in FAR {
        let account = stamp_suite_sends(program, near, target.parse().expect("an address"), COUNT);
        let [sent, received, lost] = ["packets_sent", "packets_received", "packets_lost"].map(|name| &account[name]);
        eprintln!("stamp-suite to {target}: sent {sent}, received {received}, lost {lost}");
        assert_eq!([sent, received, lost], [COUNT, COUNT, 0].map(|count| json!(count)).each_ref(), "{account}");
        let strange =
            ["duplicate_replies", "unknown_replies", "late_replies"].map(|name| &account["measurements"][name]);
        assert_eq!(strange, [0, 0, 0].map(|count| json!(count)).each_ref(), "{account}");
        assert_eq!(account["owd"]["clock_quality"]["invalid_estimate"], 0, "{account}");
    }
    let account = reflector.stop();
    assert_eq!((&account["received"], &account["replied"]), (&json!(2 * COUNT), &json!(2 * COUNT)), "{account}");
    account
}

#[test]
fn our_probe_gets_every_reply_from_stamp_suite() {
    if !root_or_skip("our_probe_gets_every_reply_from_stamp_suite") {
        return;
    }
    let Some(program) = stamp_suite_or_skip("our_probe_gets_every_reply_from_stamp_suite") else { return };
    let [near, far] = hosts::in_a_row("suite-reflects");
    for target in FAR {
        let _suite = stamp_suite_reflects(&program, &far, target.parse().expect("an address"));
        let report = Probe::start(&near, &format!("{target} --interval 10ms --count {COUNT}")).report();
        let (total, counts) = (&report.total, &report.total.counts);
        eprintln!("our probe to stamp-suite at {target}: {counts:?}");
        let schedule = &total.schedule;
        assert_eq!((schedule.slots, schedule.refused), (COUNT.into(), 0));
        // A slot that a busy machine let pass is counted, not sent.
        assert_eq!((counts.sent, counts.received), (u64::from(COUNT) - schedule.skipped, counts.sent));
        assert!(counts.sent > u64::from(COUNT) / 2, "too busy a machine to measure on: {schedule:?}");
        assert_eq!((counts.duplicates, counts.stale, counts.mismatched), (0, 0, 0));
        assert_eq!((report.strays.unknown, report.strays.malformed, report.kernel_drops), (0, 0, 0));

        let split = &total.split;
        assert_eq!(split.negative, 0, "no stage of the ledger is below zero: {split:?}");
        for term in Term::ALL {
            assert_eq!(split.parts[term.name()].count, counts.received, "{term} stands by itself");
        }
        let [rtt, rtt_app, whole] = [total.rtt, total.rtt_app, split.total].map(|row| row.expect("replies"));
        assert!(0 < rtt.min && rtt.p50 <= rtt_app.p50 && rtt_app.p50 <= whole.p50, "{rtt:?} {rtt_app:?} {whole:?}");
        assert!(split.parts[Term::Residence.name()].max <= rtt.max, "{split:?}");
    }
}

/// The key of the conversations: the same octets in stamp-suite's option and in our file.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Our key file, and stamp-suite's.
fn key_files() -> [NamedTempFile; 2] {
    [format!("default = \"{KEY}\"\n"), KEY.to_owned()].map(|text| {
        // made for its owner alone
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    })
}

#[test]
fn stamp_suite_gets_tlvs_and_hmacs_from_our_reflector() {
    let name = "stamp_suite_gets_tlvs_and_hmacs_from_our_reflector";
    if !root_or_skip(name) {
        return;
    }
    let Some(program) = stamp_suite_or_skip(name) else { return };
    let [near, far] = hosts::in_a_row("suite-tlvs");
    let [ours, theirs] = key_files().map(|file| file.into_temp_path());
    let tlvs = "--timestamp-info --direct-measurement --follow-up-telemetry";
    let keyed = format!("--auth-mode A --hmac-key-file {} --ssid 9", theirs.display());
    for (kind, reflects, sends) in [
        ("open, TLVs 3, 5, 7", "--stateful".to_owned(), tlvs.to_owned()),
        ("authenticated", format!("--auth-key-file {}", ours.display()), keyed.clone()),
        (
            "authenticated, TLVs 3, 5, 7, 8",
            format!("--stateful --auth-key-file {}", ours.display()),
            format!("{keyed} {tlvs}"),
        ),
    ] {
        for datapath in ["", "--datapath afxdp --iface left"] {
            let _pass = pass(&near);
            let reflector = Reflector::start(&far, &format!("{ON_SOCKETS} {reflects} {datapath}"));
            for target in FAR {
                let target = target.parse().expect("an address");
                let account = stamp_suite_sends_with(&program, &near, target, COUNT, &sends);
                let [sent, received, lost] =
                    ["packets_sent", "packets_received", "packets_lost"].map(|name| &account[name]);
                eprintln!("stamp-suite ({kind}) to {target} {datapath}: sent {sent}, received {received}, lost {lost}");
                assert_eq!([sent, received, lost], [COUNT, COUNT, 0].map(|count| json!(count)).each_ref(), "{account}");
            }
            let account = reflector.stop();
            assert_eq!(
                (&account["received"], &account["replied"]),
                (&json!(2 * COUNT), &json!(2 * COUNT)),
                "{account}"
            );
        }
    }
    // Without a key, and with another: no reply, and each is counted under its reason.
    let reflector = Reflector::start(&far, &format!("{ON_SOCKETS} --auth-key-file {}", ours.display()));
    let target = FAR[0].parse().expect("an address");
    let wrong = format!("--auth-mode A --hmac-key {}", KEY.replace('0', "1"));
    for sends in ["", wrong.as_str()] {
        let account = stamp_suite_sends_with(&program, &near, target, 10, sends);
        assert_eq!(account["packets_received"], 0, "{account}");
    }
    let account = reflector.stop();
    assert_eq!((&account["refused"]["unauthenticated"], &account["refused"]["bad_hmac"]), (&json!(10), &json!(10)));
}

#[test]
fn our_probe_reads_tlvs_and_hmacs_of_stamp_suite() {
    let name = "our_probe_reads_tlvs_and_hmacs_of_stamp_suite";
    if !root_or_skip(name) {
        return;
    }
    let Some(program) = stamp_suite_or_skip(name) else { return };
    let [near, far] = hosts::in_a_row("probe-tlvs");
    let [ours, theirs] = key_files().map(|file| file.into_temp_path());
    let keyed = format!("--auth-mode A --require-hmac --verify-tlv-hmac --hmac-key-file {}", theirs.display());
    let auth = format!("--auth-key-file {} --ssid 9", ours.display());
    for (kind, reflects, sends, follow_up) in [
        ("open, TLVs 3, 5, 7", "--stateful-reflector".to_owned(), "--tlv timestamps,direct,follow-up".to_owned(), true),
        ("open, unknown stages", "--stateful-reflector".to_owned(), "--tlv stages".to_owned(), false),
        ("authenticated", keyed.clone(), auth.clone(), false),
        (
            "authenticated, TLVs 3, 5, 7, 8",
            format!("{keyed} --stateful-reflector"),
            format!("{auth} --tlv timestamps,direct,follow-up"),
            true,
        ),
    ] {
        for target in FAR {
            let _suite = stamp_suite_reflects_with(&program, &far, target.parse().expect("an address"), &reflects);
            let report = Probe::start(&near, &format!("{target} --interval 10ms --count {COUNT} {sends}")).report();
            let (counts, strays) = (&report.total.counts, report.strays);
            eprintln!("our probe ({kind}) to stamp-suite at {target}: {counts:?}");
            assert_eq!(counts.received, counts.sent, "{kind}");
            assert!(counts.sent > u64::from(COUNT) / 2, "too busy a machine to measure on");
            assert_eq!([strays.unknown, strays.malformed, strays.bad_hmac, strays.bad_extensions], [0; 4], "{kind}");
            assert_eq!(report.total.split.negative, 0, "{kind}: {:?}", report.total.split);
            // Its follow-up is the very timestamp of the reply, as software without kernel stamps has it: no stage of its own.
            assert!(report.total.split.inner.is_empty(), "{kind}: {:?}", report.total.split.inner);
            if follow_up {
                let told = counts.followed_up;
                assert!(told * 10 > counts.received * 9, "{kind}: {told} departures of {}", counts.received);
            } else {
                assert_eq!(counts.followed_up, 0, "{kind}");
            }
        }
    }
    // With another key than the reflector has nobody answers.
    let other = format!("--auth-mode A --hmac-key {}", KEY.replace('0', "1"));
    let _suite = stamp_suite_reflects_with(&program, &far, FAR[0].parse().expect("an address"), &other);
    let mut silent = Probe::start(&near, &format!("{} --interval 10ms --count 10 --timeout 200ms {auth}", FAR[0]));
    let status = silent.process.0.wait().expect("a child");
    assert!(!status.success(), "nothing authentic came back");
}

#[test]
fn tshark_reads_our_base_packets() {
    let name = "tshark_reads_our_base_packets";
    if !root_or_skip(name) || !tshark_or_skip(name) {
        return;
    }
    let [near, far] = hosts::in_a_row("tshark");
    let client = near.run(|| UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("a free port");
    client.set_read_timeout(Some(verbs::PATIENCE)).expect("a timeout");
    let _reflector = Reflector::start(&far, ON_SOCKETS);
    let port = client.local_addr().expect("bound").port();
    let mut datagrams = Vec::new();
    for sequence in 0..5 {
        let request = SenderPacket::new(sequence, realtime_now().into(), ErrorEstimate::from_nanos(1000, true));
        client.send_to(request.as_bytes(), FAR[0]).expect("sent");
        let (_, reply) = receive(&client);
        datagrams.push((port, 862, request.as_bytes().to_vec()));
        datagrams.push((862, port, reply));
    }
    let read = tshark_reads(&datagrams);
    assert_eq!(read.len(), datagrams.len());
    for (fields, (from, _, bytes)) in read.iter().zip(&datagrams) {
        let (sent, _) = SenderPacket::parse(bytes).expect("44 octets");
        let bits = sent.error_estimate.bits();
        assert_eq!(fields["twamp.test.seq_number"], sent.sequence.get().to_string());
        assert_time(&fields["twamp.test.timestamp"], sent.timestamp.bits());
        assert_eq!(number(&fields["twamp.test.error_estimate"]), u64::from(bits));
        assert_eq!(number(&fields["twamp.test.error_estimate.s"]), u64::from(sent.error_estimate.is_synchronised()));
        assert_eq!(number(&fields["twamp.test.error_estimate.z"]), u64::from(sent.error_estimate.is_ptp()));
        assert_eq!(number(&fields["twamp.test.error_estimate.scale"]), u64::from(bits >> 8 & 0x3f));
        assert_eq!(number(&fields["twamp.test.error_estimate.multiplier"]), u64::from(bits & 0xff));
        if *from == 862 {
            let (reply, _) = ReflectedPacket::parse(bytes).expect("44 octets");
            assert_eq!(fields["twamp.test.sender_seq_number"], reply.sender_sequence.get().to_string());
            assert_time(&fields["twamp.test.receive_timestamp"], reply.receive_timestamp.bits());
            assert_time(&fields["twamp.test.sender_timestamp"], reply.sender_timestamp.bits());
            let echoed = u64::from(reply.sender_error_estimate.bits());
            assert_eq!(number(&fields["twamp.test.sender_error_estimate"]), echoed);
            // What TWAMP calls must-be-zero is STAMP's SSID (RFC 8972, section 3).
            assert_eq!(number(&fields["twamp.test.mbz1"]), u64::from(reply.ssid.get()));
            assert_eq!(number(&fields["twamp.test.mbz2"]), 0);
            assert_eq!(fields["twamp.test.sender_ttl"], reply.sender_ttl.to_string());
        }
    }
}

/// A number as tshark prints one: decimal, hexadecimal, or a truth.
fn number(text: &str) -> u64 {
    match (text, text.strip_prefix("0x")) {
        ("True", _) => 1,
        ("False", _) => 0,
        (_, Some(digits)) => u64::from_str_radix(digits, 16).expect("hexadecimal"),
        _ => text.parse().expect("a number"),
    }
}

/// That tshark's `..., HH:MM:SS.NNNNNNNNN UTC` is the time of day in an NTP timestamp, to the nanosecond that its rounding may take.
fn assert_time(text: &str, ntp: u64) {
    let clock = text.split_whitespace().rev().nth(1).unwrap_or_else(|| panic!("no time in {text:?}"));
    let (clock, nanos) = clock.split_once('.').unwrap_or_else(|| panic!("no fraction in {text:?}"));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().expect("digits"));
    let read = seconds * 1_000_000_000 + nanos.parse::<u64>().expect("nine digits");
    // The NTP era began at midnight, so days are whole.
    let sent = (ntp >> 32) % 86_400 * 1_000_000_000 + (((ntp & 0xffff_ffff) * 1_000_000_000) >> 32);
    assert!(read.abs_diff(sent) <= 1, "{text:?} is not {sent} ns into the day");
}

#[test]
fn scapy_reads_our_packets_field_by_field() {
    if !root_or_skip("scapy_reads_our_packets_field_by_field")
        || !scapy_or_skip("scapy_reads_our_packets_field_by_field")
    {
        return;
    }
    let [near, far] = hosts::in_a_row("scapy");
    let bind = |host: &Namespace, address: &str| {
        let socket = host.run(|| UdpSocket::bind(address)).expect("entered").expect("a free port");
        socket.set_read_timeout(Some(verbs::PATIENCE)).expect("a timeout");
        socket
    };
    let mut datagrams = Vec::new();
    for (target, any) in FAR.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let begun = realtime_now();
        // What our probe sends, taken from the wire by a socket that never answers.
        let requests: Vec<(SocketAddr, Vec<u8>)> = {
            let far_socket = bind(&far, target);
            let _probe =
                Probe::start(&near, &format!("{target} --size 60 --interval 10ms --duration 60s --timeout 60s"));
            (0..3).map(|_| receive(&far_socket)).collect()
        };
        // The same octets answered by each of our reflectors.
        let socket = bind(&near, any);
        for args in [ON_SOCKETS, IN_DRIVER] {
            let _pass = pass(&near);
            let _reflector = Reflector::start(&far, args);
            for (prober, request) in &requests {
                socket.send_to(request, target).expect("sent");
                let (from, reply) = receive(&socket);
                assert_eq!((from.to_string(), reply.len()), (target.to_owned(), request.len()));
                datagrams.push((prober.port(), request.clone(), begun, reply));
            }
        }
    }
    let ended = realtime_now();
    let all: Vec<(u16, u16, &[u8])> = datagrams
        .iter()
        .flat_map(|(port, request, _, reply)| [(*port, 862, request.as_slice()), (862, *port, reply.as_slice())])
        .collect();
    let read = scapy_reads(&all);
    assert_eq!(read.len(), 2 * 2 * 2 * 3, "both families, both reflectors, both directions, three packets");
    for (place, (pair, (_, request, begun, reply))) in read.chunks(2).zip(&datagrams).enumerate() {
        let (sent, rest) = SenderPacket::parse(request).expect("a request");
        let (reflected, back) = ReflectedPacket::parse(reply).expect("a reply");
        assert_eq!(pair[0], request_fields(sent, rest));
        assert_eq!(pair[1], reply_fields(reflected, back));
        // Extra Padding (RFC 8972, section 4.1) to 60 octets, with the flag U that a sender sets and a reflector takes off.
        let padding = |flags: u8| json!([{ "flags": flags, "type": 1, "len": 12, "value": "00".repeat(12) }]);
        assert_eq!((&pair[0]["tlvs"], &pair[1]["tlvs"]), (&padding(0x80), &padding(0)));
        assert_eq!(pair[0]["seq"], place % 3);
        let times = [WireTime::read(sent.timestamp, sent.error_estimate), reflected.received_at(), reflected.sent_at()];
        let [Some(WireTime::Ntp(a1)), Some(WireTime::Ntp(b2)), Some(WireTime::Ntp(b3))] = times else {
            panic!("three NTP times: {times:?}")
        };
        assert!(*begun <= a1 && a1 <= b2 && b2 <= b3 && b3 <= ended, "{times:?}");
    }
}

/// Every TLV that our probe asks with and our reflectors answer, open and under an HMAC TLV, over sockets and AF_XDP.
#[test]
fn scapy_reads_every_tlv_of_ours() {
    let name = "scapy_reads_every_tlv_of_ours";
    if !root_or_skip(name) || !scapy_or_skip(name) {
        return;
    }
    let [near, far] = hosts::in_a_row("scapy-tlvs");
    let mut key = NamedTempFile::new().expect("a temporary file");
    write!(key, "protects = \"extensions\"\ndefault = \"{KEY}\"\n").expect("written");
    let keyed = format!("--auth-key-file {}", key.path().display());
    let _pass = pass(&near);
    for (key, more) in [("", &[][..]), (keyed.as_str(), &[8][..])] {
        for datapath in ["", "--datapath afxdp --iface left"] {
            let socket = near.run(|| UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("a free port");
            socket.set_read_timeout(Some(verbs::PATIENCE)).expect("a timeout");
            let request = {
                let far_socket = far.run(|| UdpSocket::bind(FAR[0])).expect("entered").expect("a free port");
                far_socket.set_read_timeout(Some(verbs::PATIENCE)).expect("a timeout");
                let asks = "--tlv stages,follow-up,timestamps,cos,direct --interval 10ms --duration 60s --timeout 60s";
                let _probe = Probe::start(&near, &format!("{} {asks} {key}", FAR[0]));
                receive(&far_socket).1
            };
            let _reflector = Reflector::start(&far, &format!("{ON_SOCKETS} --stateful {key} {datapath}"));
            let mut datagrams = Vec::new();
            for _ in 0..3 {
                socket.send_to(&request, FAR[0]).expect("sent");
                let (_, reply) = receive(&socket);
                assert_eq!(reply.len(), request.len());
                datagrams.extend([(40_000, 862, request.clone()), (862, 40_000, reply)]);
            }
            let all: Vec<(u16, u16, &[u8])> =
                datagrams.iter().map(|(from, to, bytes)| (*from, *to, &bytes[..])).collect();
            for (read, (_, to, bytes)) in scapy_reads(&all).iter().zip(&datagrams) {
                let tlvs = tlv_fields(&bytes[44..]);
                assert_eq!(read["tlvs"], json!(tlvs), "{key} {datapath}");
                let mut kinds: Vec<u64> = tlvs.iter().map(|tlv| tlv["type"].as_u64().expect("a number")).collect();
                kinds.sort_unstable();
                assert_eq!(kinds, [&[3, 4, 5, 7][..], more, &[250]].concat(), "{key} {datapath}");
                // U from the sender; none of U, M and I from a reflector that knows them all and finds them sound.
                let flags = if *to == 862 { 0x80 } else { 0 };
                assert!(tlvs.iter().all(|tlv| tlv["flags"] == flags), "{key} {datapath}: {tlvs:?}");
            }
        }
    }
}

fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    (from, buffer[..length].to_vec())
}

/// What our codec reads in a request, in scapy's words.
fn request_fields(packet: &SenderPacket, rest: &[u8]) -> Value {
    json!({
        "name": "STAMP Session-Sender Test",
        "seq": packet.sequence.get(),
        "ts": packet.timestamp.bits(),
        "err_estimate": estimate_fields(packet.error_estimate),
        "ssid": packet.ssid.get(),
        "mbz": 0,
        "tlvs": tlv_fields(rest),
    })
}

fn reply_fields(packet: &ReflectedPacket, rest: &[u8]) -> Value {
    json!({
        "name": "STAMP Session-Reflector Test",
        "seq": packet.sequence.get(),
        "ts": packet.timestamp.bits(),
        "err_estimate": estimate_fields(packet.error_estimate),
        "ssid": packet.ssid.get(),
        "ts_rx": packet.receive_timestamp.bits(),
        "seq_sender": packet.sender_sequence.get(),
        "ts_sender": packet.sender_timestamp.bits(),
        "err_estimate_sender": estimate_fields(packet.sender_error_estimate),
        "mbz1": 0,
        "ttl_sender": 64,
        "mbz2": 0,
        "tlvs": tlv_fields(rest),
    })
}

fn estimate_fields(estimate: ErrorEstimate) -> Value {
    let bits = estimate.bits();
    json!({
        "S": u8::from(estimate.is_synchronised()),
        "Z": u8::from(estimate.is_ptp()),
        "scale": bits >> 8 & 0x3f,
        "multiplier": bits & 0xff,
    })
}

/// What stands behind a base packet, read by nothing but the figure of RFC 8972, section 4: flags, type, length, value.
fn tlv_fields(mut rest: &[u8]) -> Vec<Value> {
    let mut tlvs = Vec::new();
    while let [flags, kind, high, low, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = behind.split_at(length);
        let hex: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
        tlvs.push(json!({ "flags": flags, "type": kind, "len": length, "value": hex }));
        rest = next;
    }
    assert!(rest.is_empty(), "octets behind the last TLV: {rest:?}");
    tlvs
}
