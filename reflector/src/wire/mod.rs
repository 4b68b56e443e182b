//! Bytes on the wire and the values that they mean: parsing yields a sensible value or says which field was wrong.
//!
//! Panic contract: no function of this module panics for any input.

mod stamp;
mod time;

pub use stamp::{BASE_LEN, MalformedPacket, ReflectedPacket, STAMP_PORT, SenderPacket};
pub use time::{ErrorEstimate, NtpTimestamp, PtpTimestamp, WireTime};
