//! A trace for reading: what is to be said of the flows first, then a table for each.

use std::fmt::Write;

use pathlab_trace::{
    Direction, End, FlowReport, Hop, HopNetwork, PathChange, PathReport, Refusal, Report, Reverse, Rtt, Share, Verdict,
    probe::LEAST_SIZE,
};

use super::{Table, percent, span};

/// What one sentence says.
struct Said {
    verdict: Verdict,
    /// Places of the flows of which it is true.
    flows: Vec<usize>,
    /// Sent and lost by all of them; absent where flows of one path lose differently.
    together: Option<(u64, u64)>,
}

/// Sentences, then tables.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut said: Vec<Said> = Vec::new();
    for one in report.paths.iter().flat_map(|path| of_path(path, report)) {
        match said.iter_mut().find(|known| same(&known.verdict, &one.verdict)) {
            Some(known) => {
                known.flows.extend(one.flows);
                known.flows.sort_unstable();
                let sum = known.together.zip(one.together);
                known.together = sum.map(|((sent, lost), (more, of_those))| (sent + more, lost + of_those));
            }
            None => said.push(one),
        }
    }
    // What is wrong comes first.
    said.sort_by_key(|one| match one.verdict {
        Verdict::Culprit { .. } => 0,
        Verdict::BlackHole { .. } => 1,
        Verdict::Insufficient { .. } => 2,
        Verdict::None => 3,
    });
    for one in &said {
        let _ = writeln!(text, "{}", sentence(one, report));
    }
    text.push_str(&backwards(report));
    for (place, flow) in report.flows.iter().enumerate() {
        let _ = write!(text, "\n{}", table(place, flow, report));
    }
    text
}

/// What is said of the way back, where it was traced.
fn backwards(report: &Report) -> String {
    let mut said: Vec<(&Reverse, Vec<String>, Vec<String>)> = Vec::new();
    for (place, flow) in report.flows.iter().enumerate() {
        let Some(way) = &flow.reverse else { continue };
        let (number, lost) = ((place + 1).to_string(), share(way.loss));
        match said.iter_mut().find(|(known, ..)| same(&known.verdict, &way.verdict)) {
            Some((_, flows, losses)) => {
                flows.push(number);
                losses.push(lost);
            }
            None => said.push((way, vec![number], vec![lost])),
        }
    }
    let mut text = String::new();
    for (way, flows, losses) in said {
        let who = format!("way back of flow{} {}", if flows.len() > 1 { "s" } else { "" }, flows.join(", "));
        let end = |end: End| match (end.hop, way.distance) {
            (0, _) => "the reflector".to_owned(),
            (hop, Some(distance)) if hop == distance => "this host".to_owned(),
            _ => hop(end),
        };
        let what = match &way.verdict {
            Verdict::Culprit { from, to, .. } => {
                format!("packets are lost between {} and {}: {}", end(*from), end(*to), losses.join("; "))
            }
            Verdict::BlackHole { after } => format!("nothing comes from beyond {}", end(*after)),
            Verdict::Insufficient { why } => format!("insufficient: {why}"),
            Verdict::None => format!("no loss: {}", losses.join("; ")),
        };
        let _ = writeln!(text, "{who}, counted from the reflector: {what}");
    }
    text
}

/// What is said of the flows of one path: together, or of each.
fn of_path<'a>(path: &'a PathReport, report: &'a Report) -> Vec<Said> {
    let together = Some((path.loss.sent, path.loss.lost));
    match &path.verdict {
        Some(verdict) => vec![Said { verdict: verdict.clone(), flows: path.flows.clone(), together }],
        None => {
            let each = |place: &usize| Said {
                verdict: report.flows[*place].verdict.clone(),
                flows: vec![*place],
                together: None,
            };
            path.flows.iter().map(each).collect()
        }
    }
}

/// Whether one sentence says it for both.
fn same(a: &Verdict, b: &Verdict) -> bool {
    match (a, b) {
        (Verdict::Culprit { from, to, direction, .. }, Verdict::Culprit { from: f, to: t, direction: d, .. }) => {
            (from, to, direction) == (f, t, d)
        }
        _ => a == b,
    }
}

