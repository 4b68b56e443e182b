//! The queueing disciplines of a port with what they dropped and hold, over rtnetlink.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcStats2},
};
use pathlab_guard::Rtnetlink;

use crate::port::Qdisc;

/// All of the port's qdiscs, the root first; the invisible parts of the kernel's default `mq` are left out as `tc qdisc` does.
pub(crate) fn qdiscs(index: u32) -> io::Result<Vec<Qdisc>> {
    Ok(pathlab_guard::qdiscs(index)?.iter().map(read).collect())
}

/// Those of every interface of the calling thread's namespace, by its index, the invisible ones too: all that a packet may wait in.
pub(crate) fn everywhere() -> io::Result<Vec<(u32, Qdisc)>> {
    let mut request = TcMessage::default();
    request.attributes.push(TcAttribute::DumpInvisible(true));
    let mut rtnetlink = Rtnetlink::open(None).map_err(io::Error::other)?;
    let answers = rtnetlink.dump(RouteNetlinkMessage::GetQueueDiscipline(request))?;
    let told = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => Some((qdisc.header.index.cast_unsigned(), read(qdisc))),
        _ => None,
    });
    Ok(told.collect())
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
                    match counter {
                        TcStats2::Basic(basic) => (qdisc.octets, qdisc.packets) = (basic.bytes, basic.packets),
                        TcStats2::Queue(queue) => {
                            (qdisc.drops, qdisc.queued, qdisc.backlog) = (queue.drops, queue.qlen, queue.backlog);
                            (qdisc.overlimits, qdisc.requeues) = (queue.overlimits, queue.requeues);
                        }
                        _ => {}
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
