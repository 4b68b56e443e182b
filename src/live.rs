//! What a probe sees while it runs, on a terminal: redrawn in place twice a second, and gone when the summary comes.

use std::{collections::VecDeque, fmt::Write, time::Duration};

use pathlab_record::{LogInterval, Sample, SessionBin, SparseHistogram};
use pathlab_reflector::prober::{Output, Progress};

use crate::{
    progress::Screen,
    report::{Table, percent, span},
};

/// How often it is drawn.
pub(crate) const EVERY: Duration = Duration::from_millis(500);
/// Stretches that "now" is made of.
const NOW: usize = 10;

/// Passes a run's lines on, and draws on stderr what they amount to.
pub(crate) struct Live<O> {
    output: O,
    screen: Screen,
    shown: Shown,
}

struct Shown {
    whole: Option<Duration>,
    now: VecDeque<Progress>,
    all: Progress,
}

impl<O> Live<O> {
    /// Draws only where somebody looks. `whole` is how long the run will take, where that is known.
    pub(crate) fn new(output: O, whole: Option<Duration>) -> Self {
        let shown = Shown { whole, now: VecDeque::with_capacity(NOW), all: Progress::default() };
        Self { output, screen: Screen::new(), shown }
    }

    /// Whether anything is drawn.
    pub(crate) fn draws(&self) -> bool {
        self.screen.draws()
    }

    /// Clears the screen; gives the output back.
    pub(crate) fn finish(self) -> O {
        self.screen.finish();
        self.output
    }
}

impl<O: Output> Output for Live<O> {
    fn bin(&mut self, bin: SessionBin) {
        self.output.bin(bin);
    }
    fn sample(&mut self, sample: Sample) {
        self.output.sample(sample);
    }
    fn interval(&mut self, log: &str, interval: LogInterval) {
        self.output.interval(log, interval);
    }
    fn progress(&mut self, progress: Progress) {
        if !self.draws() {
            return;
        }
        self.shown.all.add(&progress);
        if self.shown.now.len() == NOW {
            self.shown.now.pop_front();
        }
        self.shown.now.push_back(progress);
        self.screen.show(&self.shown.text(self.screen.size().1));
    }
}

impl Shown {
    fn text(&self, columns: usize) -> String {
        let mut now = Progress::default();
        self.now.iter().for_each(|progress| now.add(progress));
        text(&now, &self.all, self.whole, columns < WIDE)
    }
}

/// Columns that the whole table takes; narrower terminals see fewer of them.
const WIDE: usize = 80;

fn text(now: &Progress, all: &Progress, whole: Option<Duration>, narrow: bool) -> String {
    let seconds = |span: Duration| format!("{:.0} s", span.as_secs_f64());
    let mut text = seconds(all.span);
    if let Some(whole) = whole {
        let _ = write!(text, " of {}", seconds(whole));
    }
    let rate = now.sent as f64 / now.span.as_secs_f64().max(1e-9);
    let _ = write!(
        text,
        "   {rate:.0} packets/s{}sent {}, received {}, lost {}",
        if narrow { "\n" } else { "   " },
        all.sent,
        all.received,
        all.lost()
    );
    if all.lost() > 0 {
        let _ =
            write!(text, " (forward {}, return {}, unknown {})", all.lost_forward, all.lost_return, all.lost_unknown);
    }
    for (name, count) in [("late", all.late), ("skipped", all.skipped), ("refused", all.refused)] {
        if count > 0 {
            let _ = write!(text, ", {name} {count}");
        }
    }
    let (heads, levels): (&[&str], &[f64]) = if narrow {
        (&["", "now p50", "p99", "all p50", "p99"], &[0.5, 0.99])
    } else {
        (&["", "now p50", "p95", "p99", "all p50", "p95", "p99"], &[0.5, 0.95, 0.99])
    };
    let mut table = Table::new(heads.iter().copied());
    for (name, now, all) in [
        ("round trip", &now.rtt, &all.rtt),
        ("probe host", &now.probe_host, &all.probe_host),
        ("wire", &now.wire, &all.wire),
        ("reflector host", &now.reflector_host, &all.reflector_host),
        ("late by", &now.lateness, &all.lateness),
    ] {
        let quantile = |of: &SparseHistogram, level: f64| of.quantile(level).map_or_else(|| "–".to_owned(), span);
        let cells = [now, all].into_iter().flat_map(|of| levels.iter().map(move |level| quantile(of, *level)));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    }
    let kept = percent(all.within_50us as f64 / all.sent.max(1) as f64);
    let now = seconds(now.span);
    let _ = write!(text, "\n{table}now: the last {now}; {kept} of the slots within 50 µs");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_goes_on() {
        let mut now = Progress { span: Duration::from_secs(5), sent: 500, received: 490, ..Progress::default() };
        now.rtt.record_n(20_000_000, 490);
        now.within_50us = 495;
        let mut all = now.clone();
        all.add(&Progress { lost_forward: 3, lost_unknown: 2, late: 1, ..now.clone() });
        let text = text(&now, &all, Some(Duration::from_secs(60)), false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "10 s of 60 s   100 packets/s   sent 1000, received 980, lost 5 (forward 3, return 0, unknown 2), late 1"
        );
        assert!(lines[2].starts_with("round trip      20.0 ms  20.0 ms"), "{text}");
        assert!(lines[3].starts_with("probe host            –"), "{text}");
        assert_eq!(lines[7], "now: the last 5 s; 99.00 % of the slots within 50 µs");
        let narrow = super::text(&now, &all, Some(Duration::from_secs(60)), true);
        assert_eq!(narrow.lines().count(), 9, "{narrow}");
        assert!(narrow.lines().skip(2).all(|line| line.chars().count() <= 60), "{narrow}");
    }
}
