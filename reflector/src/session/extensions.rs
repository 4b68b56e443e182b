//! What a Session-Reflector does to the TLVs of a packet (RFC 8972 §4), in place, so that a reply is as long as its request.
//!
//! Answered are Timestamp Information (3), Class of Service (4), Follow-Up Telemetry (7), our own Reflector Stages (250), our own Return Trace (251)
//! where that is allowed, the HMAC (8) where there is a key, and Direct Measurement (5) where sessions are remembered. Extra Padding (1) goes back as it came. All others go back
//! with flag U, Location (2) and Access Report (6) among them: this host tells nobody its addresses, and has no access network.

use pathlab_record::{ClockId, Monotonic, Plane, Planes, Stamp, Time};
use pathlab_xdp::clock::Assurance;
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use super::{Arrival, return_trace::Told, table::Memory};
use crate::{
    keys::{HMAC_LEN, Key},
    wire::{
        CardWord, ClassOfService, DirectMeasurement, ErrorEstimate, FollowUpTelemetry, NtpTimestamp, REFLECTOR_STAGES,
        RETURN_TRACE, ReflectorStages, ReturnTrace, TimestampInformation, Tlv, sync_source, timestamp_method, tlv_flag,
        tlv_type,
    },
};

/// What the values are made of.
pub(super) struct Context<'a> {
    pub(super) arrival: &'a Arrival,
    /// IPv4 TOS or IPv6 traffic class with which the request came; 0 where it is not known.
    pub(super) traffic_class: u8,
    /// Bit N: replies may have DSCP N because a sender asks for it.
    pub(super) allowed_dscp: u64,
    pub(super) error_estimate: ErrorEstimate,
    /// How far the card's clock is confirmed, as it stood before the arrival was told.
    pub(super) assurance: Assurance,
    /// When the request was read.
    pub(super) now: Time<Monotonic>,
    /// Absent in stateless mode.
    pub(super) memory: Option<&'a Memory>,
    /// Absent where the sender may not ask, or did not.
    pub(super) return_trace: Option<&'a Told>,
}

/// Whether what the TLVs say may be used (RFC 8972 §4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// They carry no HMAC, and need none.
    Unprotected,
    /// Their HMAC is right.
    Verified,
    /// Their HMAC is wrong, in a wrong place, missing where it is needed, or there is no key to check it.
    Failed,
}

impl Integrity {
    /// Checks `extensions` of a packet with this Sequence Number, four octets. `required`: in authenticated mode all but a single Extra Padding must be
    /// protected.
    pub fn of(extensions: &[u8], sequence: &[u8], key: Option<&Key>, required: bool) -> Self {
        let Some(hmac) = Tlv::all(extensions).find(|tlv| tlv.kind == Some(tlv_type::HMAC)) else {
            let mut tlvs = Tlv::all(extensions);
            let first = tlvs.next();
            let lone_padding =
                first.is_none_or(|tlv| tlv.kind == Some(tlv_type::EXTRA_PADDING)) && tlvs.next().is_none();
            return if required && !lone_padding { Self::Failed } else { Self::Unprotected };
        };
        let mut behind = std::iter::successors(Tlv::read(extensions, hmac.end), |tlv| Tlv::read(extensions, tlv.end));
        let in_place = behind.all(|tlv| tlv.kind == Some(tlv_type::EXTRA_PADDING));
        let (tag, key) = (<&[u8; HMAC_LEN]>::try_from(&extensions[hmac.value()]), key);
        match (tag, key) {
            (Ok(tag), Some(key)) if in_place && !hmac.cut => {
                if key.verifies(&[sequence, &extensions[..hmac.at]], tag) {
                    Self::Verified
                } else {
                    Self::Failed
                }
            }
            _ => Self::Failed,
        }
    }
}

/// Answers every TLV of `extensions`, which came in the request, up to a malformed one; what follows that stays as it came.
pub(super) fn reflect(extensions: &mut [u8], integrity: Integrity, context: &Context<'_>) {
    let failed = integrity == Integrity::Failed;
    let mut at = 0;
    while let Some(tlv) = Tlv::read(extensions, at) {
        let unrecognized = if is_known(tlv.kind) { 0 } else { tlv_flag::UNRECOGNIZED };
        let flags = match tlv.kind {
            _ if tlv.cut => tlv_flag::MALFORMED | unrecognized,
            Some(tlv_type::HMAC) if tlv.value().len() != HMAC_LEN => tlv_flag::MALFORMED,
            Some(_) if failed => unrecognized,
            Some(kind) => answer(kind, &mut extensions[tlv.value()], context),
            None => unrecognized,
        };
        extensions[tlv.at] = flags | if failed { tlv_flag::INTEGRITY_FAILED } else { 0 };
        if flags & tlv_flag::MALFORMED != 0 {
            return;
        }
        at = tlv.end;
    }
}

