//! Reads a reflector's reply: its base packet, authentic where there is a key, and what it tells of the way back.

use pathlab_reflector::{
    keys::Key,
    session::Integrity,
    wire::{
        AUTHENTICATED_PART, AuthenticatedReflectedPacket, RETURN_TRACE, ReflectedPacket, ReturnReport, ReturnTrace,
        Tlv, tlv_flag,
    },
};
use zerocopy::IntoBytes;

/// A reply.
pub(crate) struct Reply<'a> {
    pub(crate) base: ReflectedPacket,
    pub(crate) way: Way<'a>,
}

/// What it tells of the way back.
pub(crate) enum Way<'a> {
    /// Nothing: it was not asked, or not authentically answered.
    Unsaid,
    /// The reflector does not know the question, or does not allow it.
    Refused,
    /// This.
    Told(&'a ReturnTrace, &'a [ReturnReport]),
}

impl<'a> Reply<'a> {
    /// `None` where it is none, or not authentic.
    pub(crate) fn read(payload: &'a [u8], key: Option<&Key>) -> Option<Self> {
        let Some(key) = key else {
            let (base, _) = ReflectedPacket::parse(payload).ok()?;
            return Some(Self { base: *base, way: Way::Unsaid });
        };
        let (packet, extensions) = AuthenticatedReflectedPacket::parse(payload).ok()?;
        let base = packet.plain();
        key.verifies(&[&payload[..AUTHENTICATED_PART]], &packet.hmac).then_some(())?;
        if Integrity::of(extensions, base.sequence.as_bytes(), Some(key), true) != Integrity::Verified {
            return Some(Self { base, way: Way::Unsaid });
        }
        let way = Tlv::all(extensions).find(|tlv| tlv.kind == Some(RETURN_TRACE)).map_or(Way::Unsaid, |tlv| {
            if tlv.flags & tlv_flag::ALL != 0 {
                return Way::Refused;
            }
            ReturnTrace::read(&extensions[tlv.value()]).map_or(Way::Unsaid, |(head, reports)| Way::Told(head, reports))
        });
        Some(Self { base, way })
    }
}
