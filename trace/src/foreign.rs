//! What other tools have seen of a path: the JSON of mtr, iperf3 and RIPE Atlas as evidence that says what it is, and what it is not.
//!
//! None of it becomes a verdict. A traceroute whose ports varied has drawn no path of any session: where several routers answered at one hop, each
//! may have been another path's. Total: any JSON gives a document or says what is missing.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use crate::Share;

/// One file of another tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Foreign {
    /// `mtr`, `iperf3` or `atlas`.
    pub tool: &'static str,
    /// What must be known of it.
    pub remarks: Vec<&'static str>,
    /// What it measured, one entry a path or stream.
    pub paths: Vec<Path>,
}

/// A path or stream as the tool told it. What it does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Path {
    /// From where: an address, or the probe of RIPE Atlas.
    pub source: Option<String>,
    /// Where to.
    pub target: Option<String>,
    /// Seconds since 1970.
    pub at: Option<i64>,
    /// Whether all packets had one 5-tuple.
    pub one_flow: Option<bool>,
    /// Seconds since the probe's clock was synchronised (`lts`); absent where unknown.
    pub clock_sync_age_s: Option<u64>,
    /// Hops in order; none of an end-to-end test.
    pub hops: Vec<ForeignHop>,
    /// At the destination.
    pub end: Option<Share>,
}

