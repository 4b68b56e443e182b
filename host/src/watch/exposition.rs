//! What was counted since the watch began as OpenMetrics. Every label has a bounded number of values: the tables that they come from have a fixed size.

mod families;
mod host;
mod queues;
mod threads;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::{Registry, Unit},
};

use self::families::{Families, named, other};
use super::{DropReport, Overhead, Report};

impl Report {
    /// A report since the watch began as OpenMetrics 1.0 text, `# EOF` included; of one of a shorter window the counters would go back. What is of a moment, such as
    /// alerts and shares of a processor's time, is that of the last interval. `lacks` is how many parts are not watched ([`Watch::lacks`](super::Watch::lacks)).
    pub fn openmetrics(&self, interval: &Self, lacks: usize) -> String {
        let mut registry = Registry::with_prefix("pathlab_watch");
        registry.register_collector(Box::new(Watched { whole: self.clone(), interval: interval.clone(), lacks }));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}

#[derive(Debug)]
struct Watched {
    whole: Report,
    interval: Report,
    lacks: usize,
}

impl Collector for Watched {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let Self { whole: report, interval, lacks } = self;
        let mut families = Families(encoder);
        families.counter("watched", "How long it is watched", &Unit::Seconds, [([], report.seconds)])?;
        families.gauge("lacks", "Parts that are not watched; the log says why", None, [([], *lacks as f64)])?;
        if let Some(drops) = &report.drops {
            families.drops(drops)?;
        }
        let counters = report.counters.iter().map(|(name, count)| ([("counter", name.clone())], *count));
        families.counter("udp", "Counters of UDP, named as nstat(8) does", &datagrams(), counters)?;
        let sockets = || report.sockets.iter().map(|queue| ([("socket", queue.socket.to_string())], queue));
        let help = "Octets in the receive queues of UDP sockets, the kernel's own overhead included";
        let waiting = sockets().map(|(labels, queue)| (labels, queue.waiting as f64));
        families.gauge("socket_waiting", help, Some(&Unit::Bytes), waiting)?;
        let help = "Datagrams for which a UDP socket had no room, by its own account";
        let dropped = sockets().map(|(labels, queue)| (labels, queue.drops));
        families.counter("socket_dropped", help, &datagrams(), dropped)?;
        host::encode(&mut families, report, interval)?;
        queues::encode(&mut families, report)?;
        threads::encode(&mut families, report, interval)?;
        families.overhead(&report.overhead)
    }
}

fn datagrams() -> Unit {
    other("datagrams")
}

fn packets() -> Unit {
    other("packets")
}

