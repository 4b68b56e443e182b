//! A network in namespaces, described by a file.

pub mod error;
pub mod lab;
pub mod link;
pub mod load;
pub mod netlink;
pub mod netns;
pub mod prefix;
pub mod qdisc;
pub mod scenario;
mod seeded;
mod sys;
pub mod sysctl;

pub use error::{Error, Result};
