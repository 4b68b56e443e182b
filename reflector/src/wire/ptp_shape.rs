//! Test packets that a card takes for PTP (experimental): some cards stamp PTP alone, and know it by port 319 and the first octets.
//!
//! Those are a STAMP packet's Sequence Number: between `0x0002_0000` and `0x0002_ffff` it reads as a Sync message of PTP version 2
//! (IEEE 1588, clause 13.3). A stateless reflector copies the number, so that the card stamps replies as well. RFC 8762 has sessions
//! begin at zero: both ends have to be told, and are to answer each other alone.

/// `PTP_EV_PORT`: where cards look for event messages of PTP.
pub const PORT: u16 = 319;
/// The first Sequence Number of a session.
pub const FIRST: u32 = 0x0002_0000;
/// Packets of a session, all told.
pub const MOST: u64 = 0x1_0000;

/// Whether `payload` is a request of this shape. A reply is none: where a request has zeroes (RFC 8762 §4.2.1) it has its Receive
/// Timestamp, so that two reflectors on this port do not answer each other for ever.
pub fn is_request(payload: &[u8]) -> bool {
    payload.starts_with(&[0, 2]) && payload.get(16..44).is_some_and(|zeroes| zeroes.iter().all(|octet| *octet == 0))
}
