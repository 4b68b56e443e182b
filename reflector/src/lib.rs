//! STAMP Session-Sender and Session-Reflector (RFC 8762).

pub mod wire;
