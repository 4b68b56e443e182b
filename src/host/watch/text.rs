//! A window of the watch as text: what was lost first, then what waited, then what watching cost. What did not happen is left out.

use std::fmt::Write;

use pathlab_host::watch::{DropReport, Overhead, Report, SocketQueue};

use crate::report::{Table, percent};

/// Rows of a table on a screen.
const ROWS: usize = 8;

/// The last interval, and how long it goes on already.
pub(super) fn live(now: &Report, all: &Report) -> String {
    let mut text = format!("{:.0} s   now: the last {:.1} s\n", all.seconds, now.seconds);
    sections(&mut text, now, ROWS);
    text.truncate(text.trim_end().len());
    text
}

/// All of it.
pub(super) fn whole(report: &Report) -> String {
    let mut text = format!("in {:.1} s\n", report.seconds);
    sections(&mut text, report, usize::MAX);
    text
}

fn sections(text: &mut String, report: &Report, rows: usize) {
    let seconds = report.seconds.max(1e-9);
    if let Some(drops) = &report.drops {
        dropped(text, drops, seconds, rows);
    }
    counted(text, report, seconds);
    waiting(text, &report.sockets, rows);
    cost(text, &report.overhead, rows);
}

fn dropped(text: &mut String, drops: &DropReport, seconds: f64, rows: usize) {
    if drops.reasons.is_empty() {
        text.push_str("\nno packet was given up\n");
    } else {
        let mut table = Table::new(["given up because", "interface", "packets", "a second"]);
        for drop in drops.reasons.iter().take(rows) {
            let rate = format!("{:.0}", drop.packets as f64 / seconds);
            let interface = drop.interface.clone().unwrap_or_else(|| "–".into());
            table.row([drop.reason.clone(), interface, drop.packets.to_string(), rate]);
        }
        let _ = write!(text, "\n{table}");
        more(text, drops.reasons.len(), rows);
    }
    if !drops.sockets.is_empty() {
        let mut table = Table::new(["no room in the socket", "its buffer was full", "net.ipv4.udp_mem"]);
        for socket in drops.sockets.iter().take(rows) {
            table.row([socket.socket.to_string(), socket.buffer_full.to_string(), socket.memory_full.to_string()]);
        }
        let _ = write!(text, "\n{table}");
        more(text, drops.sockets.len(), rows);
    }
    if drops.uncounted > 0 {
        let _ = writeln!(text, "{} drops more whose reason or socket had no place in the table", drops.uncounted);
    }
}

fn counted(text: &mut String, report: &Report, seconds: f64) {
    if report.counters.is_empty() {
        return;
    }
    let rates = report.counters.iter().map(|(name, count)| format!("{name} {:.0}/s", *count as f64 / seconds));
    let _ = writeln!(text, "\n{}", rates.collect::<Vec<_>>().join(", "));
}

fn waiting(text: &mut String, sockets: &[SocketQueue], rows: usize) {
    if sockets.is_empty() {
        return;
    }
    let mut table = Table::new(["UDP socket", "waiting, octets", "drops"]);
    for queue in sockets.iter().take(rows) {
        table.row([queue.socket.to_string(), queue.waiting.to_string(), queue.drops.to_string()]);
    }
    let _ = write!(text, "\n{table}");
    more(text, sockets.len(), rows);
}

fn cost(text: &mut String, overhead: &[Overhead], rows: usize) {
    if overhead.is_empty() {
        return;
    }
    let share: f64 = overhead.iter().map(|cost| cost.share).sum();
    let missed: u64 = overhead.iter().map(|cost| cost.missed).sum();
    let _ = write!(text, "\nwatching took {} of one processor", percent(share));
    let each = overhead.iter().filter_map(|cost| Some(format!("{} {:.0} ns", cost.program, cost.per_event?)));
    let each: Vec<String> = each.take(rows.max(overhead.len())).collect();
    if !each.is_empty() {
        let _ = write!(text, "; an event: {}", each.join(", "));
    }
    if missed > 0 {
        let _ = write!(text, "; {missed} events were missed");
    }
    text.push('\n');
}

fn more(text: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(text, "and {} more", all - shown);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pathlab_host::watch::{Dropped, Refused};

    use super::*;

    #[test]
    fn what_was_lost_comes_first_and_what_did_not_happen_is_left_out() {
        let socket = "192.0.2.1:27015".parse().unwrap();
        let report = Report {
            seconds: 2.0,
            drops: Some(DropReport {
                reasons: vec![Dropped {
                    reason: "SOCKET_RCVBUFF".into(),
                    interface: Some("eth0".into()),
                    packets: 500,
                }],
                sockets: vec![Refused { socket, buffer_full: 500, memory_full: 0 }],
                ..DropReport::default()
            }),
            counters: BTreeMap::from([("UdpInDatagrams".to_owned(), 1_000)]),
            overhead: vec![Overhead {
                program: "dropped".into(),
                runs: 500,
                per_event: Some(81.3),
                share: 0.0002,
                missed: 0,
            }],
            ..Report::default()
        };
        let lines: Vec<String> = whole(&report).lines().map(str::to_owned).collect();
        let wanted = [
            "in 2.0 s",
            "",
            "given up because  interface  packets  a second",
            "SOCKET_RCVBUFF         eth0      500       250",
            "",
            "no room in the socket  its buffer was full  net.ipv4.udp_mem",
            "192.0.2.1:27015                        500                 0",
            "",
            "UdpInDatagrams 500/s",
            "",
            "watching took 0.02 % of one processor; an event: dropped 81 ns",
        ];
        assert_eq!(lines, wanted);
        let quiet = Report { seconds: 1.0, drops: Some(DropReport::default()), ..Report::default() };
        assert_eq!(whole(&quiet), "in 1.0 s\n\nno packet was given up\n");
        assert_eq!(live(&quiet, &report), "2 s   now: the last 1.0 s\n\nno packet was given up");
        assert_eq!(whole(&Report { seconds: 1.0, ..Report::default() }), "in 1.0 s\n");
    }
}
