//! How a running loop is told to end: from another thread or a signal handler, without delay.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::sys;

/// A flag that can be polled: an eventfd. Once raised it stays raised.
#[derive(Debug)]
pub struct Stop(OwnedFd);

impl Stop {
    /// A flag that is down.
    ///
    /// # Errors
    /// `eventfd` as the kernel gave it: no descriptors left.
    pub fn new() -> io::Result<Self> {
        sys::event().map(Self)
    }

    /// Raises it. One system call: fit for a signal handler.
    pub fn request(&self) {
        // The one failure is a counter at its ceiling, and then the flag is up.
        let _ = sys::raise_event(self.0.as_fd());
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
