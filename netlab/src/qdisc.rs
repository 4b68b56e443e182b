//! The kernel's queueing disciplines: made by netlink, looked for before they are needed, and read.

mod options;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcStats2},
};

use crate::{
    error::{Error, Result},
    netlink::Netlink,
    queue::{CodelParameters, FqCodelParameters},
};

/// linux/rtnetlink.h.
const TCA_OPTIONS: u16 = 2;

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

/// What netem adds to each packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Netem {
    /// How long each packet is held.
    pub delay: std::time::Duration,
    /// Share of the packets that are lost, 0 to 1, each by itself.
    pub loss: f64,
    /// Packets that it holds at once; those beyond are lost.
    pub limit: u32,
}

/// A queueing discipline with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Qdisc {
    /// `tbf`: a rate. Its child is the queue; without one its own queue holds `limit` bytes.
    Tbf {
        /// Bits per second.
        rate: u64,
        /// Bytes.
        burst: u32,
        /// Bytes.
        limit: u32,
    },
    /// `pfifo`: tail drop at so many packets.
    Pfifo(u32),
    /// `codel`.
    Codel(CodelParameters),
    /// `fq_codel`.
    FqCodel(FqCodelParameters),
    /// `netem`.
    Netem(Netem),
}

impl Qdisc {
    /// Its name for `tc`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tbf { .. } => "tbf",
            Self::Pfifo(_) => "pfifo",
            Self::Codel(_) => "codel",
            Self::FqCodel(_) => "fq_codel",
            Self::Netem(_) => "netem",
        }
    }
}

impl TokenBucket {
    /// The same as qdiscs, the outer first.
    pub fn qdiscs(&self) -> Vec<Qdisc> {
        let Self { rate, burst, limit } = *self;
        match limit {
            Limit::Bytes(limit) => vec![Qdisc::Tbf { rate, burst, limit }],
            // The bucket wants some queue of its own; the packet queue then takes its place.
            Limit::Packets(packets) => vec![Qdisc::Tbf { rate, burst, limit: burst }, Qdisc::Pfifo(packets)],
        }
    }
}

/// Whether the kernel has a queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Has {
    /// It is there, or its module could be loaded.
    Yes,
    /// It is not.
    No,
    /// The kernel did not say.
    CannotTell(String),
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

impl Netlink {
    /// Makes a token bucket the root qdisc of `interface`: its egress now has that rate and queue.
    ///
    /// # Errors
    /// No such interface, a kernel without tbf, or missing privilege.
    pub fn add_token_bucket(&mut self, interface: &str, bucket: &TokenBucket) -> Result<()> {
        self.add_qdiscs(interface, &bucket.qdiscs())
    }

    /// Makes `chain` the egress of `interface`, its first the root and each next the only child of the one before.
    ///
    /// # Errors
    /// No such interface, [`Error::NoQdisc`], or missing privilege.
    pub fn add_qdiscs(&mut self, interface: &str, chain: &[Qdisc]) -> Result<()> {
        let index = self.index(interface)?;
        let mut parent = TcHandle::ROOT;
        for (major, qdisc) in (1..).zip(chain) {
            let kind = qdisc.kind();
            let message = message(index, parent, TcHandle { major, minor: 0 }, kind, Some(options::of(qdisc)));
            let words = format!("give {interface} the qdisc {kind}");
            match self.create(RouteNetlinkMessage::NewQueueDiscipline(message), &words) {
                Err(Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                    return Err(Error::NoQdisc { kind });
                }
                made => made?,
            }
            parent = TcHandle { major, minor: 1 };
        }
        Ok(())
    }

    /// Whether the kernel has the qdisc that `tc` calls so. Asks for one on `lo`, where nothing else has asked for one, and takes it away again.
    ///
    /// # Errors
    /// Missing privilege.
    pub fn has_qdisc(&mut self, kind: &'static str) -> Result<Has> {
        let lo = self.index("lo")?;
        // Unlike any that others give themselves.
        let handle = TcHandle { major: 0x7061, minor: 0 };
        let wanted = message(lo, TcHandle::ROOT, handle, kind, None);
        match self.create(RouteNetlinkMessage::NewQueueDiscipline(wanted.clone()), "look for a qdisc") {
            Ok(()) => {
                self.change(RouteNetlinkMessage::DelQueueDiscipline(wanted), "take back a qdisc that was looked for")?;
                Ok(Has::Yes)
            }
            Err(Error::Netlink { source, .. }) => Ok(match source.raw_os_error() {
                Some(libc::ENOENT) => Has::No,
                // It is there and wants to be told more than its name.
                Some(libc::EINVAL) => Has::Yes,
                _ => Has::CannotTell(source.to_string()),
            }),
            Err(error) => Err(error),
        }
    }

    /// Counters of the root qdisc of `interface`; all zero where there is none that counts.
    ///
    /// # Errors
    /// No such interface.
    pub fn qdisc_statistics(&mut self, interface: &str) -> Result<QdiscStatistics> {
        self.statistics_where(interface, |qdisc| qdisc.header.parent == TcHandle::ROOT)
    }

    /// Counters of the qdisc that `tc` calls `kind`, wherever it stands in the chain of `interface`; all zero where there is none.
    ///
    /// # Errors
    /// No such interface.
    pub fn statistics_of(&mut self, kind: &str, interface: &str) -> Result<QdiscStatistics> {
        let named = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(name) if name == kind);
        self.statistics_where(interface, |qdisc| qdisc.attributes.iter().any(named))
    }

    fn statistics_where(&mut self, interface: &str, wanted: impl Fn(&TcMessage) -> bool) -> Result<QdiscStatistics> {
        let index = self.index(interface)? as i32;
        let mut request = TcMessage::default();
        request.header.index = index;
        let answers = self.dump(RouteNetlinkMessage::GetQueueDiscipline(request), "read queue statistics")?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(qdisc) if qdisc.header.index == index && wanted(&qdisc) => {
                Some(qdisc)
            }
            _ => None,
        });
        let mut statistics = QdiscStatistics::default();
        let attributes = found.iter().flat_map(|qdisc| &qdisc.attributes);
        let counters = attributes.filter_map(|attribute| match attribute {
            TcAttribute::Stats2(counters) => Some(counters),
            _ => None,
        });
        for counter in counters.flatten() {
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

fn message(index: u32, parent: TcHandle, handle: TcHandle, kind: &str, options: Option<Vec<u8>>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.parent = parent;
    message.header.handle = handle;
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    message.attributes.extend(options.map(|options| TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options))));
    message
}
