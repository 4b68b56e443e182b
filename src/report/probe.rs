//! What a probe found: round trips, IPDV, loss by group, and where the time went.

use std::fmt::Write;

use pathlab_record::Stage;
use pathlab_reflector::prober::{
    ClassesSeen, Counts, Difference, DirectCounts, OneWayQuantiles, Pace, PacingReport, ProbeReport, Quantiles, Row,
    Segment, Services, SessionRow, Split,
};

use super::{Table, hw_coverage, percent, span};

/// The whole report.
pub(crate) fn text(report: &ProbeReport) -> String {
    let mut text = String::new();
    let total = &report.total;
    let _ = writeln!(
        text,
        "{} every {}: sent {}, received {}, lost {} ({}){}, late {}, duplicates {}, reordered {}",
        match total.sessions {
            1 => "1 session".to_owned(),
            sessions => format!("{sessions} sessions"),
        },
        span(report.interval_ns),
        total.counts.sent,
        total.counts.received,
        total.counts.lost(),
        percent(total.loss),
        legs(&total.counts),
        total.counts.late,
        total.counts.duplicates,
        total.counts.reordered,
    );
    let _ = writeln!(text, "round trip is {}, both stamps of this host\n", report.rtt_between);
    let _ = write!(text, "{}", round_trips(report));
    let _ = writeln!(text, "\nwhere the time goes (quantiles of each stage; they do not add up)");
    let _ = write!(text, "{}", stages(total));
    text.push_str(&one_way(report));
    text.push_str(&pairs(report));
    text.push_str(&flows(report));
    let schedule = &total.schedule;
    if let Some(late) = &schedule.lateness {
        let _ = writeln!(
            text,
            "\nschedule: {} within 50 µs of their slot, late by p50 {}, p90 {}, p99 {}, p99.9 {}, most {}; skipped {}, refused by the host {}",
            percent(schedule.within_50us as f64 / schedule.sent.max(1) as f64),
            span(late.p50),
            span(late.p90),
            span(late.p99),
            span(late.p999),
            span(late.max),
            schedule.skipped,
            schedule.refused,
        );
        let _ = writeln!(text, "paced by {}", pacing(&report.pacing));
    }
    for (point, coverage) in &report.hw_coverage {
        let _ = writeln!(text, "{}", hw_coverage(point, coverage));
    }
    text.push_str(&spoilt(report));
    let strays = &report.strays;
    if strays.bad_hmac + strays.bad_extensions > 0 {
        let _ = writeln!(
            text,
            "not authentic: {} datagrams by their HMAC, {} replies by that of their TLVs, which were not used",
            strays.bad_hmac, strays.bad_extensions,
        );
    }
    text.push_str(&services(&report.services));
    for silent in &report.silent {
        let _ = writeln!(text, "no reply from {} ({} sessions): {}", silent.target, silent.sessions, silent.why);
    }
    if report.interrupted {
        let _ = writeln!(text, "ended by request before its time");
    }
    text
}

/// What the clocks took away; nothing where they ran evenly.
fn spoilt(report: &ProbeReport) -> String {
    let (counts, steps) = (&report.total.counts, report.steps);
    let mut text = String::new();
    if steps.system > 0 {
        let _ = writeln!(
            text,
            "this host's clock was set {} times: {} packets were away then and have no round trip",
            steps.system, counts.clock_steps,
        );
    }
    if let Some(card) = steps.card
        && card + counts.nic_void + counts.nic_unconfirmed > 0
    {
        let _ = writeln!(
            text,
            "the card's clock and this host's stepped {card} times: the card's stamps of {} packets were void, those of {} not confirmed in time",
            counts.nic_void, counts.nic_unconfirmed,
        );
    }
    if counts.reflector_nic_void > 0 {
        let _ = writeln!(
            text,
            "the reflector's clocks stepped: the stamps of its card are left out for {} packets",
            counts.reflector_nic_void,
        );
    }
    if counts.reflector_nic_unconfirmed > 0 {
        let _ = writeln!(
            text,
            "no later reply confirmed the stamps of the reflector's card for {} packets: left out",
            counts.reflector_nic_unconfirmed,
        );
    }
    text
}

