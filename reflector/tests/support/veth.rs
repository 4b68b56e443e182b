//! A reflector and a client in network namespaces of their own, joined by a veth.

use std::{process::Command, sync::mpsc, thread};

use pathlab_reflector::Stop;
use pathlab_xdp::{XdpMode, XdpPass, offload};

use crate::namespace::in_private_namespace;

/// The reflector's addresses.
pub(crate) const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Makes interface `s0` with `queues` queues each way in the present namespace; its other end, `c0`, waits for [`with_client`].
pub(crate) fn serve_on_veth(queues: u32) {
    let count = queues.to_string();
    let queues = ["numrxqueues", &count, "numtxqueues", &count];
    ip(&[&["link", "add", "s0"][..], &queues, &["type", "veth", "peer", "name", "c0"], &queues].concat());
    ip(&["link", "set", "s0", "up"]);
    ip(&["address", "add", "192.0.2.1/24", "dev", "s0"]);
    ip(&["address", "add", "2001:db8::1/64", "dev", "s0", "nodad"]);
    offload::set_tx_checksum("s0", false).expect("checksums computed by the stack");
}

/// [`with_peer`] with a program on `c0` that passes everything, which replies by XDP_TX need at the other end.
pub(crate) fn with_client<T: Send>(server: &str, serve: impl FnOnce(&Stop), talk: impl FnOnce() -> T + Send) -> T {
    with_peer(server, serve, || {
        let _pass = XdpPass::attach("c0", XdpMode::Native).expect("native XDP on a veth");
        talk()
    })
}

/// Runs `serve` here and `talk` in a namespace that has `c0`; raises the stop when `talk` is over, also when it panics. The veth stays
/// until `serve` has returned. `server` is this namespace's path.
pub(crate) fn with_peer<T: Send>(server: &str, serve: impl FnOnce(&Stop), talk: impl FnOnce() -> T + Send) -> T {
    let stop = Stop::new().expect("eventfd");
    let (serving, served) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let stop = &stop;
        // here, so that it goes when `serve` panics, before the scope waits
        let serving = serving;
        let talking = scope.spawn(move || {
            let stop = StopWhenDropped(stop);
            in_private_namespace(move |client| {
                let inside = format!("--net={server}");
                run(Command::new("nsenter").args([&inside, "ip", "link", "set", "c0", "netns", client]));
                ip(&["link", "set", "c0", "up"]);
                ip(&["address", "add", "192.0.2.2/24", "dev", "c0"]);
                ip(&["address", "add", "2001:db8::2/64", "dev", "c0", "nodad"]);
                offload::set_tx_checksum("c0", false).expect("checksums computed by the sender");
                let said = talk();
                drop(stop);
                // Nothing is sent: it ends when the other end is dropped.
                let _ = served.recv();
                said
            })
        });
        serve(stop);
        drop(serving);
        talking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends the reflector's run also when the client's assertions fail.
struct StopWhenDropped<'a>(&'a Stop);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

pub(crate) fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let status = command.status().expect("iproute2 and util-linux");
    assert!(status.success(), "{command:?}: {status}");
}
