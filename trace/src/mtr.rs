//! The shape of `mtr --json`, for tools that expect it: one document has one path, so it is one flow.

use serde_json::{Value, json};

use crate::{FlowReport, Report, Rtt, Share};

/// One flow as mtr 0.95 would write it; milliseconds and percent.
pub fn document(report: &Report, flow: &FlowReport) -> Value {
    let hops = flow.hops.iter().map(|hop| {
        let host = hop.addresses.first().map_or_else(|| "???".to_owned(), ToString::to_string);
        hub(hop.hop, host, hop.loss, hop.rtt)
    });
    let last = flow.hops.len() as u8 + 1;
    let end = hub(last, report.target.ip().to_string(), flow.destination.loss, flow.destination.rtt);
    json!({ "report": {
        "mtr": {
            "src": flow.source.ip(), "dst": report.target.ip(), "tos": 0, "tests": report.rounds,
            "psize": report.size.to_string(), "bitpattern": "0x00",
        },
        "hubs": hops.chain([end]).collect::<Vec<_>>(),
    } })
}

fn hub(count: u8, host: String, loss: Share, rtt: Option<Rtt>) -> Value {
    let ms = |pick: fn(Rtt) -> u64| rtt.map_or(0.0, |rtt| pick(rtt) as f64 / 1e6);
    json!({
        "count": count, "host": host, "Loss%": loss.share.unwrap_or(0.0) * 100.0, "Snt": loss.sent,
        "Last": ms(|rtt| rtt.last_ns), "Avg": ms(|rtt| rtt.mean_ns), "Best": ms(|rtt| rtt.min_ns),
        "Wrst": ms(|rtt| rtt.max_ns), "StDev": ms(|rtt| rtt.deviation_ns),
    })
}
