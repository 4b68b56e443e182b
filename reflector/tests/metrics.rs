//! Metrics over real HTTP while packets are answered: what is scraped is OpenMetrics by rule, agrees with the reflector's own account, and
//! a client that misbehaves gets nothing and costs little.

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/openmetrics.rs"]
mod openmetrics;
#[path = "support/running.rs"]
mod running;
#[path = "support/veth.rs"]
mod veth;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use namespace::in_private_namespace;
use openmetrics::Exposition;
use pathlab_guard::privilege::root_or_skip;
use pathlab_reflector::{
    Metrics, MetricsServer, ReflectorConfig, Scrapes, Stop,
    datapath::{AfXdpConfig, AfXdpReflector, SocketOptions},
};
use pathlab_xdp::{
    XdpMode,
    xsk::{CopyMode, XskOptions},
};
use running::Running;
use veth::{ADDRESSES, serve_on_veth, with_client};

const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that comes back for `request`.
fn ask(server: SocketAddr, request: &[u8]) -> String {
    let mut connection = TcpStream::connect(server).expect("connects");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The server may have hung up already: what it said counts.
    let _ = connection.write_all(request);
    let mut answer = String::new();
    let _ = connection.read_to_string(&mut answer);
    answer
}

fn scrape(server: SocketAddr) -> Exposition {
    let answer = ask(server, b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    Exposition::parse(body)
}

/// Scrapes until `wanted` replies are told, which are published within a second or two.
fn scrape_until(server: SocketAddr, wanted: f64) -> Exposition {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let exposition = scrape(server);
        let replied = exposition.find("pathlab_reflector_replied_datagrams_total", &[]);
        if replied == Some(wanted) {
            return exposition;
        }
        assert!(Instant::now() < deadline, "{replied:?} replies of {wanted}");
        thread::yield_now();
    }
}

fn while_serving<T>(metrics: &Metrics, body: impl FnOnce(SocketAddr) -> T) -> (T, Scrapes) {
    let server = MetricsServer::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let stop = Stop::new().expect("eventfd");
    let said = thread::scope(|scope| {
        let serving = scope.spawn(|| server.run(|| metrics.text(), &stop).expect("a sound listener"));
        // also when an assertion fails: the scope waits for the server
        let over = RequestWhenDropped(&stop);
        let said = body(server.local_addr());
        drop(over);
        serving.join().expect("no panic");
        said
    });
    (said, server.scrapes())
}

struct RequestWhenDropped<'a>(&'a Stop);

impl Drop for RequestWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// `received = replied + refused + dropped` as scraped; `replied`.
fn account(exposition: &Exposition) -> f64 {
    let total = |name: &str| exposition.find(&format!("pathlab_reflector_{name}_datagrams_total"), &[]).expect(name);
    let refused: f64 = exposition.all("pathlab_reflector_refused_datagrams_total").map(|sample| sample.value).sum();
    assert_eq!(total("received"), total("replied") + refused + total("kernel_dropped"));
    total("replied")
}

/// The count of every place's residence, with its labels.
fn residence(exposition: &Exposition) -> Vec<(Vec<(String, String)>, f64)> {
    exposition
        .all("pathlab_reflector_residence_seconds_count")
        .map(|sample| (sample.labels.clone(), sample.value))
        .collect()
}

fn converse(to: SocketAddr, count: usize) {
    let socket = UdpSocket::bind(if to.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" }).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send_to(&[0; 43], to).expect("send");
    for _ in 0..count {
        socket.send_to(&[0; 44], to).expect("send");
        socket.recv(&mut [0; 100]).expect("a reply");
    }
}

#[test]
fn a_scrape_of_the_socket_reflector_agrees_with_its_account() {
    let metrics = Metrics::new();
    let ((), scrapes) = while_serving(&metrics, |server| {
        assert_eq!(scrape(server).samples.len(), 0, "nothing published yet");
        let running = Running::start(ReflectorConfig {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            socket: SocketOptions::stamped(),
            metrics: Some(metrics.clone()),
            ..ReflectorConfig::default()
        });
        converse(running.addresses[0], 100);
        let exposition = scrape_until(server, 100.0);
        assert_eq!(account(&exposition), 100.0);
        assert_eq!(exposition.find("pathlab_reflector_refused_datagrams_total", &[("reason", "short")]), Some(1.0));
        assert_eq!(exposition.find("pathlab_reflector_build_info", &[("datapath", "socket")]), Some(1.0));
        let places = residence(&exposition);
        assert_eq!(places.iter().map(|(_, count)| count).sum::<f64>(), 100.0);
        for (labels, _) in &places {
            let value = |name: &str| labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str());
            assert!(value("queue") == Some("") && value("irq_cpu") == Some(""), "no datapath of queues: {labels:?}");
            assert!([value("cpu"), value("node")].iter().all(|number| number.unwrap().parse::<u32>().is_ok()));
        }
        for stage in ["arrive", "answer", "leave"] {
            let counted = exposition.all("pathlab_reflector_stage_seconds_count");
            let counted = counted.filter(|sample| sample.labels.contains(&("stage".into(), stage.into())));
            let count: f64 = counted.map(|sample| sample.value).sum();
            let fits = if stage == "leave" { count > 0.0 && count <= 100.0 } else { count == 100.0 };
            assert!(fits, "{stage}: {count}");
        }
        let at_b2 = |plane| {
            let labels = [("point", "B2"), ("plane", plane)];
            exposition.find("pathlab_reflector_stamp_coverage_ratios", &labels).unwrap_or(0.0)
        };
        assert!((at_b2("kernel") + at_b2("app") - 1.0).abs() < 1e-9, "every reply has a B2");
        running.finish();
    });
    assert_eq!(scrapes.refused, 0);
}

