//! STAMP Session-Sender and Session-Reflector (RFC 8762).

pub mod clock;
pub mod datapath;
mod error;
mod prefix;
pub mod prober;
pub mod session;
mod sys;
pub mod wire;

pub use error::Error;
pub use prefix::{Prefix, PrefixError};
