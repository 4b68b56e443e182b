//! Paths by flow, as `pathlab trace` left them: who answers at each hop, what the destination loses, and the link that is blamed.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::markup::Markup;
use crate::report::percent;

/// The file of a run that holds a trace.
pub(super) const TRACE: &str = "trace.json";
/// From one hop to the next, and from one flow to the next, in the figure.
const STEP: f64 = 96.0;
const ROW: f64 = 44.0;

/// One trace.
#[derive(Serialize)]
pub(crate) struct Paths {
    pub(crate) run: String,
    pub(crate) target: String,
    pub(crate) flows: Vec<Path>,
}

/// One flow.
#[derive(Serialize)]
pub(crate) struct Path {
    pub(crate) source: String,
    /// Address of each hop up to the destination; absent where none answered.
    pub(crate) hops: Vec<Option<String>>,
    /// Whether the destination ever answered; if not, it stands behind the last hop that did, at no known distance.
    pub(crate) reached: bool,
    /// Rounds that were asked for.
    pub(crate) rounds: u64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Wilson's 95 % interval of the loss, in parts of ten thousand.
    pub(crate) low_per_10000: u64,
    pub(crate) high_per_10000: u64,
    pub(crate) changes: Vec<Changed>,
    /// First and last hop of the stretch that is blamed; hop 0 is the tracing host.
    pub(crate) blamed: Option<(u8, u8)>,
    pub(crate) verdict: String,
}

/// A change of the path, where somebody else answers from then on.
#[derive(Serialize)]
pub(crate) struct Changed {
    /// Since the start of the trace.
    pub(crate) at_ms: u64,
    /// Absent where the path became longer or shorter.
    pub(crate) hop: Option<u8>,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
}

impl Changed {
    /// `hop 3 at 12.3 s: 10.0.0.1 → 10.0.0.2`.
    pub(crate) fn text(&self) -> String {
        let at = self.at_ms as f64 / 1e3;
        let Some(hop) = self.hop else { return format!("length at {at:.1} s") };
        let [before, after] = [&self.before, &self.after].map(|end| end.as_deref().unwrap_or("no answer"));
        format!("hop {hop} at {at:.1} s: {before} → {after}")
    }
}

impl Path {
    /// Of which rounds the counts are, where the path did not stay one.
    pub(crate) fn counted(&self) -> Option<String> {
        let some = !self.changes.is_empty() && self.sent < self.rounds;
        some.then(|| {
            format!("counts are of the longest stretch without a change: {} of {} rounds", self.sent, self.rounds)
        })
    }

    /// `30.0 % (26.1 % to 34.2 %)`.
    pub(crate) fn loss(&self) -> String {
        if self.sent == 0 {
            return "not measured".to_owned();
        }
        let [low, high] = [self.low_per_10000, self.high_per_10000].map(|part| percent(part as f64 / 1e4));
        format!("{} ({low} to {high})", percent(self.lost as f64 / self.sent as f64))
    }
}

#[derive(Deserialize)]
struct File {
    target: String,
    #[serde(default)]
    rounds: u64,
    flows: Vec<Flow>,
}

#[derive(Deserialize)]
struct Flow {
    source: String,
    verdict: Verdict,
    hops: Vec<Hop>,
    destination: Destination,
    changes: Vec<Change>,
    #[serde(default)]
    refusals: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    from: String,
    answer: String,
    mtu: Option<u32>,
    times: u64,
}

impl Refusal {
    fn text(&self) -> String {
        let mtu = self.mtu.filter(|mtu| *mtu > 0).map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
        format!("{} answers {}{mtu} ({} times)", self.from, self.answer, self.times)
    }
}

#[derive(Deserialize)]
struct Change {
    at_ns: u64,
    hop: Option<u8>,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Deserialize)]
struct Hop {
    hop: u8,
    addresses: Vec<String>,
}

#[derive(Deserialize)]
struct Destination {
    distance: Option<u8>,
    loss: Share,
}

