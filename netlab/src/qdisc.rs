//! The kernel's token bucket with a tail-drop queue behind it, and what it has counted.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcStats2},
};

use crate::{
    error::{Error, Result},
    netlink::{Netlink, nest},
};

/// linux/rtnetlink.h and linux/pkt_sched.h.
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;

/// How much a queue holds before it drops the packet that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bytes, Ethernet headers included; a large packet is refused sooner than a small one.
    Bytes(u32),
    /// Packets, whatever their size.
    Packets(u32),
}

/// A token bucket (tbf) in front of a tail-drop queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bits per second, Ethernet headers included and preamble, FCS and gap not.
    pub rate: u64,
    /// Depth of the bucket in bytes: what may leave back to back. Less than the largest packet would drop every such packet.
    pub burst: u32,
    /// Depth of the queue.
    pub limit: Limit,
}

/// Counters of a queueing discipline since it was made, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QdiscStatistics {
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u32,
    /// Packets dropped.
    pub drops: u32,
    /// Bytes waiting.
    pub backlog: u32,
    /// Packets waiting.
    pub queued: u32,
}

const TBF: TcHandle = TcHandle { major: 1, minor: 0 };
const TBF_CLASS: TcHandle = TcHandle { major: 1, minor: 1 };
const FIFO: TcHandle = TcHandle { major: 2, minor: 0 };

impl Netlink {
    /// Makes a token bucket the root qdisc of `interface`: its egress now has that rate and queue.
    ///
    /// # Errors
    /// No such interface, a kernel without tbf, or missing privilege.
    pub fn add_token_bucket(&mut self, interface: &str, bucket: &TokenBucket) -> Result<()> {
        let index = self.index(interface)?;
        let (limit_bytes, limit_packets) = match bucket.limit {
            Limit::Bytes(bytes) => (bytes, None),
            // The bucket wants some queue of its own; the packet queue then takes its place.
            Limit::Packets(packets) => (bucket.burst, Some(packets)),
        };
        let message = qdisc(index, TcHandle::ROOT, TBF, "tbf", tbf_options(bucket, limit_bytes));
        let words = format!("limit {interface} to {} bit/s with tbf", bucket.rate);
        match self.create(RouteNetlinkMessage::NewQueueDiscipline(message), &words) {
            Err(Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                return Err(Error::NoQdisc { kind: "tbf" });
            }
            made => made?,
        }
        let Some(packets) = limit_packets else { return Ok(()) };
        let message = qdisc(index, TBF_CLASS, FIFO, "pfifo", packets.to_ne_bytes().to_vec());
        let words = format!("give {interface} a queue of {packets} packets with pfifo");
        self.create(RouteNetlinkMessage::NewQueueDiscipline(message), &words)
    }

    /// Counters of the root qdisc of `interface`; all zero where there is none that counts.
    ///
    /// # Errors
    /// No such interface.
    pub fn qdisc_statistics(&mut self, interface: &str) -> Result<QdiscStatistics> {
        let index = self.index(interface)? as i32;
        let mut request = TcMessage::default();
        request.header.index = index;
        let answers = self.dump(RouteNetlinkMessage::GetQueueDiscipline(request), "read queue statistics")?;
        let mut statistics = QdiscStatistics::default();
        let root = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc)
                if qdisc.header.index == index && qdisc.header.parent == TcHandle::ROOT =>
            {
                Some(qdisc)
            }
            _ => None,
        });
        let attributes = root.map(|qdisc| qdisc.attributes).unwrap_or_default();
        for counter in attributes
            .iter()
            .filter_map(|attribute| match attribute {
                TcAttribute::Stats2(counters) => Some(counters),
                _ => None,
            })
            .flatten()
        {
            match counter {
                TcStats2::Basic(basic) => (statistics.bytes, statistics.packets) = (basic.bytes, basic.packets),
                TcStats2::Queue(queue) => {
                    (statistics.drops, statistics.backlog, statistics.queued) =
                        (queue.drops, queue.backlog, queue.qlen);
                }
                _ => {}
            }
        }
        Ok(statistics)
    }
}

fn qdisc(index: u32, parent: TcHandle, handle: TcHandle, kind: &str, options: Vec<u8>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.parent = parent;
    message.header.handle = handle;
    message.attributes =
        vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options))];
    message
}

/// `struct tc_tbf_qopt` with 64-bit rate and the burst in bytes. The link layer is named, so that the kernel computes times
/// itself and wants no rate table from us (net/sched/sch_tbf.c, tbf_change).
fn tbf_options(bucket: &TokenBucket, limit: u32) -> Vec<u8> {
    let bytes_per_second = (bucket.rate / 8).max(1);
    let mut parameters = Vec::with_capacity(36);
    parameters.extend([0, LINKLAYER_ETHERNET]);
    parameters.extend([0; 6]);
    parameters.extend(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
    // No peak rate.
    parameters.extend([0; 12]);
    parameters.extend(limit.to_ne_bytes());
    // Buffer and MTU in ticks: superseded by TCA_TBF_BURST.
    parameters.extend([0; 8]);
    nest(&[
        DefaultNla::new(TCA_TBF_PARMS, parameters),
        DefaultNla::new(TCA_TBF_RATE64, bytes_per_second.to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_TBF_BURST, bucket.burst.to_ne_bytes().to_vec()),
    ])
}