/// A hop as the tool told it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForeignHop {
    /// From 1.
    pub hop: u64,
    /// Who answered; several of them may belong to several paths.
    pub addresses: Vec<String>,
    /// Packets and losses.
    pub loss: Share,
    /// Mean round trip in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// Why a document is none of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither mtr's JSON (report.hubs), nor iperf3's (end.sum), nor RIPE Atlas' (a list of ping or traceroute results): {0}"
)]
pub struct Unknown(pub &'static str);

const MTR: &[&str] = &[
    "mtr does not tell its ports: unless both were fixed (-u -L PORT -P PORT) they varied, and this is not one path",
    "mtr names one host a hop where several answered; loss at a hop that is not at the destination is the router's choice to answer seldom",
];
const IPERF3: &[&str] = &[
    "one 5-tuple a stream, end to end: it names no hop",
    "its jitter is RFC 3550's smoothed estimate, not IPDV, and is left out",
];
const ATLAS: &[&str] = &[
    "ports are held within one result where paris_id is not 0, and differ from result to result: not one path over time",
    "three packets a hop say little about loss",
];

impl Foreign {
    /// Reads a document of any of the three.
    ///
    /// # Errors
    /// [`Unknown`]: it is something else.
    pub fn read(document: &Value) -> Result<Self, Unknown> {
        if let Some(hubs) = document.pointer("/report/hubs").and_then(Value::as_array) {
            let about = &document["report"]["mtr"];
            let hops: Vec<_> = hubs.iter().filter_map(mtr_hop).collect();
            let end = hops.last().map(|hop: &ForeignHop| hop.loss);
            let path = Path { source: text(&about["src"]), target: text(&about["dst"]), hops, end, ..Path::default() };
            return Ok(Self { tool: "mtr", remarks: MTR.to_vec(), paths: vec![path] });
        }
        if document.get("end").is_some() && document.get("start").is_some() {
            return iperf3(document);
        }
        if let Some(results) = document.as_array() {
            let paths: Vec<_> = results.iter().filter_map(atlas).collect();
            if paths.is_empty() {
                return Err(Unknown("the list has no result of a ping or traceroute"));
            }
            return Ok(Self { tool: "atlas", remarks: ATLAS.to_vec(), paths });
        }
        Err(Unknown("it has none of their fields"))
    }
}

fn mtr_hop(hub: &Value) -> Option<ForeignHop> {
    let sent = hub["Snt"].as_u64()?;
    let percent = hub["Loss%"].as_f64().filter(|percent| (0.0..=100.0).contains(percent))?;
    let host = text(&hub["host"]).filter(|host| host != "???");
    let hop = hub["count"].as_u64().or_else(|| hub["count"].as_str()?.parse().ok())?;
    let lost = (sent as f64 * percent / 100.0).round() as u64;
    let rtt_ms = hub["Avg"].as_f64().filter(|_| lost < sent);
    Some(ForeignHop { hop, addresses: host.into_iter().collect(), loss: Share::of(sent, lost), rtt_ms })
}

fn iperf3(document: &Value) -> Result<Foreign, Unknown> {
    let sum = &document["end"]["sum"];
    let (Some(packets), Some(lost)) = (sum["packets"].as_u64(), sum["lost_packets"].as_u64()) else {
        return Err(Unknown("end.sum has no packets and lost_packets: only UDP tests of iperf3 tell losses"));
    };
    let connected = document.pointer("/start/connected").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let end = |stream: &Value, host: &str, port: &str| {
        Some(format!("{} port {}", text(&stream[host])?, stream[port].as_u64()?))
    };
    let first = connected.first();
    let path = Path {
        source: first.and_then(|stream| end(stream, "local_host", "local_port")),
        target: first.and_then(|stream| end(stream, "remote_host", "remote_port")),
        at: document.pointer("/start/timestamp/timesecs").and_then(Value::as_i64),
        one_flow: Some(connected.len() == 1),
        end: Some(Share::of(packets, lost.min(packets))),
        ..Path::default()
    };
    Ok(Foreign { tool: "iperf3", remarks: IPERF3.to_vec(), paths: vec![path] })
}

fn atlas(result: &Value) -> Option<Path> {
    let path = Path {
        source: result["prb_id"].as_u64().map(|probe| format!("probe {probe}")),
        target: text(&result["dst_addr"]).or_else(|| text(&result["dst_name"])),
        at: result["timestamp"].as_i64(),
        clock_sync_age_s: result["lts"].as_u64(),
        ..Path::default()
    };
    match result["type"].as_str()? {
        "ping" => {
            let (sent, received) = (result["sent"].as_u64()?, result["rcvd"].as_u64()?);
            // ICMP has no ports.
            Some(Path { end: Some(Share::of(sent, sent.saturating_sub(received))), ..path })
        }
        "traceroute" => {
            let hops: Vec<_> = result["result"].as_array()?.iter().filter_map(atlas_hop).collect();
            let target = result["dst_addr"].as_str();
            let last = hops.last().filter(|hop| hop.addresses.iter().any(|address| Some(address.as_str()) == target));
            let end = last.map(|hop| hop.loss);
            let one_flow = result["paris_id"].as_u64().map(|paris| paris != 0);
            Some(Path { one_flow, hops, end, ..path })
        }
        _ => None,
    }
}

fn atlas_hop(hop: &Value) -> Option<ForeignHop> {
    let replies = hop["result"].as_array()?;
    let mut addresses: Vec<String> = Vec::new();
    let mut times = Vec::new();
    for reply in replies {
        let Some(from) = reply["from"].as_str().filter(|from| from.parse::<IpAddr>().is_ok()) else { continue };
        if !addresses.iter().any(|address| address == from) {
            addresses.push(from.to_owned());
        }
        times.extend(reply["rtt"].as_f64());
    }
    let (sent, answered) = (replies.len() as u64, times.len() as u64);
    let rtt_ms = (answered > 0).then(|| times.iter().sum::<f64>() / answered as f64);
    Some(ForeignHop { hop: hop["hop"].as_u64()?, addresses, loss: Share::of(sent, sent - answered), rtt_ms })
}

/// A string without what a terminal would obey, and not longer than a name may be.
fn text(value: &Value) -> Option<String> {
    value.as_str().map(|text| text.chars().filter(|character| !character.is_control()).take(255).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn mtr_is_told_to_be_no_path_and_its_counts_are_kept() {
        let document = json!({ "report": { "mtr": { "src": "a", "dst": "203.0.113.10", "tests": 200 }, "hubs": [
            { "count": 1, "host": "192.0.2.1", "Loss%": 89.0, "Snt": 200, "Avg": 0.4 },
            { "count": "2", "host": "???", "Loss%": 100.0, "Snt": 200, "Avg": 0.0 },
            { "count": 3, "host": "203.0.113.10", "Loss%": 12.0, "Snt": 200, "Avg": 0.9 },
        ] } });
        let read = Foreign::read(&document).unwrap();
        let [path] = &read.paths[..] else { panic!("{read:?}") };
        assert!(read.tool == "mtr" && path.one_flow.is_none() && read.remarks[0].contains("not one path"));
        assert_eq!(path.hops.iter().map(|hop| hop.loss.lost).collect::<Vec<_>>(), [178, 200, 24]);
        assert_eq!(path.end.map(|end| (end.sent, end.lost)), Some((200, 24)));
        assert!(path.hops[1].addresses.is_empty() && path.hops[1].rtt_ms.is_none());
    }

    #[test]
    fn iperf3_is_one_flow_a_stream_and_tcp_tells_no_loss() {
        let mut document = json!({
            "start": { "connected": [{ "local_host": "192.0.2.7", "local_port": 40000, "remote_host": "203.0.113.10", "remote_port": 5201 }],
                "timestamp": { "timesecs": 1_800_000_000 } },
            "end": { "sum": { "packets": 1000, "lost_packets": 31, "jitter_ms": 0.2 } },
        });
        let read = Foreign::read(&document).unwrap();
        let path = &read.paths[0];
        assert_eq!((path.source.as_deref(), path.one_flow), (Some("192.0.2.7 port 40000"), Some(true)));
        assert_eq!(path.end.and_then(|end| end.share), Some(0.031));
        document["end"] = json!({ "sum_sent": { "retransmits": 3 } });
        assert!(Foreign::read(&document).unwrap_err().to_string().contains("only UDP"));
    }

    #[test]
    fn atlas_tells_whether_ports_were_held_and_how_old_its_clock_is() {
        let hop = |number: u64, result: Value| json!({ "hop": number, "result": result });
        let trace = json!({ "type": "traceroute", "prb_id": 7, "dst_addr": "203.0.113.10", "timestamp": 1_800_000_000, "lts": 21, "paris_id": 0,
            "result": [hop(1, json!([{ "from": "192.0.2.1", "rtt": 1.0 }, { "from": "192.0.2.9", "rtt": 2.0 }, { "x": "*" }])),
                hop(2, json!([{ "from": "203.0.113.10", "rtt": 3.0 }, { "from": "203.0.113.10", "rtt": 5.0 }]))] });
        let ping = json!({ "type": "ping", "prb_id": 8, "dst_addr": "203.0.113.10", "sent": 3, "rcvd": 2, "lts": -1 });
        let read = Foreign::read(&json!([trace, ping, { "type": "dns" }])).unwrap();
        let [trace, ping] = &read.paths[..] else { panic!("{read:?}") };
        assert_eq!((trace.one_flow, trace.clock_sync_age_s), (Some(false), Some(21)));
        assert_eq!(
            (trace.hops[0].addresses.len(), trace.hops[0].loss.lost, trace.end.map(|end| end.lost)),
            (2, 1, Some(0))
        );
        assert_eq!((ping.end.map(|end| end.lost), ping.clock_sync_age_s, ping.one_flow), (Some(1), None, None));
    }

    proptest! {
        #[test]
        fn any_json_is_read_or_refused(text in "\\PC{0,200}", hubs in proptest::collection::vec((any::<u64>(), -10.0..200.0_f64), 0..4)) {
            let hubs: Vec<_> = hubs.iter().map(|(sent, loss)| json!({ "Snt": sent, "Loss%": loss, "count": sent, "host": text })).collect();
            let _ = Foreign::read(&json!({ "report": { "hubs": hubs } }));
            let _ = Foreign::read(&json!([{ "type": "traceroute", "result": [{ "hop": 1, "result": hubs }] }]));
            let _ = Foreign::read(&json!({ "start": text, "end": { "sum": { "packets": 1, "lost_packets": u64::MAX } } }));
            let _ = serde_json::from_str(&text).map(|value: Value| Foreign::read(&value));
        }
    }
}