/// On which leg, as far as a stateful reflector's numbers tell.
fn legs(counts: &Counts) -> String {
    let (forward, back) = (counts.lost_forward + counts.unknown_forward, counts.lost_return + counts.unknown_return);
    match (forward, back, counts.lost() - forward - back) {
        (0, 0, _) => String::new(),
        (_, _, 0) => format!(", of these {forward} forward, {back} on return"),
        (_, _, open) => format!(", of these {forward} forward, {back} on return, {open} nobody knows where"),
    }
}

/// What was asked for with `--tlv cos,direct`, one line each.
fn services(services: &Services) -> String {
    let mut text = String::new();
    if let Some(counts) = &services.class_of_service {
        let way = |seen: &ClassesSeen| {
            let packets: u64 = seen.dscp.values().sum();
            let classes: Vec<_> = seen.dscp.iter().map(|(dscp, count)| format!("{dscp} ({count})")).collect();
            let congestion =
                if seen.congestion > 0 { format!(", {} with ECN 3", seen.congestion) } else { String::new() };
            format!("DSCP {}, rewritten {} of {packets}{congestion}", classes.join(", "), seen.rewritten)
        };
        let _ = write!(text, "class of service: forward {}; return {}", way(&counts.forward), way(&counts.back));
        if counts.refused > 0 {
            let _ = write!(
                text,
                "; {} of {} replies were not given the DSCP asked for (--allow-dscp)",
                counts.refused, counts.answered
            );
        }
        text.push('\n');
    }
    if let Some(DirectCounts { sent, reflector_received, reflector_sent, received, .. }) = services.direct {
        let _ = writeln!(
            text,
            "counted at both ends, from each session's first answer to its newest: forward {reflector_received} of {sent}, return {received} of {reflector_sent}",
        );
    }
    text
}

fn pacing(pacing: &PacingReport) -> String {
    let mut text = match pacing.pace {
        Pace::Auto => format!("sleep, then {} of looking at the clock", span(pacing.spin_ns)),
        Pace::Sleep => "sleep alone".to_owned(),
        Pace::Spin => "looking at the clock alone".to_owned(),
    };
    if let Some(late) = &pacing.overslept {
        let _ = write!(text, " (sleeps ended late by p50 {}, p99.9 {})", span(late.p50), span(late.p999));
    }
    let _ = write!(text, ", {}", pacing.scheduler);
    if let Some(why) = &pacing.scheduler_why {
        let _ = write!(text, " (not real time: {why})");
    }
    if let Some(cpu) = pacing.cpu {
        let _ = write!(text, ", on CPU {cpu}");
    }
    if pacing.memory_locked {
        text.push_str(", memory locked");
    }
    text
}

