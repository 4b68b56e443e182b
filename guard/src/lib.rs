//! What was put on the host, and how it is taken back.

pub mod privilege;