fn sentence(Said { verdict, flows: places, together }: &Said, report: &Report) -> String {
    let flows = &report.flows;
    let numbers: Vec<String> = places.iter().map(|place| (place + 1).to_string()).collect();
    let who = match places.len() {
        all if all == flows.len() && all > 1 => format!("all {all} flows"),
        1 => format!("flow {}", numbers[0]),
        _ => format!("flows {}", numbers.join(", ")),
    };
    let of_each = || places.iter().map(|place| flows[*place].destination.loss);
    let losses = match together {
        Some((sent, 0)) => share(Share::of(*sent, 0)),
        Some((sent, lost)) if places.len() > 1 => {
            let each: Vec<String> = of_each().map(|loss| loss.share.map_or_else(|| "–".into(), percent)).collect();
            format!("{}; by flow {}", share(Share::of(*sent, *lost)), each.join(", "))
        }
        _ => by_flow(places, &of_each().map(share).collect::<Vec<_>>()),
    };
    match verdict {
        Verdict::Culprit { from, to, direction, .. } => {
            let way = match direction {
                Direction::Forward => ", on the way there",
                Direction::Return => ", on the way back",
                Direction::Both => ", in both directions",
                Direction::Unknown => "; in which direction, only a stateful reflector could tell",
            };
            let silent =
                if to.hop - from.hop > 1 { " (what lies between them does not answer, or seldom)" } else { "" };
            format!("{who}: packets are lost between {} and {}{silent}{way}: {}", hop(*from), hop(*to), losses)
        }
        Verdict::BlackHole { after } => {
            let why = refusals(places.iter().map(|place| &flows[*place]), report.size);
            format!("{who}: nothing comes back from beyond {}: {why}", hop(*after))
        }
        Verdict::Insufficient { why } => format!("{who}: insufficient: {why}"),
        Verdict::None => format!("{who}: no loss: {losses}"),
    }
}

/// Which ICMP answers tell why nothing passes, by whom; or that none came.
fn refusals<'a>(flows: impl Iterator<Item = &'a FlowReport>, size: usize) -> String {
    let mut told: Vec<Refusal> = Vec::new();
    for refusal in flows.flat_map(|flow| &flow.refusals) {
        match told.iter_mut().find(|known| refusal_of(known) == refusal_of(refusal)) {
            Some(known) => known.times += refusal.times,
            None => told.push(refusal.clone()),
        }
    }
    if told.is_empty() {
        // What is dropped for its length alone looks the same, unless a router tells.
        let shorter = if size > LEAST_SIZE {
            format!("; --size {LEAST_SIZE} tells whether shorter ones pass")
        } else {
            String::new()
        };
        return format!(
            "no ICMP answer says why (neither too big nor unreachable), so it is dropped in silence, or nobody there answers{shorter}"
        );
    }
    told.iter().map(|refusal| answered(refusal, size)).collect::<Vec<_>>().join("; ")
}

fn refusal_of(refusal: &Refusal) -> (std::net::IpAddr, &str, Option<u32>) {
    (refusal.from, &refusal.answer, refusal.mtu)
}

/// `hop 3 (192.0.2.22) answers Fragmentation Needed, MTU 1300, to 1400 octets of payload (400 times)`.
fn answered(Refusal { from, hop: at, answer, mtu, times }: &Refusal, size: usize) -> String {
    let who = at.map_or_else(|| from.to_string(), |at| hop(End { hop: at, address: Some(*from) }));
    let mtu = match mtu {
        Some(0) => format!(", without its MTU, to {size} octets of payload"),
        Some(mtu) => format!(", MTU {mtu}, to {size} octets of payload"),
        None => String::new(),
    };
    format!("{who} answers {answer}{mtu} ({times} times)")
}

/// What was lost by each flow: once where it is the same, else with the flow's number.
fn by_flow(places: &[usize], losses: &[String]) -> String {
    match losses {
        [one] => one.clone(),
        [first, rest @ ..] if rest.iter().all(|loss| loss == first) => format!("{first} each"),
        _ => {
            let numbered = places.iter().zip(losses).map(|(place, loss)| format!("flow {}: {loss}", place + 1));
            numbered.collect::<Vec<_>>().join("; ")
        }
    }
}

fn hop(end: End) -> String {
    match (end.hop, end.address) {
        (0, _) => "this host".into(),
        (hop, Some(address)) => format!("hop {hop} ({address})"),
        (hop, None) => format!("hop {hop}"),
    }
}

fn share(share: Share) -> String {
    match share.share {
        Some(lost) => format!(
            "{} of {} (95 % interval {} to {})",
            percent(lost),
            share.sent,
            percent(share.low),
            percent(share.high)
        ),
        None => "nothing was sent".into(),
    }
}

