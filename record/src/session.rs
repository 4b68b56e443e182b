//! The judge's canonical input: what one session saw in one bin of time.

use std::{fmt, net::SocketAddr, str::FromStr};

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

use crate::{Arm, Error, Labels, SparseHistogram};

/// What identifies a session to the steerer: the client's address and port as the server sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(pub SocketAddr);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SessionKey {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// One line of `sessions.jsonl`: one session over one bin. All histograms count nanoseconds.
///
/// IPDV is the magnitude of the difference between consecutive packets (RFC 3393); a lost packet removes both pairs that it is in.
/// An unknown field is an error, never ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionBin {
    /// Pseudonym of the session, or its key as text where nothing has to be hidden.
    pub session: String,
    /// The key that was hashed into the arm, where it may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SessionKey>,
    /// The arm that the assignment function names; analysis is by this one (intention to treat).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm_assigned: Option<Arm>,
    /// The arm that the packets were seen to take, where that was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm_seen: Option<Arm>,
    /// Labels of the session; `window` is read by [`SessionBin::window`].
    #[serde(default)]
    pub labels: Labels,
    /// First instant of the bin (UTC).
    pub start: Timestamp,
    /// First instant after the bin (UTC).
    pub end: Timestamp,
    /// IANA time zone in which windows are to be understood, such as `Asia/Tokyo`.
    pub zone: String,
    /// Slots of this bin that were sent.
    pub sent: u64,
    /// Slots answered in time; `sent = received + lost`.
    pub received: u64,
    /// Slots not answered in time, in whichever direction, the late ones among them (RFC 7680 section 2.6).
    pub lost: u64,
    /// Those of `lost` known never to have reached the reflector.
    #[serde(default)]
    pub lost_forward: u64,
    /// Those of `lost` known to have been answered in vain.
    #[serde(default)]
    pub lost_return: u64,
    /// Runs of losses without an answer between them, where the source counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_episodes: Option<u64>,
    /// Further replies to slots already answered.
    #[serde(default)]
    pub duplicates: u64,
    /// Those of `lost` whose answer came after the timeout.
    #[serde(default)]
    pub late: u64,
    /// Whether the session ended in this bin by going silent; it then counts as the worst of all, not as absent.
    #[serde(default)]
    pub dead: bool,
    /// The source cannot tell losses: `lost` is 0 and says nothing, and `received` is `sent`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loss_unmeasured: bool,
    /// Round-trip times of the answered slots: `A4 - A1` at the planes that the source states in its `run.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<SparseHistogram>,
    /// Time in the server's host, from a client's packet to the next packet to it: what a source that watches a game without an
    /// echo has instead of a round trip. No metric is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residence: Option<SparseHistogram>,
    /// IPDV from probe to reflector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipdv_forward: Option<SparseHistogram>,
    /// IPDV from reflector to probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipdv_return: Option<SparseHistogram>,
    /// IPDV of the round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipdv_round_trip: Option<SparseHistogram>,
    /// Seconds since the source's clock was last known to be synchronised; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_sync_age_s: Option<u64>,
    /// What made this line: `probe`, `passive`, `import:iperf3` ...
    pub source: String,
}

impl SessionBin {
    /// The label `window`, where there is one that can be understood; [`check`](Self::check) refuses the others.
    pub fn window(&self) -> Option<Window> {
        self.labels.get(Window::LABEL)?.as_str()?.parse().ok()
    }

