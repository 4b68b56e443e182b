//! What the judge found, in types that say what each number is; `verdict.json` is these, written out.

use pathlab_stats::Interval;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Accepted, Description, Early, Metric, PooledAnswer, Window,
    stratum::{Cell, Family},
};

/// A number for each arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Arms<T> {
    /// Today's path.
    pub control: T,
    /// The path under test.
    pub canary: T,
}

/// Which sessions an answer is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Scope {
    /// One ISP, or all.
    pub isp: Option<String>,
    /// One address family, or both.
    pub family: Option<Family>,
}

impl Scope {
    pub(crate) fn all() -> Self {
        Self { isp: None, family: None }
    }

    pub(crate) fn isp(isp: &str) -> Self {
        Self { isp: Some(isp.to_owned()), family: None }
    }

    pub(crate) fn cell(cell: &Cell) -> Self {
        Self { isp: Some(cell.isp.clone()), family: Some(cell.family) }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.isp.as_deref().unwrap_or("all ISPs"))?;
        self.family.map_or(Ok(()), |family| write!(f, " {family}"))
    }
}

/// Which windows an answer is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// The A/A prelude.
    Prelude,
    /// One evening, by its date.
    Evening(String),
    /// All evenings, each weighing the same.
    Evenings,
}

impl When {
    pub(crate) fn of(window: Window) -> Self {
        match window {
            Window::Aa => Self::Prelude,
            Window::Evening(date) => Self::Evening(date.to_string()),
        }
    }
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Prelude => "aa",
            Self::Evening(date) => date,
            Self::Evenings => "evenings",
        })
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The answer to one question: how much worse the canary is. Latencies in nanoseconds here and milliseconds in JSON; rates as shares.
///
/// In JSON an infinite number is the text `infinite` or `-infinite`, and no number is null.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was compared.
    pub metric: Metric,
    /// For which sessions.
    pub scope: Scope,
    /// In which windows.
    pub when: When,
    /// Sessions behind it, each counted once.
    pub sessions: Arms<u64>,
    /// The control arm's value.
    pub control: f64,
    /// The canary arm's value.
    pub canary: f64,
    /// Canary minus control: above zero is worse.
    pub interval: Interval,
    /// Two-sided confidence of the interval, 0 to 1.
    pub confidence: f64,
    /// Up to this much worse is not worse.
    pub margin: f64,
    /// The difference that would have been told from zero with a probability of 80 %.
    pub smallest_detectable: f64,
    /// Canary sessions that the metric takes, where there are fewer: the interval is then too narrow to promote on.
    pub needed: Option<u32>,
    /// Probability that chance alone makes any question of the same metric look as much worse.
    pub p_worse: Option<f64>,
    /// Probability that chance alone makes this one look as much better.
    pub p_better: Option<f64>,
    /// Probability that chance alone makes any question of the prelude differ as much.
    pub p_differs: Option<f64>,
}

impl Answer {
    /// Whether it is a latency; a rate otherwise.
    pub fn is_latency(&self) -> bool {
        matches!(self.metric, Metric::Quantile { .. })
    }

    /// The difference in standard errors, as the interval has them; none where that is no number.
    pub fn z(&self) -> Option<f64> {
        let reach = (self.interval.high - self.interval.low) / 2.0;
        let confidence = pathlab_stats::Confidence::new(self.confidence).ok()?;
        let z = self.interval.estimate * confidence.z() / reach;
        z.is_finite().then_some(z)
    }

    /// With confidence not worse than the margin, and with enough sessions to say so.
    pub fn not_worse(&self) -> bool {
        self.needed.is_none() && self.interval.high < self.margin
    }

    /// `-31.2 ms` or `+0.35 pp`, by what it is.
    pub fn difference_text(&self, value: f64) -> String {
        signed(self.is_latency(), value)
    }

    /// `31.2 ms` or `0.35 %`, by what it is.
    pub fn value_text(&self, value: f64) -> String {
        plain(self.is_latency(), value)
    }

    /// [`Answer::smallest_detectable`] in words.
    pub fn smallest_detectable_text(&self) -> String {
        match self.smallest_detectable.is_finite() {
            true => self.value_text(self.smallest_detectable),
            false => "unknown".to_owned(),
        }
    }

    /// `-31.2 ms (95 % interval -33.4 to -28.9 ms; 195 canary and 1105 control sessions)`.
    pub fn text(&self) -> String {
        let Interval { estimate, low, high } = self.interval;
        format!(
            "{} ({:.0} % interval {} to {}; {} canary and {} control sessions)",
            self.difference_text(estimate),
            self.confidence * 100.0,
            self.difference_text(low),
            self.difference_text(high),
            self.sessions.canary,
            self.sessions.control
        )
    }
}

/// A latency in nanoseconds or a share, as people write it.
pub(crate) fn plain(latency: bool, value: f64) -> String {
    let (scaled, unit) = if latency { (value / 1e6, "ms") } else { (value * 100.0, "%") };
    match scaled {
        _ if scaled.is_nan() => "unknown".to_owned(),
        _ if scaled.is_infinite() => "no reply".to_owned(),
        _ if scaled.abs() < 0.005 => format!("0.00 {unit}"), // never minus nothing
        _ if scaled.abs() < 9.995 => format!("{scaled:.2} {unit}"),
        _ => format!("{scaled:.1} {unit}"),
    }
}

