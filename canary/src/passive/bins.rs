//! What the kernel counted, as bins of sessions for the judge and as totals for `/metrics`: pure, time is an argument.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{Arm, Labels, SessionBin, SessionKey, SparseHistogram};

use super::kernel::{Buckets, Counts, Flow, Lately, middle};
use crate::{Key, KeyFrom, Share, arm};

/// What `source` says of these bins.
pub const SOURCE: &str = "passive";

/// What holds for every line.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// IANA zone of the windows.
    pub(crate) zone: String,
    pub(crate) key: Key,
    pub(crate) labels: Labels,
    /// Round trips are told by an echo; residence otherwise.
    pub(crate) echoes: bool,
}

/// A session as far as it is known when a reading is added.
pub(crate) struct Known<'a> {
    pub(crate) flow: Flow,
    /// The longest key, zero past its end.
    pub(crate) id: &'a [u8; 32],
    pub(crate) bucket: u16,
    pub(crate) server: &'a str,
    pub(crate) isp: &'a str,
}

/// The bin that is open, and the totals.
#[derive(Clone, Debug)]
pub(crate) struct Bins {
    about: About,
    width: SignedDuration,
    start: Timestamp,
    open: HashMap<Name, Open>,
    totals: BTreeMap<Group, Total>,
}

/// What a session is called: two flows of one payload id are one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    Flow(Flow),
    Id(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Open {
    arm: Arm,
    labels: Labels,
    key: Option<SessionKey>,
    counts: Counts,
    times: SparseHistogram,
    variations: SparseHistogram,
}

/// What totals are kept by: few values each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) arm: Arm,
    pub(crate) family: u8,
    pub(crate) server: String,
}

/// Since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Total {
    /// Packets.
    pub packets: Packets,
    /// Round trips, or residence, by the kernel's bucket.
    pub(crate) times: BTreeMap<u16, u64>,
}

/// Packets and echoes of a group since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Packets {
    /// To clients by the control path.
    pub by_control: u64,
    /// To clients by the canary path.
    pub by_canary: u64,
    /// Of clients.
    pub received: u64,
    /// Acknowledgements of numbers that were not sent, or too long ago.
    pub unmatched: u64,
    /// Echoes that tell no round trip.
    pub ambiguous: u64,
}

impl Total {
    /// How many round trips, or residences.
    pub fn count(&self) -> u64 {
        self.times.values().sum()
    }

    /// The time in nanoseconds that this share of them does not exceed, as the middle of its bucket.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = ((share * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let mut ranked = self.times.iter().filter_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| middle(*bucket))
        });
        ranked.next()
    }

    fn add(&mut self, lately: &Lately) {
        let Counts { by_control, by_canary, received, unmatched, ambiguous, restarted: _ } = lately.counts;
        self.packets.by_control += u64::from(by_control);
        self.packets.by_canary += u64::from(by_canary);
        self.packets.received += u64::from(received);
        self.packets.unmatched += u64::from(unmatched);
        self.packets.ambiguous += u64::from(ambiguous);
        for (bucket, count) in &lately.times {
            *self.times.entry(*bucket).or_default() += u64::from(*count);
        }
    }
}

impl Bins {
    pub(crate) fn new(about: About, width: SignedDuration, now: Timestamp) -> Self {
        Self { about, width, start: now, open: HashMap::new(), totals: BTreeMap::new() }
    }

    /// When the open bin ends: bins end at whole multiples of their width since the epoch.
    pub(crate) fn end(&self) -> Timestamp {
        let width = self.width.as_nanos();
        let next = (self.start.as_nanosecond().div_euclid(width) + 1) * width;
        Timestamp::from_nanosecond(next).unwrap_or(Timestamp::MAX)
    }

