//! The AF_XDP baseline: whatever comes goes back with both ends exchanged, a batch a system call. No stamps, no rules.
//!
//! `pathlab-xsk-echo IFACE [QUEUE]` echoes until it is killed, with which the kernel takes the program off the interface.
#![allow(unsafe_code)]

use std::{
    env,
    num::NonZeroU32,
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::XskMap,
    programs::{Xdp, XdpMode},
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// What the kernel sends with one call in copy mode.
const BATCH: usize = 32;
/// As many as pathlab has on one queue: what the fill and the tx ring can hold.
const FRAMES: NonZeroU32 = NonZeroU32::new(8192 + 2048).expect("not zero");
/// Of the fill and the rx ring; the other two have 2048, the default.
const FILL: usize = 8192;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let interface = arguments.next().context("pathlab-xsk-echo IFACE [QUEUE]")?;
    let queue = arguments.next().map_or(Ok(0), |text| text.parse()).context("QUEUE is a number")?;

    let (umem, frames, (mut tx, mut rx, rings)) = bind_when_released(&interface.parse()?, queue)?;
    let (mut fill, mut completion) = rings.context("the first socket on a UMEM has its fill and completion ring")?;
    // SAFETY: the frames are of this UMEM and nobody else has them.
    let filled = unsafe { fill.produce(&frames[..FILL]) };
    ensure!(filled == FILL, "the fill ring took {filled} frames");

    let mut ebpf = Ebpf::load(OBJECT)?;
    let mut sockets: XskMap<_> = ebpf.take_map("XSKS").context("XSKS")?.try_into()?;
    sockets.set(queue, rx.fd().as_raw_fd(), 0)?;
    let program: &mut Xdp = ebpf.program_mut("redirect").context("redirect")?.try_into()?;
    program.load()?;
    program.attach(&interface, XdpMode::Driver)?;

    let mut received = vec![frames[0]; BATCH];
    let mut free: Vec<FrameDesc> = Vec::with_capacity(FILL);
    let mut done = vec![frames[0]; BATCH];
    loop {
        // SAFETY: every frame is in one place at a time: a ring, or one of the lists below.
        let came = unsafe { rx.consume(&mut received) };
        for frame in &mut received[..came] {
            // SAFETY: the frame has come off the rx ring and is on no other.
            turn_round(unsafe { umem.data_mut(frame) }.contents_mut());
        }
        let mut sent = 0;
        while sent < came {
            // SAFETY: as above; the ring takes all of them or none.
            sent += unsafe { tx.produce_and_wakeup(&received[sent..came]) }?;
            // SAFETY: what comes off the completion ring is on no other.
            let completed = unsafe { completion.consume(&mut done) };
            free.extend_from_slice(&done[..completed]);
        }
        // SAFETY: the free frames are on no ring; the fill ring takes all of them or none.
        if unsafe { fill.produce(&free) } == free.len() {
            free.clear();
        }
        if came == 0 {
            rx.poll(100)?;
        }
    }
}

type Rings = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// The kernel releases a queue a little after the process that had it has ended.
fn bind_when_released(interface: &Interface, queue: u32) -> Result<(Umem, Vec<FrameDesc>, Rings)> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let deep = QueueSize::new(FILL as u32)?;
        let (umem, frames) = Umem::new(UmemConfig::builder().fill_queue_size(deep).build()?, FRAMES, false)?;
        let config = SocketConfig::builder()
            .rx_queue_size(deep)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: no other socket is made on this UMEM.
        match unsafe { Socket::new(config, &umem, interface, queue) } {
            Ok(rings) => return Ok((umem, frames, rings)),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Exchanges the ends of an IPv4 datagram: Ethernet, IP, UDP. No checksum changes by it.
fn turn_round(packet: &mut [u8]) {
    for (at, length) in [(0, 6), (26, 4), (34, 2)] {
        let Some(both) = packet.get_mut(at..at + 2 * length) else { return };
        let (first, second) = both.split_at_mut(length);
        first.swap_with_slice(second);
    }
}