fn signed(latency: bool, value: f64) -> String {
    let sign = if value >= if latency { 5e3 } else { 5e-5 } { "+" } else { "" };
    match value {
        _ if value.is_nan() => "unknown".to_owned(),
        f64::INFINITY => "+infinite".to_owned(),
        f64::NEG_INFINITY => "-infinite".to_owned(),
        _ if latency => format!("{sign}{}", plain(true, value)),
        _ => format!("{sign}{}", plain(false, value).replace('%', "pp")),
    }
}

/// A float that is written the same everywhere: six significant digits, which is more than any of them is worth.
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            value if value.is_nan() => to.serialize_none(),
            f64::INFINITY => to.serialize_str("infinite"),
            f64::NEG_INFINITY => to.serialize_str("-infinite"),
            value => {
                let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
                to.serialize_f64(if rounded == 0.0 { 0.0 } else { rounded }) // no negative zero
            }
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let scale = if self.is_latency() { 1e-6 } else { 1.0 };
        let number = |value: f64| Number(value * scale);
        let mut out = to.serialize_struct("Answer", 17)?;
        out.serialize_field("metric", &self.metric)?;
        out.serialize_field("isp", &self.scope.isp)?;
        out.serialize_field("family", &self.scope.family)?;
        out.serialize_field("window", &self.when)?;
        out.serialize_field("unit", if self.is_latency() { "ms" } else { "share" })?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("control", &number(self.control))?;
        out.serialize_field("canary", &number(self.canary))?;
        out.serialize_field("difference", &number(self.interval.estimate))?;
        out.serialize_field("low", &number(self.interval.low))?;
        out.serialize_field("high", &number(self.interval.high))?;
        out.serialize_field("confidence", &Number(self.confidence))?;
        out.serialize_field("margin", &number(self.margin))?;
        out.serialize_field("smallest_detectable", &number(self.smallest_detectable))?;
        for (name, p) in [("p_worse", self.p_worse), ("p_better", self.p_better), ("p_differs", self.p_differs)] {
            match p {
                Some(p) => out.serialize_field(name, &Number(p))?,
                None => out.skip_field(name)?,
            }
        }
        match self.needed {
            Some(needed) => out.serialize_field("needed", &needed)?,
            None => out.skip_field("needed")?,
        }
        out.end()
    }
}

/// One ISP: over all evenings, and evening by evening.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IspFindings {
    /// Whether the improvement is claimed here.
    pub target: bool,
    /// All evenings.
    pub whole: Answer,
    /// Each evening.
    pub evenings: Vec<Answer>,
}

/// A cell with too few sessions to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unjudged {
    /// ISP.
    pub isp: String,
    /// Address family.
    pub family: Family,
    /// Sessions on the evening that had fewest.
    pub sessions: Arms<u64>,
    /// Sessions needed on each arm and evening.
    pub needed: u32,
}

/// The sample-ratio check of one scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// Which sessions.
    pub scope: Scope,
    /// What was assigned and seen.
    pub sessions: Arms<u64>,
    /// Share on the canary, 0 to 1.
    pub seen: f64,
    /// Share as configured.
    pub expected: f64,
    /// Probability of being at least this far off by chance.
    pub p: f64,
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut out = to.serialize_struct("Ratio", 6)?;
        out.serialize_field("isp", &self.scope.isp)?;
        out.serialize_field("family", &self.scope.family)?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("seen", &Number(self.seen))?;
        out.serialize_field("expected", &Number(self.expected))?;
        out.serialize_field("p", &Number(self.p))?;
        out.end()
    }
}

/// Whether the experiment ran as designed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checks {
    /// Sample ratio: over all, then by cell.
    pub sample_ratio: Vec<Ratio>,
    /// Lines judged.
    pub lines: u64,
    /// Those of them observed on another arm than assigned, outside the prelude.
    pub crossed_over: u64,
    /// Sessions judged.
    pub sessions: u64,
    /// Sessions that had neither an arm nor a key to compute it from, and were left out.
    pub without_arm: u64,
    /// Sessions with both an arm and a key.
    pub assignable: u64,
    /// Those of them on another arm than seed and key say.
    pub misassigned: u64,
    /// Whether re-drawn assignments came from the assignment function (all keys known), or from a coin of the same share.
    pub redrawn_by_key: bool,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// The evenings with data, by date.
    pub evenings: Vec<String>,
    /// The evening that is not over, and until when there are data of it.
    pub in_progress: Option<(String, jiff::Timestamp)>,
    /// Round-trip quantiles of every arm and stratum.
    pub described: Vec<Description>,
    /// The deciding metric in each stratum with both arms, the prelude's among them.
    pub strata: Vec<Answer>,
    /// The deciding metric in each ISP and family with enough sessions, over the evenings.
    pub cells: Vec<Answer>,
    /// The deciding metric by ISP.
    pub isps: Vec<IspFindings>,
    /// The guardrails.
    pub guardrails: Vec<Answer>,
    /// The looks at every bin.
    pub early: Early,
    /// Change of the difference from the lowest share to the highest, where a ramp raised it.
    pub capacity: Vec<Answer>,
    /// Arms of pooled packets.
    pub pooled: Vec<PooledAnswer>,
    /// Assignments that were re-drawn for the family of questions that took most.
    pub redraws: u64,
    /// The deciding metric in the A/A prelude, where it has enough sessions.
    pub prelude: Vec<Answer>,
    /// Whether there was a prelude at all.
    pub prelude_seen: bool,
    /// What is too small to be judged.
    pub unjudged: Vec<Unjudged>,
    /// The canary's sessions against the targets of the runbook, where there are any; they decide nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<Accepted>,
    /// Whether the experiment ran as designed.
    pub checks: Checks,
}
