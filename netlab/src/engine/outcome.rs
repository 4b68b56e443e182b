//! What came of a run, whichever engine played it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// One test packet of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Index into the sessions.
    pub session: usize,
    /// When it was sent, from the start of the run.
    pub sent: Duration,
    /// Whether it reached the reflector; `None` where nobody knows.
    pub arrived: Option<bool>,
    /// Until it reached the reflector; `None` where it did not, or its stamp was lost with the reply.
    pub forward: Option<Duration>,
    /// Until its reply came back; `None` where request or reply was lost.
    pub rtt: Option<Duration>,
}

/// What a link end did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// Packets sent on.
    pub sent: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
    /// Packets that the discipline dropped from the queue.
    pub dropped: u64,
    /// Packets that it marked.
    pub marked: u64,
    /// Packets lost on the way to the other end: loss, or a link that is down.
    pub lost: u64,
    /// Packets that came from the other end and found this end's receive ring full.
    pub missed: u64,
}

/// What a bulk came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkCount {
    /// Bytes of payload that its receivers got in order, by tenths of a second from the start of the run; those without any are left out.
    pub received: BTreeMap<u64, u64>,
    /// Segments sent more than once; absent where TCP is the kernel's.
    pub retransmitted: Option<u64>,
}

impl BulkCount {
    /// What one place of `received` spans.
    pub const BIN: Duration = Duration::from_millis(100);

    /// Counts payload that was received in order at `at`.
    pub fn count(&mut self, at: Duration, bytes: u64) {
        *self.received.entry((at.as_nanos() / Self::BIN.as_nanos()) as u64).or_default() += bytes;
    }

    /// Bytes that were received in the bins that begin in `start..end`.
    pub fn between(&self, start: Duration, end: Duration) -> u64 {
        let bin = |at: Duration| at.as_nanos().div_ceil(Self::BIN.as_nanos()) as u64;
        self.received.range(bin(start)..bin(end)).map(|(_, bytes)| bytes).sum()
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Every test packet, in the order of sending.
    pub probes: Vec<Probed>,
    /// Every link end that queues, loses or receives into a ring, by node and interface.
    pub links: BTreeMap<(String, String), LinkCount>,
    /// Every bulk, by name.
    pub bulks: BTreeMap<String, BulkCount>,
    /// The link ends that each session takes on its way there and back, by node and interface, as routes are when nothing is wrong.
    pub ways: Vec<Vec<(String, String)>>,
    /// Packets of loads and games.
    pub load_packets: u64,
    /// Packets for which some node had no route, or which went round for too long.
    pub unroutable: u64,
}

impl Outcome {
    /// All of it in lines of text, times in nanoseconds: the same outcome has the same bytes, on any machine.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let span = |span: Option<Duration>| span.map_or_else(|| "-".to_owned(), |span| span.as_nanos().to_string());
        for Probed { session, sent, arrived, forward, rtt } in &self.probes {
            let forward = match (arrived, forward) {
                (_, Some(forward)) => forward.as_nanos().to_string(),
                (Some(false), None) => "-".to_owned(),
                (_, None) => "?".to_owned(),
            };
            let _ = writeln!(text, "probe {session} {} {forward} {}", sent.as_nanos(), span(*rtt));
        }
        for ((node, dev), LinkCount { sent, overflowed, dropped, marked, lost, missed }) in &self.links {
            let _ = writeln!(text, "link {node}:{dev} {sent} {overflowed} {dropped} {marked} {lost} {missed}");
        }
        for (name, BulkCount { received, retransmitted }) in &self.bulks {
            let retransmitted = retransmitted.map_or_else(|| "-".to_owned(), |segments| segments.to_string());
            let _ = writeln!(text, "bulk {name} {retransmitted} {received:?}");
        }
        for (session, way) in self.ways.iter().enumerate() {
            let way: Vec<String> = way.iter().map(|(node, dev)| format!("{node}:{dev}")).collect();
            let _ = writeln!(text, "way {session} {}", way.join(" "));
        }
        let _ = writeln!(text, "loads {} unroutable {}", self.load_packets, self.unroutable);
        text
    }
}
