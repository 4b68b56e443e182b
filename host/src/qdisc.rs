//! The queueing disciplines of a port with what they dropped and hold, over rtnetlink.

use std::io;

use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcStats2};

use crate::port::Qdisc;

/// All of the port's qdiscs, the root first; the invisible parts of the kernel's default `mq` are left out as `tc qdisc` does.
pub(crate) fn qdiscs(index: u32) -> io::Result<Vec<Qdisc>> {
    Ok(pathlab_guard::qdiscs(index)?.iter().map(read).collect())
}

fn read(message: &TcMessage) -> Qdisc {
    let mut qdisc = Qdisc {
        handle: handle(message.header.handle),
        parent: if message.header.parent == TcHandle::ROOT { "root".into() } else { handle(message.header.parent) },
        ..Qdisc::default()
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => qdisc.kind.clone_from(kind),
            TcAttribute::Stats2(counters) => {
                for counter in counters {
                    if let TcStats2::Queue(queue) = counter {
                        (qdisc.drops, qdisc.queued, qdisc.backlog) = (queue.drops, queue.qlen, queue.backlog);
                    }
                }
            }
            _ => {}
        }
    }
    qdisc
}

/// As tc writes it.
fn handle(handle: TcHandle) -> String {
    match (handle.major, handle.minor) {
        (major, 0) => format!("{major:x}:"),
        (major, minor) => format!("{major:x}:{minor:x}"),
    }
}
