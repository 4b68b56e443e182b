//! What the fuzz targets hold true of any bytes: [`packet`] of what comes off a wire, [`text`] of all else that is read from outside.

mod packet;
pub mod text;

pub use packet::{codec, extensions, frame, respond};
