//! What a Session-Reflector does to the TLVs of a packet (RFC 8972 §4), in place, so that a reply is as long as its request.
//!
//! Answered are Timestamp Information (3), Class of Service (4) and, where sessions are remembered, Direct Measurement (5) and Follow-Up
//! Telemetry (7). Extra Padding (1) goes back as it came. All others go back with flag U, Location (2) and Access Report (6) among them:
//! this host tells nobody its addresses, and has no access network to report of.

use pathlab_record::{ClockId, Plane, Planes, Stamp, Time};
use zerocopy::{FromBytes, IntoBytes};

use super::{Arrival, table::Memory};
use crate::wire::{
    ClassOfService, DirectMeasurement, ErrorEstimate, FollowUpTelemetry, NtpTimestamp, TimestampInformation, Tlv,
    sync_source, timestamp_method, tlv_flag, tlv_type,
};

/// What the values are made of.
pub(super) struct Context<'a> {
    pub(super) arrival: &'a Arrival,
    /// IPv4 TOS or IPv6 traffic class with which the request came; 0 where it is not known.
    pub(super) traffic_class: u8,
    pub(super) error_estimate: ErrorEstimate,
    /// Absent in stateless mode.
    pub(super) memory: Option<&'a Memory>,
}

/// Answers every TLV of `extensions`, which came in the request, up to a malformed one; what follows that stays as it came.
pub(super) fn reflect(extensions: &mut [u8], context: &Context<'_>) {
    let mut at = 0;
    while let Some(tlv) = Tlv::read(extensions, at) {
        let flags = match tlv.kind {
            _ if tlv.cut => tlv_flag::MALFORMED | if is_known(tlv.kind) { 0 } else { tlv_flag::UNRECOGNIZED },
            Some(kind) => answer(kind, &mut extensions[tlv.value()], context),
            None => tlv_flag::UNRECOGNIZED,
        };
        extensions[tlv.at] = flags;
        if flags & tlv_flag::MALFORMED != 0 {
            return;
        }
        at = tlv.end;
    }
}

fn is_known(kind: Option<u8>) -> bool {
    use tlv_type::*;
    matches!(
        kind,
        Some(EXTRA_PADDING | TIMESTAMP_INFORMATION | CLASS_OF_SERVICE | DIRECT_MEASUREMENT | FOLLOW_UP_TELEMETRY)
    )
}

/// Fills one value; the flags of its TLV.
fn answer(kind: u8, value: &mut [u8], context: &Context<'_>) -> u8 {
    let filled = match kind {
        tlv_type::EXTRA_PADDING => Some(()),
        // sub-TLVs may follow the four octets, of which none is defined
        tlv_type::TIMESTAMP_INFORMATION => TimestampInformation::mut_from_prefix(value)
            .ok()
            .map(|(information, _)| *information = timestamp_information(context)),
        tlv_type::CLASS_OF_SERVICE => {
            exactly(value).map(|class: &mut ClassOfService| *class = class.answered(context.traffic_class, true))
        }
        tlv_type::DIRECT_MEASUREMENT => {
            let Some(memory) = context.memory else { return tlv_flag::UNRECOGNIZED };
            exactly(value).map(|measurement: &mut DirectMeasurement| {
                measurement.reflector_received = memory.received.into();
                measurement.reflector_sent = memory.next.wrapping_add(1).wrapping_sub(memory.unsent).into();
            })
        }
        tlv_type::FOLLOW_UP_TELEMETRY => follow_up(value, context.memory),
        _ => return tlv_flag::UNRECOGNIZED,
    };
    if filled.is_some() { 0 } else { tlv_flag::MALFORMED }
}

fn exactly<T: FromBytes + IntoBytes + zerocopy::KnownLayout>(value: &mut [u8]) -> Option<&mut T> {
    T::mut_from_bytes(value).ok()
}

fn timestamp_information(context: &Context<'_>) -> TimestampInformation {
    // All that the kernel tells is whether some daemon holds its clock to a reference.
    let source = if context.error_estimate.is_synchronised() { sync_source::NTP } else { sync_source::LOCAL };
    TimestampInformation {
        sync_source_in: source,
        method_in: method(context.arrival.plane()),
        sync_source_out: source,
        // T3 stands in the packet before any card has seen it.
        method_out: timestamp_method::SW_LOCAL,
    }
}

fn method(plane: Plane) -> u8 {
    if plane == Plane::Nic { timestamp_method::HW_ASSIST } else { timestamp_method::SW_LOCAL }
}

/// RFC 8972 §4.7 with erratum 8339: a wrong length, or no memory, leaves number and time zero.
fn follow_up(value: &mut [u8], memory: Option<&Memory>) -> Option<()> {
    let Some(telemetry) = FollowUpTelemetry::mut_from_bytes(value).ok() else {
        let fields = value.len().min(12);
        value[..fields].fill(0);
        return None;
    };
    telemetry.as_mut_bytes().fill(0);
    let previous = memory.and_then(|memory| memory.previous);
    if let Some((previous, (plane, left))) =
        previous.and_then(|previous| Some((previous, outermost(&previous.stamps)?)))
    {
        telemetry.sequence = previous.sequence.into();
        telemetry.timestamp = NtpTimestamp::from(Time::from_nanos(left.nanos()));
        telemetry.method = method(plane);
    }
    Some(())
}

/// The outermost stamp of a departure that can be told in UTC.
fn outermost(stamps: &Planes) -> Option<(Plane, Stamp)> {
    [(Plane::Nic, stamps.nic), (Plane::Kernel, stamps.kernel), (Plane::App, stamps.app)]
        .into_iter()
        .filter_map(|(plane, stamp)| Some((plane, stamp?)))
        .find(|(_, stamp)| stamp.clock() == ClockId::Realtime)
}

#[cfg(test)]
mod tests;
