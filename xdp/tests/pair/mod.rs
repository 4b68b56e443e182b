//! Two network namespaces joined by a veth, for tests that need a driver.
#![allow(unsafe_code)]

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::{Scope, ScopedJoinHandle},
};

use pathlab_xdp::{XdpMode, XdpPass, offload};

pub(crate) const NEAR: &str = "plxk-near";
pub(crate) const FAR: &str = "plxk-far";
pub(crate) const NEAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const NEAR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub(crate) const FAR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// The near end has the program under test, the far end a plain host with a pass-all program, so that XDP reaches it.
pub(crate) struct Pair {
    near: Namespace,
    far: Namespace,
    _pass: XdpPass,
}

impl Pair {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("plxk{}-{number}{end}", std::process::id());
        let (near, far) = (Namespace::new(name("n")), Namespace::new(name("f")));
        ip(&format!("-n {} link add {NEAR} type veth peer name {FAR} netns {}", near.0, far.0));
        for (namespace, interface, host) in [(&near, NEAR, 1), (&far, FAR, 2)] {
            let namespace = &namespace.0;
            ip(&format!("-n {namespace} addr add 192.0.2.{host}/24 dev {interface}"));
            ip(&format!("-n {namespace} addr add 2001:db8::{host}/64 dev {interface} nodad"));
            ip(&format!("-n {namespace} link set {interface} up"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        // Neighbours are known, so that no datagram waits for its first.
        for (namespace, interface, host, peer) in [(&near, NEAR, 2, &far), (&far, FAR, 1, &near)] {
            let mac = mac(&peer.0, if interface == NEAR { FAR } else { NEAR });
            for address in [format!("192.0.2.{host}"), format!("2001:db8::{host}")] {
                ip(&format!("-n {} neigh replace {address} lladdr {mac} dev {interface} nud permanent", namespace.0));
            }
        }
        near.within(|| offload::set_tx_checksum(NEAR, false)).expect("checksums in software");
        let pass = far.within(|| {
            offload::set_tx_checksum(FAR, false).expect("checksums in software");
            XdpPass::attach(FAR, XdpMode::Native).expect("pass-all program")
        });
        Self { near, far, _pass: pass }
    }

    /// Runs `work` on a thread in the near namespace.
    pub(crate) fn near<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.near.within(work)
    }

    /// Runs `work` on a thread in the far namespace.
    pub(crate) fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.far.within(work)
    }

    /// Starts `work` on a thread in the far namespace.
    pub(crate) fn spawn_far<'scope, T: Send + 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        scope.spawn(|| {
            self.far.enter();
            work()
        })
    }

    /// `ip -json link show` of the near end.
    pub(crate) fn near_link(&self) -> String {
        ip(&format!("-n {} -json link show {NEAR}", self.near.0))
    }

    /// The near namespace's name, for a child process.
    pub(crate) fn near_name(&self) -> &str {
        &self.near.0
    }
}

struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Self {
        ip(&format!("netns add {name}"));
        Self(name)
    }

    fn enter(&self) {
        enter(&self.0);
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Moves this thread into a network namespace, for good.
pub(crate) fn enter(namespace: &str) {
    let file = File::open(format!("/var/run/netns/{namespace}")).expect("the namespace");
    // SAFETY: takes no pointers; changes this thread alone.
    let rc = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(rc, 0, "setns: {}", std::io::Error::last_os_error());
}

fn mac(namespace: &str, interface: &str) -> String {
    let shown = ip(&format!("-n {namespace} -json link show {interface}"));
    let (_, rest) = shown.split_once("\"address\":\"").expect("an address");
    rest[..17].to_owned()
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
