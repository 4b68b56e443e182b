//! A namespace for a test, and another at the end of a wire.

use std::{env, fs, process::Command};

use pathlab_guard::privilege::root_or_skip;
use pathlab_netlab::netns::Namespace;

const MARK: &str = "PATHLAB_TEST_ISOLATED";

/// For the head of a test called `name`: `true` inside namespaces of its own. Outside, it runs the test again inside, fails when that fails, and says `false`.
pub(crate) fn isolated(name: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    if !root_or_skip(name) {
        return false;
    }
    // A private /run/netns, and no IPv6: no packet that the test has not sent.
    let script = "mkdir -p /run/netns && mount -t tmpfs none /run/netns && \
        echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 && ip link set lo up && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(env::current_exe().expect("known"))
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .output()
        .expect("unshare(1) of util-linux");
    let text = [output.stdout, output.stderr].concat();
    eprintln!("{}", String::from_utf8_lossy(&text));
    assert!(output.status.success(), "{name} failed inside its isolation, see above");
    false
}

/// A peer at the other end of a wire: `near` with 192.0.2.1 is here, `far` with 192.0.2.2 is there. Neighbours are permanent, so that no ARP is lost.
pub(crate) fn wire() -> Namespace {
    let far = Namespace::create("far").expect("a namespace");
    sh("ip netns exec far sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' && \
        ip link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02 netns far && \
        ip address add 192.0.2.1/24 dev near && ip link set near up && \
        ip -n far address add 192.0.2.2/24 dev far && ip -n far link set far up && \
        ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 nud permanent dev near && \
        ip -n far neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 nud permanent dev far");
    far
}

/// From now on `far` receives by NAPI, which after each run sleeps for so many milliseconds: meanwhile 256 packets find a place, and no more. A veth
/// leaves to NAPI what could be merged (GRO), and that is not what a sender with segmentation offloads sends.
pub(crate) fn sleepy_receiver(milliseconds: u64) {
    sh(&format!(
        "ethtool -K near tso off && \
         ip netns exec far sh -ec 'ethtool -K far gro on && cd /sys/class/net/far && \
         echo 1000000 >napi_defer_hard_irqs && echo {milliseconds}000000 >gro_flush_timeout'"
    ));
}

pub(crate) fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().expect("a shell").success(), "{script}");
}

/// The kernel's number of the thread that asks.
pub(crate) fn this_thread() -> u32 {
    let link = fs::read_link("/proc/thread-self").expect("procfs");
    link.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("PID/task/TID")
}
