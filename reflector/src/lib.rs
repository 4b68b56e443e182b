//! STAMP Session-Sender and Session-Reflector (RFC 8762).

pub mod clock;
pub mod datapath;
mod error;
mod prefix;
pub mod prober;
mod reflect;
mod report;
pub mod session;
mod stop;
mod sys;
pub mod wire;

pub use error::Error;
pub use prefix::{Prefix, PrefixError};
pub use reflect::{Reflector, ReflectorConfig};
pub use report::{Quantiles, ReflectorReport};
pub use stop::Stop;
