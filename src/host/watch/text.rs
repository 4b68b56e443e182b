//! The watch as text, in the look of the other screens: what was lost first, then what waited, each now beside all, and last what watching costs. A section is there
//! only where something happened.

mod sections;

use std::fmt::Write;

use pathlab_host::watch::{Overhead, Report};

use crate::report::{Table, percent};

/// Rows of a table on a screen.
const ROWS: usize = 5;

/// Two windows side by side: that whose rates are told, and all of it.
struct View<'a> {
    now: &'a Report,
    all: &'a Report,
    /// Whether they are two, and not one and the same.
    live: bool,
    /// What stands over the rates.
    rate: &'static str,
    /// Rows of a table.
    rows: usize,
}

/// On a terminal of so many lines: the last interval beside all since the watch began.
pub(super) fn live(about: &str, now: &Report, all: &Report, lines: usize) -> String {
    let view = View { now, all, live: true, rate: "now, a second", rows: ROWS };
    let mut text = format!("{:.0} s   {about}\n", all.seconds);
    let (share, missed) = cost(&all.overhead);
    let mut last = format!("now: the last {:.0} s", now.seconds);
    if !all.overhead.is_empty() {
        let _ = write!(last, "; watching takes {} of one processor", percent(share));
    }
    if missed > 0 {
        let _ = write!(last, "; {missed} events were missed");
    }
    let sections = sections::of(&view);
    if sections.is_empty() {
        text.push_str("nothing was lost and nothing waits\n");
    }
    // the head, and the last line with a blank one above
    let mut left = lines.saturating_sub(3);
    let mut shown = 0;
    for section in &sections {
        let height = section.lines().count() + 1;
        // what is left out is said in a line with a blank one above
        let spare = 2 * usize::from(shown + 1 < sections.len());
        if height + spare > left {
            break;
        }
        left -= height;
        shown += 1;
        let _ = write!(text, "\n{section}");
    }
    if shown < sections.len() {
        let _ = writeln!(text, "\n{} sections more in a taller terminal, and at the end", sections.len() - shown);
    }
    if !sections.is_empty() {
        text.push('\n');
    }
    text + &last
}

/// All of it.
pub(super) fn whole(about: &str, report: &Report) -> String {
    let view = View { now: report, all: report, live: false, rate: "a second", rows: usize::MAX };
    let mut text = format!("{:.1} s   {about}\n", report.seconds);
    let sections = sections::of(&view);
    if sections.is_empty() {
        text.push_str("nothing was lost and nothing waited\n");
    }
    for section in sections {
        let _ = write!(text, "\n{section}");
    }
    if !report.overhead.is_empty() {
        let _ = write!(text, "\n{}", overhead(&report.overhead));
    }
    text
}

/// Share of one processor, and events that were missed.
fn cost(overhead: &[Overhead]) -> (f64, u64) {
    (overhead.iter().map(|cost| cost.share).sum(), overhead.iter().map(|cost| cost.missed).sum())
}