impl Families<'_> {
    fn drops(&mut self, drops: &DropReport) -> fmt::Result {
        let reasons = drops.reasons.iter().map(|drop| {
            ([("reason", drop.reason.clone()), ("interface", named(drop.interface.as_ref()))], drop.packets)
        });
        let help = "Packets that the kernel gave up, by its own reason and the interface where they were or came from";
        self.counter("dropped", help, &packets(), reasons)?;
        let refused = drops.sockets.iter().flat_map(|refused| {
            let labels = |limit: &str| [("socket", refused.socket.to_string()), ("limit", limit.to_owned())];
            [(labels("buffer"), refused.buffer_full), (labels("udp_mem"), refused.memory_full)]
        });
        let help = "Datagrams for which a UDP socket had no room: over its own buffer, or over net.ipv4.udp_mem";
        self.counter("refused", help, &datagrams(), refused)?;
        let help = "Dropped packets of any namespace that belonged to no device and no socket any more";
        self.counter("dropped_unplaced", help, &packets(), [([], drops.unplaced)])?;
        let help = "Dropped packets whose reason or socket had no place in the tables";
        self.counter("dropped_uncounted", help, &packets(), [([], drops.uncounted)])
    }

    /// Time is told of the runs that the kernel measured.
    fn overhead(&mut self, overhead: &[Overhead]) -> fmt::Result {
        let each = || overhead.iter().map(|cost| ([("program", cost.program.clone())], cost));
        let help = "A run of a program, the kernel's reading of its clock included; measured a tenth of the time";
        let runs = each().filter_map(|(labels, cost)| Some((labels, cost.per_event? / 1e9)));
        self.gauge("program_run", help, Some(&Unit::Seconds), runs)?;
        let help = "Part of one processor that a program took while it was measured";
        let shares = each().map(|(labels, cost)| (labels, cost.share));
        self.gauge("program_processor", help, Some(&Unit::Ratios), shares)?;
        let help = "Runs of a program while it was measured";
        self.counter("program_measured", help, &other("runs"), each().map(|(labels, cost)| (labels, cost.runs)))?;
        let help = "Events that a program missed because it was running on that processor already";
        self.counter("program_missed", help, &other("events"), each().map(|(labels, cost)| (labels, cost.missed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Meaning,
        watch::{
            Alert, CadenceReport, Dropped, Histogram, Loss, Napi, NapiReport, ProcessorReport, QdiscReport, Refused,
            RingPressure, SchedReport, ServerReport, SocketQueue, SoftirqReport, Sojourn, SojournReport, Stalls,
            ThreadReport, Throttling,
        },
    };

    fn holds(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|told| told == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn packets_have_their_unit_in_their_name() {
        let socket = "192.0.2.1:27015".parse().unwrap();
        let report = Report {
            seconds: 2.5,
            drops: Some(DropReport {
                reasons: vec![Dropped { reason: "NO_SOCKET".into(), interface: None, packets: 3 }],
                sockets: vec![Refused { socket, buffer_full: 4, memory_full: 5 }],
                unplaced: 6,
                uncounted: 7,
            }),
            counters: [("UdpNoPorts".to_owned(), 3)].into(),
            sockets: vec![SocketQueue { socket, waiting: 768, drops: 9 }],
            overhead: vec![Overhead {
                program: "dropped".into(),
                runs: 8,
                per_event: Some(125.0),
                share: 0.25,
                missed: 1,
            }],
            ..Report::default()
        };
        holds(
            &report.openmetrics(&Report::default(), 2),
            &[
                "pathlab_watch_watched_seconds_total 2.5",
                "pathlab_watch_lacks 2.0",
                "pathlab_watch_dropped_packets_total{reason=\"NO_SOCKET\",interface=\"\"} 3",
                "pathlab_watch_refused_datagrams_total{socket=\"192.0.2.1:27015\",limit=\"buffer\"} 4",
                "pathlab_watch_refused_datagrams_total{socket=\"192.0.2.1:27015\",limit=\"udp_mem\"} 5",
                "pathlab_watch_dropped_unplaced_packets_total 6",
                "pathlab_watch_dropped_uncounted_packets_total 7",
                "pathlab_watch_udp_datagrams_total{counter=\"UdpNoPorts\"} 3",
                "pathlab_watch_socket_waiting_bytes{socket=\"192.0.2.1:27015\"} 768.0",
                "pathlab_watch_socket_dropped_datagrams_total{socket=\"192.0.2.1:27015\"} 9",
                "pathlab_watch_program_run_seconds{program=\"dropped\"} 1.25e-7",
                "pathlab_watch_program_processor_ratios{program=\"dropped\"} 0.25",
                "pathlab_watch_program_measured_runs_total{program=\"dropped\"} 8",
                "pathlab_watch_program_missed_events_total{program=\"dropped\"} 1",
                "# EOF",
            ],
        );
        let nothing = Report { seconds: 1.0, ..Report::default() }.openmetrics(&Report::default(), 0);
        let told: Vec<&str> = nothing.lines().filter(|line| !line.starts_with('#')).collect();
        let wanted = [
            "watched_seconds_total 1.0",
            "lacks 0.0",
            "alerts{what=\"losses\"} 0.0",
            "alerts{what=\"waiting\"} 0.0",
            "alerts{what=\"exhausted\"} 0.0",
        ];
        assert_eq!(told, wanted.map(|line| format!("pathlab_watch_{line}")));
    }

    #[test]
    fn what_is_of_a_moment_is_of_the_last_interval() {
        let processor = |stolen, squeezed| ProcessorReport {
            processor: 1,
            stolen,
            busy: 0.5,
            softirq: 0.25,
            squeezed,
            backlog_drops: 0,
        };
        let loss =
            Loss { counter: "rx_missed".into(), queue: None, meaning: Some(Meaning::RingFull), packets: 7, rate: 3.5 };
        let qdisc = QdiscReport {
            interface: "eth0".into(),
            kind: "tbf".into(),
            handle: "1:".into(),
            parent: "root".into(),
            waiting: 4,
            waiting_octets: 400,
            packets: 9,
            octets: 900,
            drops: 2,
            overlimits: 5,
            requeues: 1,
        };
        let alert = Alert::Waiting {
            interface: "eth0".into(),
            kind: "tbf".into(),
            handle: "1:".into(),
            parent: "root".into(),
            packets: 4,
            threshold: 4,
        };
        let whole = Report {
            processors: vec![processor(0.5, 12)],
            rings: vec![RingPressure {
                interface: "eth0".into(),
                driver: None,
                rx_ring: Some(256),
                tx_ring: None,
                losses: vec![loss],
            }],
            qdiscs: vec![qdisc],
            throttling: vec![Throttling {
                cgroup: "/game".into(),
                processes: vec![7],
                periods: 30,
                throttled: 9,
                seconds: 1.5,
            }],
            alerts: vec![alert.clone(), alert],
            ..Report::default()
        };
        let now = Report { processors: vec![processor(0.125, 1)], ..Report::default() };
        let place = "interface=\"eth0\",kind=\"tbf\",handle=\"1:\",parent=\"root\"";
        let of_qdisc = |name: &str, value: &str| format!("pathlab_watch_qdisc_{name}{{{place}}} {value}");
        let text = whole.openmetrics(&now, 0);
        for (name, value) in [
            ("waiting_packets", "4.0"),
            ("backlog_bytes", "400.0"),
            ("left_packets_total", "9"),
            ("left_bytes_total", "900"),
            ("dropped_packets_total", "2"),
            ("overlimit_times_total", "5"),
            ("requeued_packets_total", "1"),
        ] {
            holds(&text, &[of_qdisc(name, value).as_str()]);
        }
        holds(
            &text,
            &[
                "pathlab_watch_processor_stolen_ratios{processor=\"1\"} 0.125",
                "pathlab_watch_softnet_squeezed_times_total{processor=\"1\"} 12",
                "pathlab_watch_ring_size_descriptors{interface=\"eth0\",ring=\"rx\"} 256.0",
                "pathlab_watch_card_lost_packets_total{interface=\"eth0\",queue=\"\",counter=\"rx_missed\",meaning=\"ring_full\"} 7",
                "pathlab_watch_cgroup_throttled_periods_total{cgroup=\"/game\"} 9",
                "pathlab_watch_cgroup_waited_seconds_total{cgroup=\"/game\"} 1.5",
                "pathlab_watch_alerts{what=\"waiting\"} 0.0",
            ],
        );
    }

    #[test]
    fn durations_are_histograms_in_seconds() {
        let durations = || -> Histogram { [1_000, 3_000_000, 3_000_000].into_iter().collect() };
        let softirq = |processor| SoftirqReport {
            vector: "NET_RX",
            processor,
            raises: 5,
            entries: 3,
            wait: durations(),
            run: durations(),
        };
        let server = ServerReport {
            process: 7,
            thread: 8,
            name: Some("ga\"me".into()),
            port: Some(27_015),
            calls: 60,
            ticks: durations(),
            regular: Some(0.75),
            stalls: Some(Stalls { length: durations(), last: vec![] }),
            quiet: 2_000_000_000,
        };
        let thread = ThreadReport {
            process: 7,
            thread: 8,
            name: None,
            runs: 4,
            preempted: 1,
            wait: durations(),
            waiting: Some(5_000_000_000),
        };
        let sojourn = Sojourn { interface: "eth0".into(), queue: 3, nanoseconds: durations(), unmatched: 2 };
        let napi = Napi {
            interface: "eth0".into(),
            id: 257,
            rx_queue: None,
            polls: 7,
            packets: 90,
            exhausted: 2,
            by_packets: [0, 5, 0, 0, 0, 0, 0, 2, 0],
        };
        let report = Report {
            softirqs: Some(vec![softirq(0), softirq(1)]),
            sched: Some(SchedReport { threads: vec![thread], uncounted: 2 }),
            cadence: Some(CadenceReport { period: 1, threshold: 2, servers: vec![server], uncounted: 3 }),
            sojourn: Some(SojournReport { queues: vec![sojourn], untracked: 4, uncounted: 5 }),
            napi: Some(NapiReport { napis: vec![napi], uncounted: 6 }),
            ..Report::default()
        };
        let of_server = "{process=\"7\",thread=\"8\",name=\"ga\\\"me\",port=\"27015\"}";
        let text = report.openmetrics(&report, 0);
        holds(
            &text,
            &[
                "pathlab_watch_softirq_raised_times_total{vector=\"NET_RX\",processor=\"1\"} 5",
                "pathlab_watch_softirq_wait_seconds_count{vector=\"NET_RX\"} 6",
                "pathlab_watch_softirq_wait_seconds_bucket{le=\"+Inf\",vector=\"NET_RX\"} 6",
                "pathlab_watch_thread_wait_seconds_sum{process=\"7\",thread=\"8\",name=\"\"} 0.006001",
                "pathlab_watch_thread_preempted_times_total{process=\"7\",thread=\"8\",name=\"\"} 1",
                "pathlab_watch_thread_waiting_seconds{process=\"7\",thread=\"8\",name=\"\"} 5.0",
                "pathlab_watch_thread_uncounted_events_total 2",
                &format!("pathlab_watch_server_regular_ratios{of_server} 0.75"),
                &format!("pathlab_watch_server_quiet_seconds{of_server} 2.0"),
                &format!("pathlab_watch_server_stall_seconds_count{of_server} 3"),
                "pathlab_watch_server_uncounted_calls_total 3",
                "pathlab_watch_sojourn_seconds_count{interface=\"eth0\",queue=\"3\"} 3",
                "pathlab_watch_sojourn_unmatched_packets_total{interface=\"eth0\",queue=\"3\"} 2",
                "pathlab_watch_sojourn_untracked_packets_total 4",
                "pathlab_watch_napi_polls_total{interface=\"eth0\",napi=\"257\",queue=\"\"} 7",
                "pathlab_watch_napi_exhausted_polls_total{interface=\"eth0\",napi=\"257\",queue=\"\"} 2",
                "pathlab_watch_napi_size_polls_total{interface=\"eth0\",napi=\"257\",queue=\"\",from_packets=\"64\"} 2",
            ],
        );
        assert!(text.contains("pathlab_watch_thread_wait_seconds_bucket{le=\"0.004194304\""), "{text}");
    }
}
