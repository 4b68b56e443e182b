//! What is cut short, or not ours, or the stack's.

use super::*;

#[test]
fn short_datagrams_are_dropped_at_every_length() {
    if !root_or_skip("short_datagrams_are_dropped_at_every_length") {
        return;
    }
    let program = reflector();
    for length in 0..44 {
        for frame in [Frame::v4(request(length)), Frame::v6(request(length))] {
            expect(&program, &frame.bytes(), Counter::Short);
            let mut padded = frame.bytes();
            padded.resize(padded.len().max(60), 0);
            expect(&program, &padded, Counter::Short);
        }
    }
}

#[test]
fn frames_cut_at_any_length_pass() {
    if !root_or_skip("frames_cut_at_any_length_pass") {
        return;
    }
    let program = reflector();
    for frame in [Frame::v4(request(44)), Frame::v6(request(44))] {
        for vlans in [vec![], vec![7], vec![100, 7]] {
            let bytes = Frame { vlans, ..frame.clone() }.bytes();
            // the kernel runs nothing shorter than an Ethernet header
            for length in 14..bytes.len() {
                expect(&program, &bytes[..length], Counter::Passed);
            }
        }
    }
}

#[test]
fn what_is_not_ours_passes() {
    if !root_or_skip("what_is_not_ours_passes") {
        return;
    }
    let program = reflector();
    let pass = |bytes: &[u8]| drop(expect(&program, bytes, Counter::Passed));

    for frame in [Frame::v4(request(44)), Frame::v6(request(44))] {
        let mut other = frame.clone();
        other.destination.set_port(PORT + 1);
        pass(&other.bytes());
        // broadcast and multicast frames, even with our address inside
        for mac in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            pass(&Frame { mac: [THEIR_MAC, mac], ..frame.clone() }.bytes());
        }
        // three tags
        let mut tagged = Frame { vlans: vec![100, 7], ..frame.clone() }.bytes();
        tagged.splice(12..12, [0x88, 0xa8, 0, 5]);
        pass(&tagged);
        // octets after the datagram, which a reply would carry back
        let mut trailer = frame.bytes();
        trailer.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        pass(&trailer);
    }
    // addresses that are not ours: routed through this host, broadcast, multicast
    for address in ["192.0.2.2", "192.0.2.255", "255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1"] {
        pass(&Frame::between(THEIR_V4, address.parse().expect("an address"), request(44)).bytes());
    }
    for address in ["2001:db8::2", "ff02::1", "::", "::1", "::ffff:192.0.2.2"] {
        pass(&Frame::between(THEIR_V6, address.parse().expect("an address"), request(44)).bytes());
    }
}

#[test]
fn what_the_parser_leaves_to_the_stack_passes() {
    if !root_or_skip("what_the_parser_leaves_to_the_stack_passes") {
        return;
    }
    let program = reflector();
    // (offset from the IP header, octet, what it makes of the packet)
    let v4 = [
        (0, 0x46, "options"),
        (0, 0x44, "header length under 20"),
        (0, 0x65, "version 6 in an IPv4 frame"),
        (2, 0xff, "total length beyond the frame"),
        (3, 19, "total length within the header"),
        (6, 0x20, "first fragment"),
        (7, 0x01, "later fragment"),
        (9, 6, "TCP"),
        (20 + 5, 7, "UDP length under 8"),
        (20 + 5, 51, "UDP length under that of IP"),
        (20 + 5, 53, "UDP length over that of IP"),
    ];
    let v6 = [
        (0, 0x40, "version 4 in an IPv6 frame"),
        (4, 0xff, "payload length beyond the frame"),
        (5, 0, "payload length zero"),
        (6, 0, "hop-by-hop options"),
        (6, 44, "fragment"),
        (6, 58, "ICMPv6"),
        (40 + 5, 7, "UDP length under 8"),
        (40 + 5, 51, "UDP length under that of IP"),
    ];
    for (frame, changes) in [(Frame::v4(request(44)), &v4[..]), (Frame::v6(request(44)), &v6[..])] {
        for (offset, octet, what) in changes {
            let mut bytes = frame.bytes();
            bytes[frame.ip_offset() + offset] = *octet;
            let outcome = program.test_run(&bytes).expect("runs");
            assert_eq!((outcome.action, outcome.frame), (Action::Pass, bytes), "{what}");
        }
    }
    let mut arp = Frame::v4(request(44)).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    expect(&program, &arp, Counter::Passed);
}

/// `headers` put between the IP header and the UDP header of a packet that is otherwise right.
fn with_headers(frame: &Frame, headers: &[u8], next_header: u8) -> Vec<u8> {
    let (mut bytes, ip, udp) = (frame.bytes(), frame.ip_offset(), frame.udp_offset());
    bytes.splice(udp..udp, headers.iter().copied());
    let length_at = if frame.source.is_ipv4() { ip + 2 } else { ip + 4 };
    let length = u16::from_be_bytes([bytes[length_at], bytes[length_at + 1]]) + headers.len() as u16;
    bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    if frame.source.is_ipv4() {
        bytes[ip] += (headers.len() / 4) as u8;
        bytes[ip + 10..ip + 12].fill(0);
        let words = bytes[ip..udp + headers.len()].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        bytes[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[ip + 6] = next_header;
    }
    bytes
}

/// Packets that are right in every octet and yet are the stack's: a reply would have to know what the options and headers want.
#[test]
fn options_and_extension_headers_pass_in_every_tagging_whoever_gets_the_rest() {
    if !root_or_skip("options_and_extension_headers_pass_in_every_tagging_whoever_gets_the_rest") {
        return;
    }
    let (router_alert, timestamps) = ([0x94, 4, 0, 0], [0x44, 8, 5, 0, 0, 0, 0, 0]);
    let (padding, routing) = ([17, 0, 1, 4, 0, 0, 0, 0], [17, 0, 4, 0, 0, 0, 0, 0]);
    let fragment = [17, 0, 0, 0, 0, 0, 0, 1];
    for hand_over in [HandOver::Nothing, HandOver::Longer, HandOver::All] {
        let config = XdpReflectorConfig { hand_over, ..config() };
        let program = ReflectorProgram::load_with_fixed_clock(&config, T2, T3).expect("loads");
        for vlans in [vec![], vec![7], vec![100, 7]] {
            for length in [44, 200] {
                let v4 = Frame { vlans: vlans.clone(), ..Frame::v4(request(length)) };
                for options in [&[1, 1, 1, 0][..], &router_alert, &timestamps, &[1; 40]] {
                    let bytes = with_headers(&v4, options, 0);
                    let ip = etherparse::Ipv4HeaderSlice::from_slice(&bytes[v4.ip_offset()..]).expect("a header");
                    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "a right packet");
                    expect(&program, &bytes, Counter::Passed);
                }
                let v6 = Frame { vlans: vlans.clone(), ..Frame::v6(request(length)) };
                for (kind, header) in [(0, padding), (60, padding), (43, routing), (44, fragment)] {
                    expect(&program, &with_headers(&v6, &header, kind), Counter::Passed);
                }
            }
        }
    }
}
