//! A real Prometheus, started here on loopback and fed by remote write, asked for the histograms that a fleet has.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use jiff::SignedDuration;
use pathlab_canary::{
    Ingest, judge,
    prometheus::{Query, fetch},
};
use pathlab_guard::privilege;
use pathlab_record::Arm;

use crate::{
    formats::{Packet, assert_pooled, opens, packets},
    simulator::{bucket, plan},
};

/// Upper limits of the classic histogram, in seconds.
const LIMITS: [f64; 12] = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25];
/// Native buckets grow by 2^(1/8): 9 %.
const SCHEMA: i32 = 3;
/// Edges of ten-minute bins from the evening's start: enough for the packets of an hour and the last of them.
const EDGES: i64 = 8;

/// Ends with the test.
struct Server {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it and waits for it to say that it is ready; none where it is not installed.
fn start(test: &str) -> Option<Server> {
    if Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        assert!(
            !privilege::required("peers"),
            "{test}: needs prometheus, and PATHLAB_REQUIRE=peers forbids to skip it"
        );
        privilege::skip(test, "needs prometheus (apt-get install prometheus)");
        return None;
    }
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("prometheus.yml"), "global: {}\n").unwrap();
    // Free a moment ago; nobody else takes ports on this loopback address.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let at = |name: &str| data.path().join(name).display().to_string();
    let mut child = Command::new("prometheus")
        .arg(format!("--config.file={}", at("prometheus.yml")))
        .arg(format!("--storage.tsdb.path={}", at("tsdb")))
        .arg("--storage.tsdb.retention.time=100y")
        .arg(format!("--web.listen-address={address}"))
        .args(["--web.enable-remote-write-receiver", "--enable-feature=native-histograms"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let ready = lines.by_ref().find(|line| line.contains("Server is ready to receive web requests"));
    let server = Server { child, address, _data: data };
    assert!(ready.is_some(), "prometheus did not start");
    // It must not block on a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Some(server)
}

/// Protocol buffers, as much as a WriteRequest takes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn zigzag(&mut self, field: u64, value: i64) {
        self.number(field, (value << 1 ^ value >> 63) as u64);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
}

fn series(labels: &[(&str, &str)], fill: impl FnOnce(&mut Message)) -> Message {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    let mut series = Message::default();
    for (name, value) in labels {
        let mut label = Message::default();
        label.bytes(1, name.as_bytes());
        label.bytes(2, value.as_bytes());
        series.bytes(1, &label.0);
    }
    fill(&mut series);
    series
}

/// Snappy's block format with literals alone.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut out = Message::default();
    out.varint(bytes.len() as u64);
    for chunk in bytes.chunks(1 << 16) {
        out.0.push(61 << 2);
        out.0.extend_from_slice(&((chunk.len() - 1) as u16).to_le_bytes());
        out.0.extend_from_slice(chunk);
    }
    out.0
}