#[derive(Deserialize)]
struct Share {
    sent: u64,
    lost: u64,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Verdict {
    None,
    Culprit { from: End, to: End, direction: String, confidence: f64 },
    BlackHole { after: End },
    Insufficient { why: String },
}

#[derive(Deserialize)]
struct End {
    hop: u8,
    address: Option<String>,
}

impl End {
    fn name(&self) -> String {
        match (&self.address, self.hop) {
            (_, 0) => "this host".to_owned(),
            (Some(address), hop) => format!("{address} (hop {hop})"),
            (None, hop) => format!("hop {hop}"),
        }
    }
}

impl Paths {
    /// Of a `trace.json`.
    pub(super) fn read(run: String, text: &str) -> Result<Self> {
        let file: File =
            serde_json::from_str(text).with_context(|| format!("{run}: {TRACE}: no trace of this version"))?;
        let flows = file.flows.into_iter().map(|flow| of(flow, &file.target, file.rounds)).collect();
        Ok(Self { run, target: file.target, flows })
    }
}

fn of(flow: Flow, target: &str, rounds: u64) -> Path {
    let last = flow.hops.iter().map(|hop| hop.hop).max().unwrap_or(0);
    let reached = flow.destination.distance.is_some();
    let length = flow.destination.distance.unwrap_or(last.saturating_add(1));
    let mut hops = vec![None; usize::from(length)];
    for hop in flow.hops {
        if let Some(place) = usize::from(hop.hop).checked_sub(1).and_then(|at| hops.get_mut(at)) {
            *place = hop.addresses.into_iter().next();
        }
    }
    if let Some(end) = hops.last_mut() {
        *end = Some(target.to_owned());
    }
    let (blamed, verdict) = match &flow.verdict {
        Verdict::None => (None, "no loss".to_owned()),
        Verdict::Culprit { from, to, direction, confidence } => (
            Some((from.hop, to.hop)),
            format!("between {} and {}, {} ({})", from.name(), to.name(), way(direction), percent(*confidence)),
        ),
        Verdict::BlackHole { after } => {
            let told: Vec<String> = flow.refusals.iter().map(Refusal::text).collect();
            let why = if told.is_empty() { "no ICMP answer says why".to_owned() } else { told.join("; ") };
            let said = format!("nothing comes back from beyond {}: {why}", after.name());
            (Some((after.hop, after.hop.saturating_add(1))), said)
        }
        Verdict::Insufficient { why } => (None, format!("insufficient: {why}")),
    };
    let Share { sent, lost, low, high } = flow.destination.loss;
    let [low_per_10000, high_per_10000] = [low, high].map(|share| (share * 1e4).round() as u64);
    Path {
        source: flow.source,
        hops,
        reached,
        rounds,
        sent,
        lost,
        low_per_10000,
        high_per_10000,
        changes: flow.changes.into_iter().map(changed).collect(),
        blamed,
        verdict,
    }
}

fn changed(Change { at_ns, hop, before, after }: Change) -> Changed {
    Changed { at_ms: at_ns / 1_000_000, hop, before, after }
}

fn way(direction: &str) -> &str {
    match direction {
        "forward" => "on the way there",
        "return" => "on the way back",
        "both" => "on both ways",
        _ => "in which direction nobody counted",
    }
}

/// Each flow from left to right; the stretch that is blamed is thick, a hop at which the path changed has a diamond around it, and the first change is
/// told below.
pub(super) fn graph(paths: &Paths) -> Markup {
    let longest = paths.flows.iter().map(|flow| flow.hops.len()).max().unwrap_or(0);
    let (width, height) = (STEP * longest as f64 + 130.0, ROW * paths.flows.len() as f64 + 6.0);
    let mut svg = Markup::default();
    svg.open(
        "svg",
        &[
            ("viewBox", &format!("0 0 {width:.0} {height:.0}")),
            ("width", &format!("{width:.0}")),
            ("height", &format!("{height:.0}")),
            ("role", &"img"),
        ],
    );
    svg.element("title", &[], format_args!("paths to {}", paths.target));
    for (row, flow) in paths.flows.iter().enumerate() {
        let y = ROW * row as f64 + 22.0;
        let x = |hop: usize| 40.0 + STEP * hop as f64;
        for hop in 1..=flow.hops.len() {
            let blamed = flow.blamed.is_some_and(|(from, to)| usize::from(from) < hop && hop <= usize::from(to));
            let beyond = !flow.reached && hop == flow.hops.len();
            let class = match (blamed, beyond) {
                (true, false) => "link blamed",
                (true, true) => "link blamed beyond",
                (false, true) => "link beyond",
                (false, false) => "link",
            };
            svg.empty("path", &[("d", &format!("M{} {y}H{}", x(hop - 1), x(hop))), ("class", &class)]);
        }
        for (hop, address) in std::iter::once(&Some(flow.source.clone())).chain(&flow.hops).enumerate() {
            let answers = address.is_some() && (flow.reached || hop < flow.hops.len());
            let class = if answers { "node" } else { "node silent" };
            if flow.changes.iter().any(|change| change.hop.is_some_and(|of| usize::from(of) == hop)) {
                let at = x(hop);
                let around = format!("M{} {y}L{at} {}L{} {y}L{at} {}Z", at - 8.0, y - 8.0, at + 8.0, y + 8.0);
                svg.empty("path", &[("d", &around), ("class", &"changed")]);
            }
            svg.empty("circle", &[("cx", &x(hop)), ("cy", &y), ("r", &3.5), ("class", &class)]);
            let name = address.as_deref().unwrap_or("no answer");
            let short: String = name.chars().take(22).collect();
            svg.element(
                "text",
                &[("x", &x(hop)), ("y", &(y - 8.0)), ("text-anchor", &"middle"), ("font-size", &8.5)],
                short,
            );
        }
        let at = x(flow.hops.len()) + 10.0;
        svg.element(
            "text",
            &[("x", &at), ("y", &(y + 3.5)), ("class", &"strong")],
            percent(flow.lost as f64 / flow.sent.max(1) as f64),
        );
        if let Some(first) = flow.changes.first() {
            let more = match flow.changes.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            svg.element(
                "text",
                &[("x", &40), ("y", &(y + 17.0)), ("font-size", &8.5)],
                format_args!("◇ path changed: {}{more}", first.text()),
            );
        }
    }
    svg.close("svg");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_that_is_blamed_is_named_with_its_interval() {
        let text = r#"{"schema":"pathlab.trace/1","target":"203.0.113.5:862","flows":[{"source":"192.0.2.1:40000",
            "verdict":{"kind":"culprit","from":{"hop":1,"address":"10.0.0.1"},"to":{"hop":2,"address":null},"direction":"forward","confidence":0.99},
            "hops":[{"hop":1,"addresses":["10.0.0.1"]},{"hop":2,"addresses":[]}],
            "destination":{"distance":3,"loss":{"sent":200,"lost":60,"share":0.3,"low":0.2406,"high":0.3668}},
            "changes":[{"at_ns":12345000000,"hop":1,"before":"10.0.0.9","after":"10.0.0.1"},{"at_ns":14000000000,"hop":null,"before":null,"after":null}]}]}"#;
        let paths = Paths::read("run".to_owned(), text).unwrap();
        let flow = &paths.flows[0];
        assert_eq!(flow.blamed, Some((1, 2)));
        assert_eq!(flow.verdict, "between 10.0.0.1 (hop 1) and hop 2, on the way there (99.00 %)");
        assert_eq!(flow.loss(), "30.00 % (24.06 % to 36.68 %)");
        assert_eq!(flow.hops, [Some("10.0.0.1".to_owned()), None, Some("203.0.113.5:862".to_owned())]);
        let svg = graph(&paths).into_string();
        assert_eq!((svg.matches("link blamed").count(), svg.matches("node silent").count()), (1, 1));
        // One diamond: a length is of no hop.
        assert_eq!(svg.matches("class=\"changed\"").count(), 1);
        assert!(svg.contains("◇ path changed: hop 1 at 12.3 s: 10.0.0.9 → 10.0.0.1, and 1 more"), "{svg}");
        assert_eq!(flow.changes[1].text(), "length at 14.0 s");
        assert_eq!(flow.counted(), None, "an older trace does not say of how many");
    }

    #[test]
    fn what_never_answers_stands_behind_a_dashed_link_with_the_answers_that_came() {
        let text = r#"{"schema":"pathlab.trace/1","target":"203.0.113.5:862","rounds":300,"flows":[{"source":"192.0.2.1:40000",
            "verdict":{"kind":"black_hole","after":{"hop":2,"address":"10.0.0.2"}},"hops":[{"hop":1,"addresses":["10.0.0.1"]},{"hop":2,"addresses":["10.0.0.2"]}],
            "destination":{"distance":null,"loss":{"sent":200,"lost":200,"share":1.0,"low":0.98,"high":1.0}},
            "changes":[{"at_ns":12345000000,"hop":1,"before":"10.0.0.9","after":"10.0.0.1"}],
            "refusals":[{"from":"10.0.0.2","hop":2,"answer":"Packet Too Big","mtu":1280,"times":198}]}]}"#;
        let paths = Paths::read("run".to_owned(), text).unwrap();
        let flow = &paths.flows[0];
        assert_eq!(
            flow.verdict,
            "nothing comes back from beyond 10.0.0.2 (hop 2): 10.0.0.2 answers Packet Too Big, MTU 1280 (198 times)"
        );
        assert_eq!(
            flow.counted().as_deref(),
            Some("counts are of the longest stretch without a change: 200 of 300 rounds")
        );
        let svg = graph(&paths).into_string();
        assert_eq!((svg.matches("link blamed beyond").count(), svg.matches("node silent").count()), (1, 1), "{svg}");
    }
}