fn table(place: usize, flow: &FlowReport, report: &Report) -> String {
    let mut text = format!("flow {}: {} to {}\n", place + 1, flow.source, report.target);
    let mut rows = Rows(Table::new(["hop", "", "sent", "loss", "95 % interval", "p50", "p95", ""]));
    flow.hops.iter().for_each(|hop| rows.hop(hop));
    let end = &flow.destination;
    let mut notes: Vec<String> = end.network.iter().map(named).collect();
    notes.push(match end.answers {
        Some("reflector") => "reflector".into(),
        Some(_) => "port unreachable".into(),
        None => "does not answer".into(),
    });
    if let (Some(there), Some(back)) = (end.lost_forward, end.lost_return) {
        notes.push(format!("{there} lost there, {back} back"));
    }
    let name = end.distance.map_or_else(|| "end".into(), |distance| distance.to_string());
    rows.row(name, report.target.ip().to_string(), end.loss, end.rtt, notes.join("; "));
    let _ = write!(text, "{}", rows.0);
    if let Some(way) = flow.reverse.as_ref().filter(|way| way.loss.sent > 0) {
        let mut rows = Rows(Table::new(["back", "", "sent", "loss", "95 % interval", "p50", "p95", ""]));
        way.hops.iter().for_each(|hop| rows.hop(hop));
        let name = way.distance.map_or_else(|| "end".into(), |distance| distance.to_string());
        rows.row(name, flow.source.ip().to_string(), way.loss, None, "this host".into());
        let _ = write!(text, "{}", rows.0);
        changes(&mut text, &way.changes, "the way back's");
    }
    changes(&mut text, &flow.changes, "the path's");
    if !flow.changes.is_empty() && end.loss.sent < u64::from(report.rounds) {
        let _ = writeln!(
            text,
            "  counts are of the longest stretch without a change: {} of {} rounds",
            end.loss.sent, report.rounds
        );
    }
    for refusal in &flow.refusals {
        let _ = writeln!(text, "  {}", answered(refusal, report.size));
    }
    if flow.too_long > 0 {
        let _ = writeln!(
            text,
            "  {} packets of {} octets of payload were not sent: longer than this host's own link takes",
            flow.too_long, report.size
        );
    }
    if flow.unmatched > 0 {
        let _ =
            writeln!(text, "  {} answers quoted too little to be told apart: run it with CAP_NET_RAW", flow.unmatched);
    }
    text
}

/// Changes of a path, the first of them one by one.
fn changes(text: &mut String, changes: &[PathChange], whose: &str) {
    for change in changes.iter().take(8) {
        let address =
            |address: Option<std::net::IpAddr>| address.map_or_else(|| "?".into(), |address| address.to_string());
        let what = match change.hop {
            Some(hop) => format!("{whose} hop {hop}: {} gave way to {}", address(change.before), address(change.after)),
            None => format!("{whose} length changed"),
        };
        let _ = writeln!(text, "  after {}: {what}", span(change.at_ns));
    }
    if changes.len() > 8 {
        let _ = writeln!(text, "  and {} more changes", changes.len() - 8);
    }
}

/// Rows of a table of hops.
struct Rows(Table);

impl Rows {
    fn hop(&mut self, hop: &Hop) {
        let addresses: Vec<String> = hop.addresses.iter().take(3).map(ToString::to_string).collect();
        let who = if addresses.is_empty() { "no answer".into() } else { addresses.join(" ") };
        let mut notes: Vec<String> = hop.network.iter().map(named).collect();
        notes.extend(hop.seldom.then(|| "answers seldom, loses nothing by that".to_owned()));
        self.row(hop.hop.to_string(), who, hop.loss, hop.rtt, notes.join("; "));
    }

    fn row(&mut self, name: String, who: String, loss: Share, rtt: Option<Rtt>, note: String) {
        let times =
            [rtt.map(|rtt| rtt.median_ns), rtt.map(|rtt| rtt.p95_ns)].map(|time| time.map_or_else(|| "–".into(), span));
        let [p50, p95] = times;
        let lost = loss.share.map_or_else(|| "–".into(), percent);
        let range = format!("{} to {}", percent(loss.low), percent(loss.high));
        self.0.row([name, who, loss.sent.to_string(), lost, range, p50, p95, note]);
    }
}

/// `AS64500 Transit A`.
fn named(network: &HopNetwork) -> String {
    let number = format!("AS{}", network.asn);
    if network.name == number { number } else { format!("{number} {}", printable(&network.name)) }
}

/// A name out of a user's file, without what a terminal would obey.
fn printable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(60).collect()
}