    /// Whether the line contradicts itself. Readers and writers of the run directory call this.
    ///
    /// # Errors
    /// [`Error::Bin`], naming the field, when the counts do not add up, a histogram counts more than was received, the bin is empty
    /// time, or `window` is neither `aa` nor a date.
    pub fn check(&self) -> Result<(), Error> {
        let fail = |why: String| Err(Error::Bin { session: self.session.clone(), why });
        if self.start >= self.end {
            return fail(format!("end {} is not after start {}", self.end, self.start));
        }
        if self.received.checked_add(self.lost) != Some(self.sent) {
            return fail(format!("sent {} is not received {} + lost {}", self.sent, self.received, self.lost));
        }
        if self.loss_unmeasured && self.lost > 0 {
            return fail(format!("lost is {}, and loss_unmeasured says that losses are not told", self.lost));
        }
        for (name, part) in
            [("lost_forward + lost_return", self.lost_forward.saturating_add(self.lost_return)), ("late", self.late)]
        {
            if part > self.lost {
                return fail(format!("{name} is {part}, more than lost {}", self.lost));
            }
        }
        for (name, histogram) in [
            ("rtt", &self.rtt),
            ("residence", &self.residence),
            ("ipdv_forward", &self.ipdv_forward),
            ("ipdv_return", &self.ipdv_return),
            ("ipdv_round_trip", &self.ipdv_round_trip),
        ] {
            let counted = histogram.as_ref().map_or(0, SparseHistogram::count);
            if counted > self.received {
                return fail(format!("{name} counts {counted} packets, more than received {}", self.received));
            }
        }
        if let Some(label) = self.labels.get(Window::LABEL)
            && self.window().is_none()
        {
            return fail(format!("label window is {label}, expected \"aa\" or a date such as \"2026-11-21\""));
        }
        Ok(())
    }
}

/// The window that a bin belongs to, from the label `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The A/A prelude: both arms on today's path. Written `aa`.
    Aa,
    /// The evening that starts on this civil date. Written `2026-11-21`.
    Evening(Date),
}

impl Window {
    /// The label that names it.
    pub const LABEL: &'static str = "window";
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aa => f.write_str("aa"),
            Self::Evening(date) => date.fmt(f),
        }
    }
}

impl FromStr for Window {
    type Err = jiff::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "aa" => Ok(Self::Aa),
            date => date.parse().map(Self::Evening),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin() -> SessionBin {
        SessionBin {
            session: "k7f3".to_owned(),
            arm_assigned: Some(Arm::Canary),
            labels: [("isp".to_owned(), "NTT".into()), ("window".to_owned(), "2026-11-21".into())].into(),
            start: "2026-11-21T10:00:00Z".parse().unwrap(),
            end: "2026-11-21T10:10:00Z".parse().unwrap(),
            zone: "Asia/Tokyo".to_owned(),
            sent: 3,
            received: 2,
            lost: 1,
            rtt: Some([31_812_154, 30_001_000].into_iter().collect()),
            source: "probe".to_owned(),
            ..SessionBin::default()
        }
    }

    #[test]
    fn a_line_is_read_back() {
        let bin = SessionBin { key: Some("[2001:db8::1]:7000".parse().unwrap()), ..bin() };
        let line = serde_json::to_string(&bin).unwrap();
        assert_eq!(serde_json::from_str::<SessionBin>(&line).unwrap(), bin);
        assert!(
            line.contains(r#""start":"2026-11-21T10:00:00Z""#) && line.contains(r#""key":"[2001:db8::1]:7000""#),
            "{line}"
        );
        bin.check().unwrap();
    }

    #[test]
    fn windows_are_the_prelude_or_a_date() {
        assert_eq!(bin().window().unwrap().to_string(), "2026-11-21");
        let mut prelude = bin();
        prelude.labels.insert("window".to_owned(), "aa".into());
        assert_eq!(prelude.window(), Some(Window::Aa));
        prelude.labels.insert("window".to_owned(), 21.into());
        assert!(prelude.check().unwrap_err().to_string().contains("window is 21"));
    }

    #[test]
    fn contradictions_are_named() {
        type Change = fn(&mut SessionBin);
        let cases: [(Change, &str); 5] = [
            (|bin| bin.end = bin.start, "not after start"),
            (|bin| bin.received = u64::MAX, "sent 3 is not"),
            (|bin| bin.lost_return = 2, "lost_forward + lost_return is 2"),
            (|bin| bin.late = 2, "late is 2"),
            (|bin| (bin.sent, bin.received) = (2, 1), "rtt counts 2"),
        ];
        for (change, what) in cases {
            let mut bin = bin();
            change(&mut bin);
            let text = bin.check().unwrap_err().to_string();
            assert!(text.contains(what) && text.contains("k7f3"), "{text}");
        }
    }
}