fn overhead(overhead: &[Overhead]) -> String {
    let mut table = Table::new(["what watching costs", "a run", "of one processor", "missed"]);
    for cost in overhead {
        let run = cost.per_event.map_or_else(|| "–".to_owned(), |nanoseconds| format!("{nanoseconds:.0} ns"));
        table.row([cost.program.clone(), run, percent(cost.share), cost.missed.to_string()]);
    }
    if overhead.len() > 1 {
        let (share, missed) = cost(overhead);
        table.row(["all".to_owned(), String::new(), percent(share), missed.to_string()]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pathlab_host::{
        Meaning,
        watch::{
            Alert, DropReport, Dropped, Loss, Napi, NapiReport, ProcessorReport, QdiscReport, Refused, RingPressure,
            SocketQueue, Throttling,
        },
    };

    use super::*;

    fn dropping() -> Report {
        let socket = "192.0.2.1:27015".parse().unwrap();
        let reason = |reason: &str, interface: Option<&str>, packets| Dropped {
            reason: reason.into(),
            interface: interface.map(str::to_owned),
            packets,
        };
        Report {
            seconds: 2.0,
            drops: Some(DropReport {
                reasons: vec![reason("SOCKET_RCVBUFF", Some("eth0"), 500), reason("NO_SOCKET", None, 3)],
                sockets: vec![Refused { socket, buffer_full: 496, memory_full: 4 }],
                ..DropReport::default()
            }),
            counters: BTreeMap::from([("UdpInDatagrams".to_owned(), 1_000)]),
            sockets: vec![SocketQueue { socket, waiting: 212_992, drops: 500 }],
            overhead: vec![Overhead {
                program: "dropped".into(),
                runs: 500,
                per_event: Some(81.3),
                share: 0.0002,
                missed: 0,
            }],
            ..Report::default()
        }
    }

    #[test]
    fn what_was_lost_comes_first_and_what_did_not_happen_is_left_out() {
        let wanted = "\
2.0 s   eth0

given up because  interface  a second  all
SOCKET_RCVBUFF         eth0       250  500
NO_SOCKET                 –         2    3

UDP socket       waiting, octets  no room: a second  all  over udp_mem
192.0.2.1:27015           212992                250  500             4

UDP             a second   all
UdpInDatagrams       500  1000

what watching costs  a run  of one processor  missed
dropped              81 ns            0.02 %       0
";
        assert_eq!(whole("eth0", &dropping()), wanted);
        let quiet = Report { seconds: 1.0, drops: Some(DropReport::default()), ..Report::default() };
        assert_eq!(whole("eth0", &quiet), "1.0 s   eth0\nnothing was lost and nothing waited\n");
    }

    #[test]
    fn a_screen_has_the_last_interval_beside_all_and_keeps_its_sections() {
        let quiet = Report { seconds: 1.0, drops: Some(DropReport::default()), ..Report::default() };
        let screen = live("eth0", &quiet, &dropping(), usize::MAX);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "2 s   eth0",
                "",
                "given up because  interface  now, a second  all",
                "SOCKET_RCVBUFF         eth0              0  500"
            ]
        );
        assert_eq!(lines.last(), Some(&"now: the last 1 s; watching takes 0.02 % of one processor"));
        assert_eq!(
            live("eth0", &quiet, &quiet, usize::MAX),
            "1 s   eth0\nnothing was lost and nothing waits\nnow: the last 1 s"
        );
    }

    #[test]
    fn a_low_terminal_has_the_first_sections_and_says_what_is_missing() {
        let report = dropping();
        let all = live("eth0", &report, &report, usize::MAX).lines().count();
        for lines in 4..30 {
            let screen = live("eth0", &report, &report, lines);
            assert!(screen.lines().count() <= lines.max(5), "{lines}:\n{screen}");
            assert_eq!(screen.contains("taller terminal"), screen.lines().count() < all, "{lines}:\n{screen}");
        }
    }

    fn pressed() -> Report {
        let qdisc = |kind: &str, handle: &str, parent: &str| QdiscReport {
            interface: "eth0".into(),
            kind: kind.into(),
            handle: handle.into(),
            parent: parent.into(),
            waiting: 240,
            waiting_octets: 24_000,
            packets: 90,
            octets: 9_000,
            drops: 7,
            overlimits: 50,
            requeues: 1,
        };
        let loss = Loss {
            counter: "rx_missed".into(),
            queue: Some(3),
            meaning: Some(Meaning::RingFull),
            packets: 8,
            rate: 4.0,
        };
        let processor = |processor, stolen| ProcessorReport {
            processor,
            stolen,
            busy: 0.5,
            softirq: 0.25,
            squeezed: 0,
            backlog_drops: 0,
        };
        let napi = Napi {
            interface: "eth0".into(),
            id: 257,
            rx_queue: Some(3),
            polls: 200,
            packets: 9_000,
            exhausted: 50,
            by_packets: [0; 9],
        };
        Report {
            seconds: 2.0,
            qdiscs: vec![qdisc("tbf", "1:", "root"), qdisc("pfifo", "2:", "1:1")],
            rings: vec![RingPressure {
                interface: "eth0".into(),
                driver: Some("ixgbe".into()),
                rx_ring: Some(256),
                tx_ring: None,
                losses: vec![loss],
            }],
            processors: vec![processor(0, 0.25), processor(1, 0.0)],
            throttling: vec![Throttling {
                cgroup: "/sys/fs/cgroup/game".into(),
                processes: vec![7],
                periods: 20,
                throttled: 5,
                seconds: 0.5,
            }],
            napi: Some(NapiReport { napis: vec![napi], uncounted: 0 }),
            alerts: vec![
                Alert::Losses {
                    interface: "eth0".into(),
                    queue: Some(3),
                    counter: "rx_missed".into(),
                    meaning: Meaning::RingFull,
                    rate: 4.0,
                    threshold: 1.0,
                },
                Alert::Waiting {
                    interface: "eth0".into(),
                    kind: "tbf".into(),
                    handle: "1:".into(),
                    parent: "root".into(),
                    packets: 240,
                    threshold: 100,
                },
            ],
            ..Report::default()
        }
    }

    #[test]
    fn alerts_come_first_and_each_part_of_the_host_has_its_section() {
        let wanted = "\
2.0 s   eth0

! eth0 queue 3 loses 4 packets a second: no descriptor was free: the ring is too short for the burst, or its CPU too slow (rx_missed)
! eth0: 240 packets wait in tbf 1:

control group        periods  withheld: a second     all
/sys/fs/cgroup/game  5 of 20              250 ms  500 ms

qdisc           waiting  given up  held back  returned
eth0 tbf 1:         240         7         50         1
  1:1 pfifo 2:      240         7         50         1

card lost       counter        why  a second  all
eth0 queue 3  rx_missed  ring full         4    8

receive queue  polls a second  packets  budget used up
eth0 queue 3              100     4500         25.00 %

processor   stolen     busy  softirq  out of budget  backlog drops
CPU 0      25.00 %  50.00 %  25.00 %              0              0
";
        assert_eq!(whole("eth0", &pressed()), wanted);
        let screen = live("eth0", &pressed(), &pressed(), usize::MAX);
        assert!(screen.contains("! eth0 queue 3 loses 4 packets a second: ring full (rx_missed)\n"), "{screen}");
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    }
}