    /// Adds what a session saw since it was last read, at a share of the sessions on the canary.
    pub(crate) fn add(&mut self, known: &Known<'_>, lately: &Lately, share: Share) {
        let Known { flow, id, bucket, server, isp } = *known;
        let family = if flow.client.is_ipv4() { 4 } else { 6 };
        let arm = arm(bucket, share);
        let group = Group { arm, family, server: server.to_owned() };
        self.totals.entry(group).or_default().add(lately);
        let (name, key) = match self.about.key.from {
            KeyFrom::Payload => {
                let length = usize::from(self.about.key.length.unwrap_or(0)).min(id.len());
                (Name::Id(id[..length].to_vec()), None)
            }
            KeyFrom::ClientAddr | KeyFrom::ClientAddrPort => (Name::Flow(flow), Some(SessionKey(flow.client))),
        };
        let about = &self.about;
        let open = self.open.entry(name).or_insert_with(|| {
            let mut labels = about.labels.clone();
            for (label, value) in [
                ("isp", isp.into()),
                ("family", family.into()),
                ("server", server.into()),
                ("share", share.to_string().into()),
            ] {
                labels.entry(label.to_owned()).or_insert(value);
            }
            let (times, variations) = Default::default();
            Open { arm, labels, key, counts: Counts::default(), times, variations }
        });
        // A bin begins with the arm that the session then had: a ramp shows in the next one.
        let counts = &mut open.counts;
        counts.by_control = counts.by_control.saturating_add(lately.counts.by_control);
        counts.by_canary = counts.by_canary.saturating_add(lately.counts.by_canary);
        counts.received = counts.received.saturating_add(lately.counts.received);
        into(&mut open.times, &lately.times);
        into(&mut open.variations, &lately.variations);
    }

    /// Closes the bin at `end` and opens the next one there. Lines in the order of their sessions' names.
    pub(crate) fn close(&mut self, end: Timestamp) -> Vec<SessionBin> {
        let start = std::mem::replace(&mut self.start, end);
        let open = std::mem::take(&mut self.open);
        if start >= end {
            return Vec::new();
        }
        let mut lines: Vec<_> = open.into_iter().map(|(name, open)| self.line(name, open, start, end)).collect();
        lines.sort_by(|one, other| one.session.cmp(&other.session));
        lines
    }