/// Adds what is known of a reply only as it is sent: B3 to the stages, and where the request's HMAC was right, that of the reply.
pub(super) fn finish(extensions: &mut [u8], sent: Stamp, signing: Option<(&[u8], &Key)>) {
    let mut at = 0;
    while let Some(tlv) = Tlv::read(extensions, at).filter(|tlv| !tlv.cut) {
        at = tlv.end;
        match (tlv.kind, tlv.flags, signing) {
            (Some(REFLECTOR_STAGES), 0, _) => {
                if let Some(stages) = exactly::<ReflectorStages>(&mut extensions[tlv.value()]) {
                    stages.sent_app = Some(sent).into();
                }
            }
            (Some(tlv_type::HMAC), 0, Some((sequence, key))) => {
                let tag = key.hmac(&[sequence, &extensions[..tlv.at]]);
                if let Some(field) = exactly(&mut extensions[tlv.value()]) {
                    *field = tag;
                }
            }
            _ => {}
        }
    }
}

fn is_known(kind: Option<u8>) -> bool {
    use tlv_type::*;
    matches!(
        kind,
        Some(
            EXTRA_PADDING
                | TIMESTAMP_INFORMATION
                | CLASS_OF_SERVICE
                | DIRECT_MEASUREMENT
                | FOLLOW_UP_TELEMETRY
                | HMAC
                | REFLECTOR_STAGES
                | RETURN_TRACE
        )
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
        tlv_type::CLASS_OF_SERVICE => exactly(value).map(|class: &mut ClassOfService| {
            *class = class.answered(context.traffic_class, reply_dscp(*class, context) != class.dscp1());
        }),
        tlv_type::DIRECT_MEASUREMENT => {
            let Some(memory) = context.memory else { return tlv_flag::UNRECOGNIZED };
            exactly(value).map(|measurement: &mut DirectMeasurement| {
                measurement.reflector_received = memory.received.into();
                measurement.reflector_sent = memory.next.wrapping_add(1).wrapping_sub(memory.unsent).into();
            })
        }
        tlv_type::FOLLOW_UP_TELEMETRY => follow_up(value, context.memory),
        // checked before, and written when all else is
        tlv_type::HMAC => Some(()),
        REFLECTOR_STAGES => match exactly::<ReflectorStages>(value) {
            Some(theirs) if theirs.is_ours() => {
                *theirs = stages(context);
                Some(())
            }
            // another experiment of the same number
            _ => return tlv_flag::UNRECOGNIZED,
        },
        RETURN_TRACE => match (ReturnTrace::split(value), context.return_trace) {
            (Some((head, reports)), Some(told)) => {
                let count = reports.len().min(told.reports().len());
                (head.given, head.reports) = (told.given, (count as u16).into());
                (head.limited, head.refused) = (told.limited.into(), told.refused.into());
                reports.as_mut_bytes().fill(0);
                reports[..count].copy_from_slice(&told.reports()[..count]);
                Some(())
            }
            _ => return tlv_flag::UNRECOGNIZED,
        },
        _ => return tlv_flag::UNRECOGNIZED,
    };
    if filled.is_some() { 0 } else { tlv_flag::MALFORMED }
}

/// The DSCP of the reply (RFC 8972 §4.4): what the sender asks for, where that is allowed, else what its request came with.
fn reply_dscp(class: ClassOfService, context: &Context<'_>) -> u8 {
    let asked = class.dscp1();
    if context.allowed_dscp & 1 << asked != 0 { asked } else { context.traffic_class >> 2 }
}

/// The DSCP that the first Class of Service TLV gives the reply; `None` without one. To be asked before it is answered.
pub(super) fn dscp(extensions: &[u8], integrity: Integrity, context: &Context<'_>) -> Option<u8> {
    let class = Tlv::all(extensions)
        .find(|tlv| tlv.kind == Some(tlv_type::CLASS_OF_SERVICE) && !tlv.cut)
        .filter(|_| integrity != Integrity::Failed)?;
    let class = ClassOfService::read_from_bytes(&extensions[class.value()]).ok()?;
    Some(reply_dscp(class, context))
}

/// The Hop Limit that the first Return Trace TLV asks for, and its room for reports; `None` without one.
pub(super) fn return_trace(extensions: &mut [u8]) -> Option<(u8, usize)> {
    let tlv = Tlv::all(extensions).find(|tlv| tlv.kind == Some(RETURN_TRACE) && !tlv.cut)?;
    let (head, reports) = ReturnTrace::split(&mut extensions[tlv.value()])?;
    Some((head.asked, reports.len()))
}

fn stages(context: &Context<'_>) -> ReflectorStages {
    let arrival = context.arrival.planes();
    let mut stages = ReflectorStages::empty();
    stages.received_nic = arrival.nic.into();
    stages.received_xdp = arrival.xdp.into();
    stages.received_kernel = arrival.kernel.into();
    stages.received_app = arrival.app.into();
    stages.set_planes(context.arrival.plane(), Plane::App);
    let Assurance { fit, confirmed, .. } = context.assurance;
    stages.set_card_word(CardWord { fit: fit as u16, confirmed: confirmed.map(|at| context.now - at) });
    if let Some(departed) = context.memory.and_then(|memory| memory.told) {
        stages.departed = departed.sender_sequence.into();
        stages.departed_kernel = departed.stamps.kernel.into();
        stages.departed_nic = departed.stamps.nic.into();
    }
    stages
}

fn exactly<T: FromBytes + IntoBytes + KnownLayout>(value: &mut [u8]) -> Option<&mut T> {
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
