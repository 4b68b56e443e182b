//! Waits for an event, and says when it does not come.

use std::time::{Duration, Instant};

/// Until `event`, up to a limit.
pub(crate) fn within(limit: Duration, mut event: impl FnMut() -> bool) {
    let start = Instant::now();
    while !event() {
        assert!(start.elapsed() < limit, "not within {limit:?}");
        std::thread::yield_now();
    }
}
