//! Two network namespaces joined by a veth, gone when dropped, also when a test panics.
#![allow(unsafe_code)]

use std::{
    fs::File,
    os::fd::AsRawFd,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// Reflector and probe, each with interface `wire0`, 10.77.0.1/24 and fd77::1/64 against .2 and ::2.
pub(crate) struct Veth {
    pub(crate) reflector: String,
    pub(crate) probe: String,
}

impl Veth {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("xdp-{}-{number}-{end}", process::id());
        let veth = Self { reflector: name("r"), probe: name("p") };
        let Self { reflector, probe } = &veth;
        for end in [reflector, probe] {
            ip(&format!("netns add {end}"));
        }
        ip(&format!("-n {reflector} link add wire0 type veth peer name wire0 netns {probe}"));
        for (end, host) in [(reflector, 1), (probe, 2)] {
            ip(&format!("-n {end} address add 10.77.0.{host}/24 broadcast 10.77.0.255 dev wire0"));
            ip(&format!("-n {end} address add fd77::{host}/64 nodad dev wire0"));
            ip(&format!("-n {end} link set wire0 up"));
        }
        veth
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for end in [&self.reflector, &self.probe] {
            let _ = Command::new("ip").args(["netns", "del", end]).output();
        }
    }
}

/// `ip ARGUMENTS`, which must succeed; what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs `work` on a thread inside the namespace. Sockets and programs that it returns stay there.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: moves the calling thread alone to another network namespace; the descriptor is open.
            assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0, "setns");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