fn write(address: &str, request: &Message) {
    let body = snappy(&request.0);
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

/// What has been counted of an arm by an edge: round trips in seconds.
fn counted(packets: &[Packet], arm: Arm, edge: i64) -> Vec<f64> {
    let before = packets.iter().filter(|packet| packet.arm == arm && packet.bin() < edge);
    before.map(|packet| packet.rtt.unwrap() as f64 / 1e9).collect()
}

fn instant(edge: i64) -> u64 {
    (opens() + SignedDuration::from_mins(10 * edge)).as_millisecond() as u64
}

fn classic(request: &mut Message, packets: &[Packet]) {
    for (arm, name) in [(Arm::Control, "control"), (Arm::Canary, "canary")] {
        for limit in LIMITS.into_iter().chain([f64::INFINITY]) {
            let le = if limit.is_finite() { limit.to_string() } else { "+Inf".to_owned() };
            let labels =
                [("__name__", "game_rtt_seconds_bucket"), ("arm", name), ("isp", "NTT"), ("family", "4"), ("le", &le)];
            let series = series(&labels, |series| {
                for edge in 0..EDGES {
                    let below = counted(packets, arm, edge).into_iter().filter(|rtt| *rtt <= limit).count();
                    let mut sample = Message::default();
                    sample.double(1, below as f64);
                    sample.number(2, instant(edge));
                    series.bytes(2, &sample.0);
                }
            });
            request.bytes(1, &series.0);
        }
    }
}

fn native(request: &mut Message, packets: &[Packet]) {
    for (arm, name) in [(Arm::Control, "control"), (Arm::Canary, "canary")] {
        let labels = [("__name__", "native_rtt_seconds"), ("arm", name), ("isp", "NTT"), ("family", "4")];
        let series = series(&labels, |series| {
            for edge in 0..EDGES {
                let values = counted(packets, arm, edge);
                let mut buckets = std::collections::BTreeMap::<i32, i64>::new();
                for rtt in &values {
                    *buckets.entry((rtt.log2() * f64::from(1 << SCHEMA)).ceil() as i32).or_default() += 1;
                }
                let mut histogram = Message::default();
                histogram.number(1, values.len() as u64);
                histogram.double(3, values.iter().sum());
                histogram.zigzag(4, SCHEMA.into());
                histogram.double(5, 1e-9);
                histogram.number(6, 0);
                let (mut next, mut before) = (0, 0);
                let (mut spans, mut deltas) = (Vec::new(), Message::default());
                for (place, (index, count)) in buckets.into_iter().enumerate() {
                    let mut span = Message::default();
                    span.zigzag(1, i64::from(index - if place == 0 { 0 } else { next }));
                    span.number(2, 1);
                    spans.push(span);
                    let delta: i64 = count - before;
                    deltas.varint((delta << 1 ^ delta >> 63) as u64);
                    (next, before) = (index + 1, count);
                }
                spans.iter().for_each(|span| histogram.bytes(11, &span.0));
                histogram.bytes(12, &deltas.0);
                histogram.number(15, instant(edge));
                series.bytes(4, &histogram.0);
            }
        });
        request.bytes(1, &series.0);
    }
}

#[test]
fn classic_and_native_histograms_of_a_real_prometheus_hold_the_truth() {
    let Some(server) = start("classic_and_native_histograms_of_a_real_prometheus_hold_the_truth") else { return };
    // Prometheus knows what was answered: here everything was.
    let packets: Vec<Packet> =
        packets(5, 60).into_iter().map(|packet| Packet { rtt: packet.rtt.or(Some(30_000_000)), ..packet }).collect();
    let mut request = Message::default();
    classic(&mut request, &packets);
    native(&mut request, &packets);
    write(&server.address, &request);
    for (metric, width, step) in [("game_rtt_seconds", 0.0, 51e6), ("native_rtt_seconds", 0.1, 2.0)] {
        let query = Query {
            url: format!("http://{}", server.address),
            metric: metric.to_owned(),
            matchers: "isp=\"NTT\"".to_owned(),
            unit: 1e9,
            start: opens(),
            end: opens() + SignedDuration::from_mins(10 * (EDGES - 1)),
            bin: SignedDuration::from_mins(10),
        };
        let fetched = fetch(&query).unwrap();
        assert!(fetched.left_out.is_empty(), "{fetched:?}");
        let plan = plan("2ms");
        let mut ingest = Ingest::new(&plan).unwrap();
        let lines: String = fetched.bins.iter().map(|bin| serde_json::to_string(bin).unwrap() + "\n").collect();
        ingest.lines("run/cohorts.jsonl", lines.as_bytes()).unwrap();
        let verdict = judge(&plan, 1, &ingest.finish(), bucket).unwrap();
        assert_pooled(&verdict.findings.described, &packets, width, step);
        println!("{metric}: {:?}", verdict.findings.described.iter().map(|arm| arm.rtt).collect::<Vec<_>>());
    }
    let refusal = fetch(&Query { metric: "absent".to_owned(), ..query_of(&server) }).unwrap_err().to_string();
    assert!(refusal.contains("no histogram of that name"), "{refusal}");
}

fn query_of(server: &Server) -> Query {
    Query {
        url: format!("http://{}", server.address),
        metric: String::new(),
        matchers: String::new(),
        unit: 1e9,
        start: opens(),
        end: opens() + SignedDuration::from_mins(20),
        bin: SignedDuration::from_mins(10),
    }
}