fn round_trips(report: &ProbeReport) -> Table {
    let mut table =
        Table::new(["", "sessions", "p50", "p95", "p99", "p99.9", "loss", "IPDV p95 forward", "return", "round trip"]);
    for group in report.groups.iter().filter(|_| report.groups.len() > 1) {
        let label = |name: &str| {
            group.labels.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let family = label("family").map(|family| format!("IPv{family}"));
        let name: Vec<String> = label("isp").into_iter().chain(family).collect();
        row(&mut table, &name.join(" "), &group.row);
    }
    row(&mut table, "all", &report.total);
    table
}

/// What differs within pairs.
fn pairs(report: &ProbeReport) -> String {
    let mut text = String::new();
    if report.pairs.is_empty() {
        return text;
    }
    let _ = writeln!(text, "\ndifferences within one slot, medians with their intervals at 95 %");
    let mut table = Table::new(["", "slots", "round trip", "forward", "return"]);
    for row in &report.pairs {
        let cell = |of: &Option<Difference>| of.as_ref().map_or_else(|| "–".to_owned(), difference);
        table.row([row.by.clone(), row.pairs.to_string(), cell(&row.rtt), cell(&row.forward), cell(&row.back)]);
    }
    let _ = write!(text, "{table}");
    if report.pairs.iter().flat_map(|row| [&row.rtt, &row.forward, &row.back]).flatten().any(|of| of.low.is_none()) {
        let _ = writeln!(text, "no interval where the run was too short for one: six seconds at least");
    }
    text
}

/// `+1.20 ms (+1.10 ms to +1.31 ms)`; without the interval where there is none.
fn difference(of: &Difference) -> String {
    let signed = |value: f64| {
        let sign = if value < 0.0 { "-" } else { "+" };
        format!("{sign}{}", span(value.abs().round() as u64))
    };
    match (of.low, of.high) {
        (Some(low), Some(high)) => format!("{} ({} to {})", signed(of.median), signed(low), signed(high)),
        _ => signed(of.median),
    }
}

/// Flows that the screen has room for.
const FLOWS: usize = 16;

/// One row a source port, the slowest first: what routers that choose paths by ports make of them.
fn flows(report: &ProbeReport) -> String {
    let mut text = String::new();
    let port = |row: &SessionRow| row.source.map(|source| source.port());
    let mut ports: Vec<_> = report.sessions.iter().map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    let (mut rows, one_target) = (
        report.sessions.iter().collect::<Vec<_>>(),
        report.sessions.windows(2).all(|two| two[0].target == two[1].target),
    );
    if ports.len() < 2 || !one_target || !report.pairs.is_empty() {
        return text;
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.rtt.map(|rtt| rtt.p95)));
    let _ = writeln!(text, "\nflows, the slowest first");
    let mut table = Table::new(["source", "min", "p50", "p95", "p99", "loss"]);
    for row in rows.iter().take(FLOWS) {
        let quantile = |pick: fn(&Quantiles) -> u64| row.rtt.as_ref().map_or_else(|| "–".to_owned(), |q| span(pick(q)));
        let lost = (row.counts.lost() + row.counts.late) as f64 / row.counts.sent.max(1) as f64;
        let source = row.source.map_or_else(|| row.session.clone(), |source| source.to_string());
        let cells = [quantile(|q| q.min), quantile(|q| q.p50), quantile(|q| q.p95), quantile(|q| q.p99), percent(lost)];
        table.row(std::iter::once(source).chain(cells));
    }
    let _ = write!(text, "{table}");
    if rows.len() > FLOWS {
        let _ = writeln!(text, "and {} faster ones, see probe.json", rows.len() - FLOWS);
    }
    if let Some(hint) = ecmp(&rows) {
        let _ = writeln!(text, "{hint}");
    }
    text
}

/// Says when flows differ by more than each varies in itself: they hardly took one path.
fn ecmp(rows: &[&SessionRow]) -> Option<String> {
    let known: Vec<Quantiles> = rows.iter().filter_map(|row| row.rtt).collect();
    let (fast, slow) = (known.iter().map(|rtt| rtt.p50).min()?, known.iter().map(|rtt| rtt.p50).max()?);
    let mut within: Vec<u64> = known.iter().map(|rtt| rtt.p50 - rtt.min).collect();
    within.sort_unstable();
    let apart = slow - fast;
    (apart > 3 * within[within.len() / 2]).then(|| {
        format!("medians lie {} apart, more than each flow varies: routers on the way seem to choose between paths by the port", span(apart))
    })
}

/// Targets that the screen has room for; `--json` has them all.
const SHOWN: usize = 8;

/// Delays one way, and what is known of the clocks.
fn one_way(report: &ProbeReport) -> String {
    let mut text = String::new();
    let Some(_) = report.one_way.first() else { return text };
    let _ = writeln!(
        text,
        "\none way, the clocks' rate removed and their offset within what it can be; the truth lies in each range"
    );
    let mut table = Table::new(["", "forward p50", "p95", "return p50", "p95", "reflector's clock"]);
    for row in report.one_way.iter().take(SHOWN) {
        let range = |quantiles: &OneWayQuantiles, pick: fn(&Quantiles) -> u64| {
            format!("{} to {}", span(pick(&quantiles.at_least)), span(pick(&quantiles.at_most)))
        };
        let (forward, back) = (&row.forward, &row.back);
        table.row([
            row.target.to_string(),
            range(forward, |q| q.p50),
            range(forward, |q| q.p95),
            range(back, |q| q.p50),
            range(back, |q| q.p95),
            row.segments.last().map_or_else(|| "–".to_owned(), clock),
        ]);
    }
    let _ = write!(text, "{table}");
    if report.one_way.len() > SHOWN {
        let _ = writeln!(text, "and {} more, see probe.json", report.one_way.len() - SHOWN);
    }
    let void: u64 = report.one_way.iter().map(|row| row.void).sum();
    if void > 0 {
        let _ = writeln!(text, "{void} round trips near a step of a clock have no one-way delay");
    }
    text
}

