//! What the kernel answers over netlink. The parsers are private to their crates, which open them to fuzzing alone (`cfg(fuzzing)`); the same bodies
//! run there on generated input with every test run.

pub use pathlab_canary::steer::fuzzed_nfnetlink as nfnetlink;
pub use pathlab_guard::fuzzed::{ethtool, rtnetlink};
pub use pathlab_host::fuzzed::xdp_diag;
