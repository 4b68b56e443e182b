//! Socket options that std does not know.
#![allow(unsafe_code)]

use std::{io, os::fd::AsRawFd};

/// setsockopt(2) with the bytes of `value`.
pub(crate) fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the kernel reads `value.len()` bytes from `value`, which outlives the call; the borrow keeps the descriptor open.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    assert_eq!(rc, 0, "setsockopt({level}, {name}): {}", io::Error::last_os_error());
}
