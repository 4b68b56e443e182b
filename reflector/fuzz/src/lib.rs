//! What the fuzz targets hold true of any bytes: [`packet`] of what comes off a wire, [`netlink`] of what the kernel answers, [`text`] of all else that is read from outside.

#[cfg(fuzzing)]
pub mod netlink;
mod packet;
pub mod text;

pub use packet::{codec, extensions, frame, respond, return_trace};