    fn line(&self, name: Name, open: Open, start: Timestamp, end: Timestamp) -> SessionBin {
        let About { zone, echoes, .. } = &self.about;
        let session = match name {
            Name::Flow(flow) => flow.client.to_string(),
            Name::Id(id) => id.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let Counts { by_control, by_canary, .. } = open.counts;
        let arm_seen = match by_canary.cmp(&by_control) {
            std::cmp::Ordering::Greater => Some(Arm::Canary),
            std::cmp::Ordering::Less => Some(Arm::Control),
            std::cmp::Ordering::Equal => None,
        };
        let filled = |histogram: SparseHistogram| (!histogram.is_empty()).then_some(histogram);
        // The last echoes of a session may come in the bin after its last packet.
        let sent = open.counts.sent().max(open.times.count());
        let (rtt, residence) = if *echoes { (filled(open.times), None) } else { (None, filled(open.times)) };
        SessionBin {
            session,
            key: open.key,
            arm_assigned: Some(open.arm),
            arm_seen,
            labels: open.labels,
            start,
            end,
            zone: zone.clone(),
            sent,
            received: sent,
            loss_unmeasured: true,
            rtt,
            residence,
            ipdv_round_trip: filled(open.variations),
            source: SOURCE.to_owned(),
            ..SessionBin::default()
        }
    }

    pub(crate) fn totals(&self) -> &BTreeMap<Group, Total> {
        &self.totals
    }
}

fn into(histogram: &mut SparseHistogram, buckets: &Buckets) {
    for (bucket, count) in buckets {
        histogram.record_n(middle(*bucket), u64::from(*count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(from: KeyFrom, echoes: bool) -> About {
        let (offset, length) = if from == KeyFrom::Payload { (Some(0), Some(2)) } else { (None, None) };
        let key = Key { from, offset, length };
        About { zone: "Asia/Tokyo".into(), key, labels: [("city".to_owned(), "tyo".into())].into(), echoes }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lately(times: &[(u16, u16)], by_canary: u32) -> Lately {
        let counts = Counts { by_control: 1, by_canary, received: 3, ..Counts::default() };
        Lately { counts, times: times.to_vec(), variations: Vec::new() }
    }

    const SHARE: fn() -> Share = || Share::from_buckets(1_500).unwrap();

    fn known<'a>(client: &str, id: &'a [u8; 32], bucket: u16) -> Known<'a> {
        let flow = Flow { client: client.parse().unwrap(), server_port: 30_000 };
        Known { flow, id, bucket, server: "tyo-a", isp: "NTT" }
    }

    #[test]
    fn a_bin_is_a_line_that_the_judge_takes() {
        let mut bins =
            Bins::new(about(KeyFrom::ClientAddrPort, true), SignedDuration::from_mins(10), at(1_795_255_201));
        assert_eq!(bins.end(), at(1_795_255_800));
        let id = [0; 32];
        bins.add(&known("192.0.2.1:7000", &id, 1_499), &lately(&[(100, 5)], 9), SHARE());
        bins.add(&known("192.0.2.1:7000", &id, 1_499), &lately(&[(101, 1)], 9), SHARE());
        bins.add(&known("[2001:db8::1]:7000", &id, 1_500), &lately(&[], 0), SHARE());
        let lines = bins.close(bins.end());
        assert_eq!(lines.len(), 2);
        let [line, other] = &lines[..] else { panic!() };
        line.check().unwrap();
        assert_eq!(
            (line.session.as_str(), line.arm_assigned, line.arm_seen),
            ("192.0.2.1:7000", Some(Arm::Canary), Some(Arm::Canary))
        );
        assert_eq!((line.sent, line.received, line.lost, line.loss_unmeasured), (20, 20, 0, true));
        assert_eq!(line.rtt.as_ref().map(SparseHistogram::count), Some(6));
        assert!(line.residence.is_none());
        let labels = serde_json::to_string(&line.labels).unwrap();
        assert_eq!(labels, r#"{"city":"tyo","family":4,"isp":"NTT","server":"tyo-a","share":"15%"}"#);
        assert_eq!(
            (other.arm_assigned, other.arm_seen, other.sent, &other.rtt),
            (Some(Arm::Control), Some(Arm::Control), 1, &None)
        );
        assert!(bins.close(bins.end()).is_empty());
    }

    #[test]
    fn without_an_echo_it_is_residence_and_more_echoes_than_packets_do_not_contradict() {
        let mut bins = Bins::new(about(KeyFrom::ClientAddr, false), SignedDuration::from_mins(10), at(0));
        bins.add(&known("192.0.2.1:7000", &[0; 32], 9_999), &lately(&[(3, 50)], 0), SHARE());
        let line = bins.close(at(1)).remove(0);
        line.check().unwrap();
        assert!(line.rtt.is_none());
        assert_eq!((line.residence.map(|histogram| histogram.count()), line.sent), (Some(50), 50));
    }

    #[test]
    fn a_session_that_is_known_by_its_payload_outlives_its_address() {
        let mut bins = Bins::new(about(KeyFrom::Payload, true), SignedDuration::from_mins(10), at(0));
        let mut id = [0; 32];
        id[..2].copy_from_slice(&[0xab, 0x01]);
        for client in ["192.0.2.1:7000", "192.0.2.1:7001"] {
            bins.add(&known(client, &id, 3), &lately(&[(90, 1)], 5), SHARE());
        }
        let lines = bins.close(at(1));
        assert_eq!((lines.len(), lines[0].session.as_str(), lines[0].key), (1, "ab01", None));
        let (_, total) = bins.totals().iter().next().unwrap();
        assert_eq!((total.count(), total.packets.by_canary), (2, 10));
        assert_eq!(total.quantile(0.5), Some(middle(90)));
    }
}
