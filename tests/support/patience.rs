//! How long a test waits on a machine that is not its own: emulated, everything takes so many times longer.

/// `PATHLAB_TEST_PATIENCE`, 1 where it is not set.
pub(crate) fn patience() -> u32 {
    std::env::var("PATHLAB_TEST_PATIENCE").map_or(1, |times| times.parse().expect("a number"))
}
