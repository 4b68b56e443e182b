//! STAMP Session-Sender and Session-Reflector (RFC 8762).

pub mod clock;
pub mod datapath;
mod error;
mod sys;
pub mod wire;

pub use error::Error;
