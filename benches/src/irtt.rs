//! What irtt's client says of a run, read from its JSON.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::figures::quantile;

/// What the benches need of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Round-trip times in microseconds, median: send to receive, as its user space saw it.
    pub rtt_p50: f64,
    /// 99th percentile.
    pub rtt_p99: f64,
    /// Share of the slots that it says it did not send, 0 to 1.
    pub slots_missed: f64,
}

#[derive(Deserialize)]
struct Document {
    stats: Stats,
    round_trips: Vec<RoundTrip>,
}

#[derive(Deserialize)]
struct Stats {
    timer_miss_percent: f64,
}

#[derive(Deserialize)]
struct RoundTrip {
    delay: Option<Delay>,
}

#[derive(Deserialize)]
struct Delay {
    rtt: Option<i64>,
}

/// The flags of its header, after three octets of magic: neither an opening nor a closing packet.
pub fn is_test_packet(head: [u8; 4]) -> bool {
    const MAGIC: [u8; 3] = [0x14, 0xa7, 0x5b];
    const OPEN_OR_CLOSE: u8 = 0b101;
    head[..3] == MAGIC && head[3] & OPEN_OR_CLOSE == 0
}

/// Of the output of `irtt client -o -`.
///
/// # Errors
/// Another format, or no reply at all.
pub fn run(json: &str) -> Result<Run> {
    let document: Document = serde_json::from_str(json).context("irtt's JSON")?;
    let rtt = |trip: &RoundTrip| trip.delay.as_ref()?.rtt.map(|rtt| rtt as f64 / 1e3);
    let rtts: Vec<f64> = document.round_trips.iter().filter_map(rtt).collect();
    Ok(Run {
        rtt_p50: quantile(&rtts, 0.5).context("irtt got no reply")?,
        rtt_p99: quantile(&rtts, 0.99).context("irtt got no reply")?,
        slots_missed: document.stats.timer_miss_percent / 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{
        "version": {"irtt": "0.9.0", "json_format": 1},
        "stats": {"packets_sent": 3, "timer_misses": 1, "timer_miss_percent": 25.0},
        "round_trips": [
            {"seqno": 0, "lost": "false", "delay": {"receive": 70015, "rtt": 58067, "send": 5079323}, "ipdv": {}},
            {"seqno": 1, "lost": "false", "delay": {"rtt": 20000}},
            {"seqno": 2, "lost": "true", "delay": {}}
        ]
    }"#;

    #[test]
    fn a_document_of_irtt_0_9() {
        let run = run(DOCUMENT).expect("complete");
        assert_eq!(run, Run { rtt_p50: 20.0, rtt_p99: 58.067, slots_missed: 0.25 });
    }

    #[test]
    fn no_replies_and_other_documents_are_refused() {
        assert!(run(&DOCUMENT.replace("\"rtt\"", "\"other\"")).is_err());
        assert!(run("{}").is_err());
    }

    #[test]
    fn openings_and_closings_are_no_test_packets() {
        assert!(is_test_packet([0x14, 0xa7, 0x5b, 0]));
        assert!(!is_test_packet([0x14, 0xa7, 0x5b, 1]));
        assert!(!is_test_packet([0x14, 0xa7, 0x5b, 4]));
        assert!(!is_test_packet([0, 0, 0, 0]));
    }
}