#[test]
fn a_scrape_over_af_xdp_tells_each_queue_with_its_rings_and_places() {
    if !root_or_skip("a_scrape_over_af_xdp_tells_each_queue_with_its_rings_and_places") {
        return;
    }
    for hybrid in [false, true] {
        in_private_namespace(|namespace| {
            serve_on_veth(2);
            let metrics = Metrics::new();
            let xsk = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
            let config = AfXdpConfig {
                mode: XdpMode::Native,
                hybrid,
                xsk,
                metrics: Some(metrics.clone()),
                ..AfXdpConfig::new(862)
            };
            let mut reflector = AfXdpReflector::attach("s0", &config).expect("attached");
            // The metrics are served and read in the client's namespace: a socket is of the namespace that it was made in.
            let talk = || {
                let target = (ADDRESSES[0].parse::<std::net::IpAddr>().expect("an address"), 862).into();
                while_serving(&metrics, |server| {
                    for _ in 0..32 {
                        converse(target, 4);
                    }
                    let exposition = scrape_until(server, 128.0);
                    tells_each_queue(&exposition, if hybrid { 0.0 } else { 128.0 });
                });
            };
            with_client(namespace, |stop| reflector.run(stop).expect("an interface that is up"), talk);
        });
    }
}

/// Two queues with their rings, and the places of the replies that came through their sockets.
fn tells_each_queue(exposition: &Exposition, through_sockets: f64) {
    assert_eq!(account(exposition), 128.0);
    let places = residence(exposition);
    assert_eq!(places.iter().map(|(_, count)| count).sum::<f64>(), through_sockets);
    for queue in ["0", "1"] {
        let ring = |ring: &str| {
            let labels = [("queue", queue), ("bind_mode", "copy")];
            exposition.find(&format!("pathlab_reflector_queue_{ring}_total"), &labels)
        };
        for name in ["rx_dropped_datagrams", "rx_ring_full_datagrams", "invalid_descriptors", "stray_descriptors"] {
            assert_eq!(ring(name), Some(0.0), "{name}");
        }
        assert!(ring("fill_ring_empty").is_some() && ring("tx_ring_empty").is_some());
        let here = |labels: &[(String, String)]| labels.contains(&("queue".into(), queue.into()));
        let here: Vec<_> = places.iter().filter(|(labels, _)| here(labels)).collect();
        assert_eq!(here.is_empty(), through_sockets == 0.0, "flows on both queues");
        let numbers = |labels: &[(String, String)]| labels.iter().all(|(_, value)| value.parse::<u32>().is_ok());
        assert!(here.iter().all(|(labels, _)| numbers(labels)), "{here:?}");
    }
}

#[test]
fn clients_that_misbehave_get_nothing_and_hold_nothing_up() {
    let metrics = Metrics::new();
    let (first_lines, scrapes) = while_serving(&metrics, |server| {
        let long = [b"GET /metrics HTTP/1.1\r\nCookie: ".as_slice(), &[b'a'; 9000]].concat();
        let first_lines =
            [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"DELETE /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n", &long]
                .map(|request| ask(server, request).lines().next().unwrap_or_default().to_owned());
        // Four that say nothing have all the places; a fifth is closed unheard.
        let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(server).expect("connects")).collect();
        let deadline = Instant::now() + PATIENCE;
        while !ask(server, b"GET /metrics HTTP/1.1\r\n\r\n").is_empty() {
            assert!(Instant::now() < deadline, "a fifth connection is still heard");
        }
        // They are put out without having said a word.
        for mut silent in silent {
            silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            assert_eq!(silent.read(&mut [0; 1]).expect("closed by the server"), 0);
        }
        scrape(server);
        first_lines
    });
    assert_eq!(
        first_lines,
        [
            "HTTP/1.1 404 Not Found",
            "HTTP/1.1 405 Method Not Allowed",
            "HTTP/1.1 400 Bad Request",
            "HTTP/1.1 431 Request Header Fields Too Large"
        ]
    );
    assert!(scrapes.served >= 1 && scrapes.refused >= 9, "{scrapes:?}");
}