/// `12.3 ms ahead ± 15.0 µs, 0.4 ppm fast`.
fn clock(segment: &Segment) -> String {
    let width = segment.offset_most.saturating_sub(segment.offset_least) / 2;
    let middle = segment.offset_least.saturating_add(width);
    let side = if middle < 0 { "behind" } else { "ahead" };
    let mut text = format!("{} {side} ± {}", span(middle.unsigned_abs()), span(width.unsigned_abs()));
    if let Some(rate) = segment.rate_ppb {
        let side = if rate < 0 { "slow" } else { "fast" };
        let _ = write!(text, ", {:.1} ppm {side}", rate.unsigned_abs() as f64 / 1e3);
    }
    if segment.synchronised {
        text.push_str(", synchronised");
    }
    text
}

/// Packets that must lie beyond a percentile before it is told apart from the largest: the rule of the report's page.
const BEYOND: f64 = 5.0;

/// A far percentile, or a dash where too few packets lie beyond it.
fn far(quantiles: &Quantiles, level: f64) -> String {
    let value = if level > 0.99 { quantiles.p999 } else { quantiles.p99 };
    // As whole packets: 1 - 0.999 is a little more than a thousandth.
    if (quantiles.count as f64 * (1.0 - level)).round() >= BEYOND { span(value) } else { "–".to_owned() }
}

fn row(table: &mut Table, name: &str, row: &Row) {
    let quantile =
        |of: &Option<Quantiles>, pick: fn(&Quantiles) -> u64| of.as_ref().map_or("–".into(), |q| span(pick(q)));
    let p95 = |of: &Option<Quantiles>| quantile(of, |q| q.p95);
    table.row([
        name.to_owned(),
        row.sessions.to_string(),
        quantile(&row.rtt, |q| q.p50),
        p95(&row.rtt),
        row.rtt.as_ref().map_or("–".into(), |q| far(q, 0.99)),
        row.rtt.as_ref().map_or("–".into(), |q| far(q, 0.999)),
        percent(row.loss),
        p95(&row.ipdv_forward),
        p95(&row.ipdv_return),
        p95(&row.ipdv_round_trip),
    ]);
}

fn stages(row: &Row) -> Table {
    let mut table = Table::new(["", "p50", "p95", "p99", "p99.9"]);
    let split = &row.split;
    for (name, quantiles) in [
        ("probe host", &split.probe_host),
        ("wire", &split.wire),
        ("reflector host", &split.reflector_host),
        ("slot to application", &split.total),
    ] {
        match quantiles {
            Some(q) => table.row([name.to_owned(), span(q.p50), span(q.p95), far(q, 0.99), far(q, 0.999)]),
            None => table.row([name, "–", "–", "–", "–"]),
        }
        if name == "reflector host" {
            for (name, q) in inner(split) {
                table.row([format!("  {name}"), span(q.p50), span(q.p95), far(q, 0.99), far(q, 0.999)]);
            }
        }
    }
    table
}

/// The stages of the reflector's host in the order in which a packet passes them, in words.
fn inner(split: &Split) -> Vec<(String, &Quantiles)> {
    let words = |stage: Stage| match stage {
        Stage::RxNic => "card to XDP",
        Stage::RxXdp => "XDP to stack",
        Stage::RxKernel => "stack to reflector",
        Stage::App => "reflector",
        Stage::TxKernel => "reflector to driver",
        Stage::TxNic => "driver to wire",
    };
    let stages = |name: &str| name.split('+').filter_map(|stage| stage.parse().ok()).collect::<Vec<Stage>>();
    let mut parts: Vec<_> = split.inner.iter().map(|(name, quantiles)| (stages(name), quantiles)).collect();
    parts.sort_by(|one, other| one.0.cmp(&other.0));
    let named = |(stages, quantiles): (Vec<Stage>, _)| {
        (stages.into_iter().map(words).collect::<Vec<_>>().join(" + "), quantiles)
    };
    parts.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_with_nothing_beyond_it_is_not_told() {
        let of = |count| Quantiles { count, min: 1, p50: 2, p90: 3, p95: 4, p99: 5, p999: 6, max: 6 };
        for (count, p99, p999) in [(400, "–", "–"), (500, "5 ns", "–"), (4_000, "5 ns", "–"), (5_000, "5 ns", "6 ns")]
        {
            assert_eq!((far(&of(count), 0.99).as_str(), far(&of(count), 0.999).as_str()), (p99, p999), "{count}");
        }
    }
}
