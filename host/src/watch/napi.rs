//! How far each receive queue used the budget of its polls: what `bpf/napi.bpf.c` counts, and which queue each NAPI serves.

use std::collections::BTreeMap;

use aya::Btf;
use pathlab_guard::genetlink::{Genetlink, attributes};
use serde::Serialize;

use super::{
    Result,
    object::{Filter, Object},
    reading::Names,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/napi.bpf.o"));
const PROGRAMS: [(&str, &str); 1] = [("polled", "napi_poll")];
/// `WORKS` of the program.
const WORKS: usize = 9;
/// `struct polls` in words.
const WORDS: usize = 3 + WORKS;

/// linux/netdev.h, since 6.8.
const NETDEV_CMD_QUEUE_GET: u8 = 10;
const NETDEV_A_QUEUE_ID: u16 = 1;
const NETDEV_A_QUEUE_IFINDEX: u16 = 2;
const NETDEV_A_QUEUE_TYPE: u16 = 3;
const NETDEV_A_QUEUE_NAPI_ID: u16 = 4;
const NETDEV_QUEUE_TYPE_RX: u32 = 0;

/// The program.
#[derive(Debug)]
pub(crate) struct Napis(Object);

/// Interface and NAPI id.
type Place = (String, u32);
/// `struct polls`, and the receive queue where that is told.
type Counted = ([u64; WORDS], Option<u32>);

/// What was counted of each, and what found no room.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PollCounts {
    napis: BTreeMap<Place, Counted>,
    uncounted: u64,
}

/// Polls in a window. The backlogs of the processors are no card's and not among them: [`squeezed`](super::ProcessorReport::squeezed) tells of those.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NapiReport {
    /// NAPIs that were polled.
    pub napis: Vec<Napi>,
    /// Polls for which there was no room.
    pub uncounted: u64,
}

/// What serves a receive queue, or also a transmit queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Napi {
    /// Whose.
    pub interface: String,
    /// The kernel's number of it, as sockets know it (`SO_INCOMING_NAPI_ID`); 0 of one that has none.
    pub id: u32,
    /// Its receive queue; absent where the driver or the kernel (before 6.8) does not tell.
    pub rx_queue: Option<u32>,
    /// How often it was asked for packets.
    pub polls: u64,
    /// Packets that it took, as the driver counts them.
    pub packets: u64,
    /// Polls that took as many as they were allowed: more was waiting, and the ring fills meanwhile.
    pub exhausted: u64,
    /// Polls by their packets: 0, 1, 2 to 3, 4 to 7, and so on to 64 to 127, and more.
    pub by_packets: [u64; WORKS],
}

impl Napis {
    pub(crate) fn attach(btf: &Btf, filter: &Filter) -> Result<Self> {
        Object::attach(OBJECT, &PROGRAMS, btf, filter, &[]).map(Self)
    }

    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    pub(crate) fn read(&self, names: &Names) -> Result<PollCounts> {
        let [uncounted] = self.0.counters("POLLS_UNCOUNTED")?;
        let queues = rx_queues();
        let mut counts = PollCounts { uncounted, ..PollCounts::default() };
        for (key, words) in self.0.shared::<8, WORDS>("POLLS")? {
            let [interface, id] = [0, 4].map(|at| u32::from_ne_bytes(key[at..at + 4].try_into().expect("four")));
            let Some(name) = names.of(interface) else { continue };
            counts.napis.insert((name, id), (words, queues.get(&(interface, id)).copied()));
        }
        Ok(counts)
    }
}

/// Receive queues by index of the interface and NAPI id; none where the kernel does not tell.
fn rx_queues() -> BTreeMap<(u32, u32), u32> {
    let told = Genetlink::open("netdev").and_then(|mut netdev| netdev.dump(NETDEV_CMD_QUEUE_GET, &[]));
    told.unwrap_or_default().iter().filter_map(|answer| rx_queue(answer)).collect()
}

fn rx_queue(answer: &[u8]) -> Option<((u32, u32), u32)> {
    let word = |wanted: u16| {
        let (_, payload) = attributes(answer).find(|(kind, _)| *kind == wanted)?;
        Some(u32::from_ne_bytes(*payload.first_chunk()?))
    };
    (word(NETDEV_A_QUEUE_TYPE)? == NETDEV_QUEUE_TYPE_RX).then_some(())?;
    Some(((word(NETDEV_A_QUEUE_IFINDEX)?, word(NETDEV_A_QUEUE_NAPI_ID)?), word(NETDEV_A_QUEUE_ID)?))
}

impl PollCounts {
    pub(crate) fn since(&self, earlier: &Self) -> NapiReport {
        let of = |((interface, id), (now, rx_queue)): (&Place, &Counted)| {
            let before = earlier.napis.get(&(interface.clone(), *id)).map_or([0; WORDS], |(before, _)| *before);
            let words: [u64; WORDS] = std::array::from_fn(|at| now[at].saturating_sub(before[at]));
            let [polls, packets, exhausted, by_packets @ ..] = words;
            Napi { interface: interface.clone(), id: *id, rx_queue: *rx_queue, polls, packets, exhausted, by_packets }
        };
        NapiReport {
            napis: self.napis.iter().map(of).filter(|napi| napi.polls > 0).collect(),
            uncounted: self.uncounted.saturating_sub(earlier.uncounted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: u32) -> Vec<u8> {
        [8_u16.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    #[test]
    fn a_receive_queue_names_its_napi() {
        let queue =
            |kind: u32| [(1, 3), (3, kind), (2, 7), (4, 257)].map(|(kind, value)| attribute(kind, value)).concat();
        assert_eq!(rx_queue(&queue(0)), Some(((7, 257), 3)));
        assert_eq!(rx_queue(&queue(1)), None);
        // a driver that does not tell
        assert_eq!(rx_queue(&queue(0)[..24]), None);
    }

    #[test]
    fn a_window_is_the_difference() {
        let counts = |polls, packets, exhausted| {
            let mut words = [0; WORDS];
            (words[0], words[1], words[2], words[3 + 7]) = (polls, packets, exhausted, exhausted);
            PollCounts { napis: [(("eth0".to_owned(), 257), (words, Some(0)))].into(), uncounted: 0 }
        };
        let report = counts(9, 300, 4).since(&counts(2, 100, 1));
        let mut by_packets = [0; WORKS];
        by_packets[7] = 3;
        let wanted = Napi {
            interface: "eth0".into(),
            id: 257,
            rx_queue: Some(0),
            polls: 7,
            packets: 200,
            exhausted: 3,
            by_packets,
        };
        assert_eq!(report.napis, [wanted]);
        assert_eq!(counts(2, 1, 0).since(&counts(2, 1, 0)), NapiReport::default());
    }
}
