//! A network in namespaces, described by a file.

pub mod error;
pub mod link;
pub mod netlink;
pub mod netns;
mod offload;
pub mod prefix;
pub mod qdisc;
pub mod scenario;
mod seeded;
pub mod sysctl;

pub use error::{Error, Result};
