//! Bytes on the wire and the values that they mean: parsing yields a sensible value or says which field was wrong.
//!
//! Panic contract: no function of this module panics for any input.

mod authenticated;
mod checksum;
pub mod ethernet;
mod extension;
mod frame;
pub mod ip;
pub mod ptp_shape;
mod return_trace;
mod stages;
mod stamp;
mod time;
mod tlv;
pub mod udp;

pub use authenticated::{
    AUTHENTICATED_LEN, AUTHENTICATED_PART, AuthenticatedReflectedPacket, AuthenticatedSenderPacket,
};
pub use extension::{
    ClassOfService, DirectMeasurement, FollowUpTelemetry, TimestampInformation, sync_source, timestamp_method,
};
pub use frame::{MalformedFrame, UdpFrame};
pub use return_trace::{MOST_REPORTS, RETURN_TRACE, ReturnReport, ReturnTrace};
pub use stages::{CardWord, REFLECTOR_STAGES, ReflectorStages, WireStamp};
pub use stamp::{BASE_LEN, MalformedPacket, ReflectedPacket, STAMP_PORT, SenderPacket};
pub use time::{ErrorEstimate, NtpTimestamp, PtpTimestamp, WireTime};
pub use tlv::{TLV_HEADER_LEN, Tlv, tlv_flag, tlv_type};
