//! The base packet as an independent codec has it: twamp-rs, whose TWAMP test packets (RFC 5357) are STAMP's base packets.
//!
//! Its packets end in exactly 27 octets of padding, so that a request is 41 octets to it and a reply 68; and it refuses what TWAMP does not
//! have: SSIDs, PTP timestamps, octets that must be zero and are not. Within that every field must be the same to both.

use deku::{DekuContainerRead, DekuContainerWrite};
use pathlab_reflector::wire::{ErrorEstimate, NtpTimestamp, ReflectedPacket, SenderPacket};
use proptest::prelude::*;
use twamp_rs::twamp_test::{
    twamp_test_unauth::TwampTestPacketUnauth, twamp_test_unauth_reflected::TwampTestPacketUnauthReflected,
};
use zerocopy::{FromZeros, IntoBytes};

/// A timestamp in twamp-rs's words: its fields are its own.
fn time(timestamp: NtpTimestamp) -> String {
    let bits = timestamp.bits();
    let (seconds, fraction) = (bits >> 32, bits & 0xffff_ffff);
    format!("TimeStamp {{ integer_part_of_seconds: {seconds}, fractional_part_of_seconds: {fraction} }}")
}

fn estimate(estimate: ErrorEstimate) -> String {
    let bits = estimate.bits();
    let (s, scale, multiplier) = (u8::from(estimate.is_synchronised()), bits >> 8 & 0x3f, bits & 0xff);
    format!("ErrorEstimate {{ s: {s}, mbz: 0, scale: {scale}, multiplier: {multiplier} }}")
}

fn any_time() -> impl Strategy<Value = NtpTimestamp> {
    any::<u64>().prop_map(NtpTimestamp::from_bits)
}

/// Any but those with bit Z, which TWAMP does not have.
fn any_estimate() -> impl Strategy<Value = ErrorEstimate> {
    any::<u16>().prop_map(|bits| ErrorEstimate::from_bits(bits & !0x4000))
}

proptest! {
    #[test]
    fn a_request_is_the_same_to_both(sequence: u32, timestamp in any_time(), error_estimate in any_estimate()) {
        let ours = SenderPacket::new(sequence, timestamp, error_estimate);
        let head = &ours.as_bytes()[..41];
        let ((rest, _), theirs) = TwampTestPacketUnauth::from_bytes((head, 0)).expect("a packet of theirs");
        prop_assert!(rest.is_empty());
        prop_assert_eq!(theirs.sequence_number, sequence);
        prop_assert_eq!(format!("{:?}", theirs.timestamp), time(timestamp));
        prop_assert_eq!(format!("{:?}", theirs.error_estimate), estimate(error_estimate));
        let written = theirs.to_bytes().expect("written");
        prop_assert_eq!(written.as_slice(), head);
    }

    #[test]
    fn a_reply_is_the_same_to_both(
        numbers: (u32, u32), times in (any_time(), any_time(), any_time()),
        estimates in (any_estimate(), any_estimate()), ttl: u8,
    ) {
        let mut ours = ReflectedPacket::new_zeroed();
        (ours.sequence, ours.sender_sequence) = (numbers.0.into(), numbers.1.into());
        (ours.timestamp, ours.receive_timestamp, ours.sender_timestamp) = times;
        (ours.error_estimate, ours.sender_error_estimate) = estimates;
        ours.sender_ttl = ttl;
        // three of the 27 octets of padding are those that must be zero behind the TTL
        let octets = [ours.as_bytes(), &[0; 24]].concat();
        let ((rest, _), theirs) = TwampTestPacketUnauthReflected::from_bytes((&octets, 0)).expect("a packet of theirs");
        prop_assert!(rest.is_empty());
        prop_assert_eq!((theirs.sequence_number, theirs.sender_sequence_number), numbers);
        prop_assert_eq!(format!("{:?}", theirs.timestamp), time(times.0));
        prop_assert_eq!(format!("{:?}", theirs.receive_timestamp), time(times.1));
        prop_assert_eq!(format!("{:?}", theirs.sender_timestamp), time(times.2));
        prop_assert_eq!(format!("{:?}", theirs.error_estimate), estimate(estimates.0));
        prop_assert_eq!(format!("{:?}", theirs.error_estimate_sender), estimate(estimates.1));
        prop_assert_eq!(theirs.sender_ttl, ttl);
        prop_assert_eq!(theirs.to_bytes().expect("written"), octets);
    }

    #[test]
    fn what_they_send_is_read_by_us(sequence: u32, synchronised: bool) {
        let theirs = TwampTestPacketUnauth::new(sequence, 27, synchronised);
        let octets = [theirs.to_bytes().expect("written"), vec![0; 3]].concat();
        let (ours, rest) = SenderPacket::parse(&octets).expect("44 octets");
        prop_assert!(rest.is_empty());
        prop_assert_eq!((ours.sequence.get(), ours.ssid.get()), (sequence, 0));
        prop_assert_eq!(time(ours.timestamp), format!("{:?}", theirs.timestamp));
        prop_assert_eq!(estimate(ours.error_estimate), format!("{:?}", theirs.error_estimate));
        prop_assert_eq!(ours.error_estimate.is_synchronised(), synchronised);
    }
}
