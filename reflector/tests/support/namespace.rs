//! A network namespace of its own for traffic that would disturb the host.
#![allow(unsafe_code)]

use std::{
    io, panic,
    process::{self, Command},
    thread,
};

/// Runs `body` on a thread in a new network namespace with loopback up, and tells it the namespace's path; the namespace goes when
/// its last thread, socket and descriptor go.
pub(crate) fn in_private_namespace<T: Send>(body: impl FnOnce(&str) -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: no pointers; it moves the calling thread alone, which ends with this scope.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(rc, 0, "unshare: {}", io::Error::last_os_error());
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2");
            assert!(up.success());
            // SAFETY: no pointers, and it cannot fail.
            let thread = unsafe { libc::gettid() };
            body(&format!("/proc/{}/task/{thread}/ns/net", process::id()))
        });
        inside.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
