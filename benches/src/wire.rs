//! The wire of every bench: a veth between two namespaces, one queue each way, transmit checksums off as XDP needs it.
//!
//! ```text
//!  CPU 0                                  CPU 1
//!  client: generator, probe, irtt …       reflector, server
//!  bench-p  10.78.0.2 wire0 ───────────── wire0 10.78.0.1  bench-r
//! ```
//!
//! A veth hands a packet over in the sender's system call: what the far end's driver, XDP program and stack do until the packet lies in a socket or ring is
//! done on the sender's CPU. So CPU 0 carries the sending of requests and their receive side, CPU 1 the reflector and the receive side of the
//! replies, for every contestant; and a reflector that lives in the driver has CPU 0 for itself and the generator.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use pathlab_netlab::{netns::Namespace, sysctl};
use pathlab_xdp::offload;

/// Interface at both ends.
pub const INTERFACE: &str = "wire0";
/// The reflector's address.
pub const REFLECTOR: &str = "10.78.0.1";
/// The client's address.
pub const CLIENT: &str = "10.78.0.2";
/// STAMP's port, on which every contestant listens.
pub const PORT: u16 = 862;
/// Hardware addresses of the reflector and of the client.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// Where clients run.
pub const CLIENT_CPU: usize = 0;
/// Where reflectors and servers run.
pub const REFLECTOR_CPU: usize = 1;

/// Both namespaces and the veth; gone when dropped.
#[derive(Debug)]
pub struct Wire {
    /// Where the reflector is.
    pub near: Namespace,
    /// Where the client is.
    pub far: Namespace,
}

impl Wire {
    /// Makes `bench-r` and `bench-p`.
    ///
    /// # Errors
    /// No root, no iproute2, or a bench that still runs and has the names.
    pub fn new() -> Result<Self> {
        let another = "another bench runs, or one was killed: `ip netns del bench-r bench-p` takes back what it left";
        let wire = Self {
            near: Namespace::create("bench-r").context(another)?,
            far: Namespace::create("bench-p").context(another)?,
        };
        let (near, far) = (wire.near.name(), wire.far.name());
        let queues = "numrxqueues 1 numtxqueues 1";
        ip(&format!("-n {near} link add {INTERFACE} {queues} type veth peer {INTERFACE} netns {far} {queues}"))?;
        let ends = [(&wire.near, [REFLECTOR, CLIENT], MACS), (&wire.far, [CLIENT, REFLECTOR], [MACS[1], MACS[0]])];
        for (namespace, [own, other], [own_mac, other_mac]) in ends {
            let name = namespace.name();
            sysctl::set(namespace, "net.ipv6.conf.all.disable_ipv6", "1")?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {name} link set {INTERFACE} address {} up", mac(own_mac)))?;
            ip(&format!("-n {name} address add {own}/24 dev {INTERFACE}"))?;
            ip(&format!("-n {name} neigh add {other} lladdr {} nud permanent dev {INTERFACE}", mac(other_mac)))?;
            namespace.run(|| offload::set_tx_checksum(INTERFACE, false))??;
        }
        Ok(wire)
    }
}

/// `program` inside `namespace` on that CPU. It ends when the thread that started it does.
///
/// # Errors
/// No descriptor left.
pub fn on_cpu(namespace: &Namespace, cpu: usize, program: &[String]) -> Result<Command> {
    let mut command = namespace.command("taskset")?;
    command.args(["--cpu-list", &cpu.to_string()]).args(program);
    Ok(command)
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("iproute2")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
