//! `sessions.jsonl` as an evening is looked at: date by time of day for every ISP, family and arm, and percentiles by arm.
//!
//! Every session of a bin weighs the same, and one that went silent counts as the slowest: as the judge has it. A bin that nobody
//! measured is absent, which is neither zero nor good.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Span, Zoned, civil::Date, tz::TimeZone};
use pathlab_record::{SessionBin, SparseHistogram};
use serde::Serialize;

use super::model::Cohort;

/// What one session weighs.
const WEIGHT: u64 = 1 << 20;
/// The levels of the percentile curves, in parts of ten thousand.
const LEVELS: [u32; 22] = [
    500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 7500, 8000, 8500, 9000, 9250, 9500, 9600, 9700, 9800, 9900, 9950,
    9980, 9990, 9995,
];
/// Fewest packets beyond a level for which the curve goes on to it.
const BEYOND: u64 = 5;
/// Columns that a heatmap may have: a day of five minutes each.
const MOST_COLUMNS: i64 = 288;
/// Dates without data that may stand between others.
const MOST_ROWS: usize = 62;

/// Heatmaps of date by time of day.
#[derive(Serialize)]
pub(crate) struct Evenings {
    pub(crate) metric: &'static str,
    pub(crate) zone: String,
    /// Length of a bin.
    pub(crate) bin_s: i64,
    /// Local time at which each column begins.
    pub(crate) columns: Vec<String>,
    /// Dates, or `aa`.
    pub(crate) rows: Vec<String>,
    /// Dates that are labels: what they were given for was measured on another day.
    pub(crate) relabelled: Vec<Relabelled>,
    pub(crate) panels: Vec<Panel>,
}

/// A window whose date is not that on which it was measured.
#[derive(Serialize)]
pub(crate) struct Relabelled {
    pub(crate) window: String,
    /// Local time at which its first bin begins.
    pub(crate) from: String,
    /// And its last one ends.
    pub(crate) to: String,
}

impl Evenings {
    /// What a reader has to know of dates before any of them, where they are not those of the clock.
    pub(crate) fn labels(&self) -> Option<String> {
        let first = self.relabelled.first()?;
        let names: Vec<&str> = self.relabelled.iter().map(|of| of.window.as_str()).collect();
        let from = self.relabelled.iter().map(|of| &of.from).min().unwrap_or(&first.from);
        let to = self.relabelled.iter().map(|of| &of.to).max().unwrap_or(&first.to);
        let (dates, are) = if names.len() == 1 { ("The date", "is a label") } else { ("The dates", "are labels") };
        Some(format!(
            "{dates} {} {are} of windows, not of the clock: what stands under them was measured between {from} and {to} ({}).",
            names.join(", "),
            self.zone
        ))
    }
}

/// One ISP, family and arm.
#[derive(Serialize)]
pub(crate) struct Panel {
    pub(crate) cohort: Cohort,
    /// Those that were measured.
    pub(crate) cells: Vec<Cell>,
}

/// One bin of one date.
#[derive(Serialize)]
pub(crate) struct Cell {
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) sessions: u64,
    pub(crate) sent: u64,
    /// Absent where the source cannot tell losses.
    pub(crate) lost: Option<u64>,
    /// Absent where so many sessions heard nothing that the percentile is no number.
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p95_ns: Option<u64>,
}

/// Percentiles of the evenings, without the prelude.
#[derive(Serialize)]
pub(crate) struct Curves {
    pub(crate) levels_per_10000: Vec<u32>,
    pub(crate) curves: Vec<Curve>,
}

/// One ISP, family and arm.
#[derive(Serialize)]
pub(crate) struct Curve {
    pub(crate) cohort: Cohort,
    pub(crate) sessions: u64,
    pub(crate) received: u64,
    /// One for each level as far as the packets reach; absent where sessions heard nothing.
    pub(crate) rtt_ns: Vec<Option<u64>>,
}

/// The evening window of an experiment: minutes of the day at which it starts and ends.
#[derive(Clone, Copy)]
pub(crate) struct Hours {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl Hours {
    /// `19:00-24:00`; `None` where it is not written so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (start, end) = text.split_once('-')?;
        let minutes = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            Some(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?)
        };
        let (start, mut end) = (minutes(start)?, minutes(end)?);
        if end <= start {
            end += 24 * 60;
        }
        Some(Self { start, end })
    }
}

#[derive(Default)]
struct Seen {
    live: SparseHistogram,
    mass: u64,
    sessions: u64,
    dead: u64,
    sent: u64,
    received: u64,
    lost: u64,
    losses_told: bool,
}

impl Seen {
    fn add(&mut self, bin: &SessionBin) {
        self.sent += bin.sent;
        self.received += bin.received;
        if !bin.loss_unmeasured {
            self.losses_told = true;
            self.lost += bin.lost;
        }
        if bin.dead || (bin.sent > 0 && bin.lost == bin.sent) {
            (self.sessions, self.dead) = (self.sessions + 1, self.dead + 1);
            return;
        }
        let Some(rtt) = bin.rtt.as_ref().filter(|rtt| !rtt.is_empty()) else { return };
        self.sessions += 1;
        let whole = rtt.count();
        let (mut seen, mut before) = (0, 0);
        for (value, count) in rtt.iter() {
            seen += count;
            let up_to = u64::try_from(u128::from(seen) * u128::from(WEIGHT) / u128::from(whole)).unwrap_or(WEIGHT);
            if up_to > before {
                self.live.record_n(value, up_to - before);
            }
            before = up_to;
        }
        self.mass += WEIGHT;
    }

    /// `None` where that many sessions heard nothing.
    fn quantile(&self, per_10000: u32) -> Option<u64> {
        let all = u128::from(self.mass) + u128::from(self.dead) * u128::from(WEIGHT);
        let rank = all * u128::from(per_10000) / 10_000;
        if rank > u128::from(self.mass) || self.mass == 0 {
            return None;
        }
        self.live.quantile(rank as f64 / self.mass as f64)
    }
}

/// Collects the bins of all runs.
pub(crate) struct Collector {
    zone: TimeZone,
    zone_name: String,
    hours: Option<Hours>,
    bin_s: BTreeMap<i64, u64>,
    cells: BTreeMap<(Cohort, String, i64), Seen>,
    whole: BTreeMap<Cohort, Seen>,
    /// By window: from when to when what bears its date was measured on another day.
    relabelled: BTreeMap<Date, (Zoned, Zoned)>,
    /// Bins without a window of their own that lie outside the evening.
    pub(crate) outside: u64,
}

impl Collector {
    pub(crate) fn new(zone: TimeZone, zone_name: String, hours: Option<Hours>) -> Self {
        let (bin_s, cells, whole, relabelled) = Default::default();
        Self { zone, zone_name, hours, bin_s, cells, whole, relabelled, outside: 0 }
    }

    /// Adds a bin; says whether it lies in a window.
    pub(crate) fn add(&mut self, cohort: Cohort, bin: &SessionBin) -> bool {
        let local = bin.start.to_zoned(self.zone.clone());
        let minute = i64::from(local.hour()) * 60 + i64::from(local.minute());
        let base = self.hours.map_or(0, |hours| hours.start);
        let offset = (minute - base).rem_euclid(24 * 60);
        let window = match (bin.window(), self.hours) {
            (Some(window), _) => window.to_string(),
            (None, Some(hours)) if offset >= hours.end - hours.start => {
                self.outside += 1;
                return false;
            }
            // An hour past midnight belongs to the date on which its evening began.
            (None, _) if minute < base => local.date().yesterday().unwrap_or(local.date()).to_string(),
            (None, _) => local.date().to_string(),
        };
        // The hours past midnight are of the day before.
        if let Ok(date) = window.parse::<Date>()
            && (local.date() - date).get_days().abs() > 1
        {
            let end = bin.end.to_zoned(self.zone.clone());
            let (from, to) = self.relabelled.entry(date).or_insert_with(|| (local.clone(), end.clone()));
            (*from, *to) = (local.clone().min(from.clone()), end.max(to.clone()));
        }
        let length = bin.end.duration_since(bin.start).as_secs().max(1);
        *self.bin_s.entry(length).or_default() += 1;
        if window != "aa" {
            self.whole.entry(cohort.clone()).or_default().add(bin);
        }
        self.cells.entry((cohort, window, offset)).or_default().add(bin);
        true
    }

    /// The heatmaps and the curves.
    pub(crate) fn finish(self) -> (Evenings, Curves) {
        let bin_s = self.bin_s.iter().max_by_key(|(_, count)| **count).map_or(600, |(length, _)| *length);
        let step = (bin_s / 60).max(1);
        let first = self.cells.keys().map(|(_, _, offset)| offset / step).min().unwrap_or(0);
        let last = self.cells.keys().map(|(_, _, offset)| offset / step).max().unwrap_or(-1).min(first + MOST_COLUMNS);
        let base = self.hours.map_or(0, |hours| hours.start);
        let columns = (first..=last).map(|column| {
            let minute = (base + column * step).rem_euclid(24 * 60);
            format!("{:02}:{:02}", minute / 60, minute % 60)
        });
        let rows = rows(self.cells.keys().map(|(_, window, _)| window.as_str()).collect());
        let columns: Vec<String> = columns.collect();
        let mut panels: Vec<Panel> = Vec::new();
        for ((cohort, window, offset), seen) in &self.cells {
            let column = usize::try_from(offset / step - first).unwrap_or(0);
            if column >= columns.len() {
                continue;
            }
            if panels.last().is_none_or(|panel| panel.cohort != *cohort) {
                panels.push(Panel { cohort: cohort.clone(), cells: Vec::new() });
            }
            let cell = Cell {
                row: rows.iter().position(|row| row == window).unwrap_or(0),
                column,
                sessions: seen.sessions,
                sent: seen.sent,
                lost: seen.losses_told.then_some(seen.lost),
                p50_ns: seen.quantile(5_000),
                p95_ns: seen.quantile(9_500),
            };
            panels.last_mut().expect("one was put there just now").cells.push(cell);
        }
        let curves = self.whole.into_iter().map(|(cohort, seen)| {
            let reached = |level: &&u32| u64::from(10_000 - **level) * seen.received >= BEYOND * 10_000;
            let rtt_ns = LEVELS.iter().filter(reached).map(|level| seen.quantile(*level)).collect();
            Curve { cohort, sessions: seen.sessions, received: seen.received, rtt_ns }
        });
        let curves = Curves { levels_per_10000: LEVELS.to_vec(), curves: curves.collect() };
        let time = |time: &Zoned| time.strftime("%Y-%m-%d %H:%M").to_string();
        let relabelled = self.relabelled.iter();
        let relabelled = relabelled
            .map(|(window, (from, to))| Relabelled { window: window.to_string(), from: time(from), to: time(to) })
            .collect();
        let evenings = Evenings { metric: "rtt.p95", zone: self.zone_name, bin_s, columns, rows, relabelled, panels };
        (evenings, curves)
    }
}

/// The prelude, then every date from the first to the last: one on which nobody measured has its row, an empty one.
fn rows(windows: BTreeSet<&str>) -> Vec<String> {
    let mut dates: BTreeSet<Date> = windows.iter().filter_map(|window| window.parse().ok()).collect();
    if let (Some(first), Some(last)) = (dates.first().copied(), dates.last().copied()) {
        dates.extend(first.series(Span::new().days(1)).take_while(|date| *date < last).take(MOST_ROWS));
    }
    let prelude = windows.contains("aa").then(|| "aa".to_owned());
    prelude.into_iter().chain(dates.iter().map(ToString::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(start: &str, milliseconds: u64, lost: u64) -> SessionBin {
        let start: jiff::Timestamp = start.parse().unwrap();
        SessionBin {
            session: "k7f3".to_owned(),
            start,
            end: start + jiff::SignedDuration::from_mins(10),
            sent: 20 + lost,
            received: 20,
            lost,
            rtt: Some([milliseconds * 1_000_000; 20].into_iter().collect()),
            ..SessionBin::default()
        }
    }

    fn collector(hours: &str) -> Collector {
        Collector::new(TimeZone::get("Asia/Tokyo").unwrap(), "Asia/Tokyo".to_owned(), Hours::parse(hours))
    }

    fn cohort() -> Cohort {
        Cohort { isp: "NTT".to_owned(), family: 4, arm: None }
    }

    #[test]
    fn an_hour_past_midnight_belongs_to_the_evening_before_and_what_nobody_measured_is_absent() {
        let mut collector = collector("19:00-26:00");
        // 19:00 and 01:00 in Tokyo, and noon, which is no evening.
        for start in ["2026-11-21T10:00:00Z", "2026-11-21T16:00:00Z", "2026-11-21T03:00:00Z"] {
            collector.add(cohort(), &bin(start, 30, 0));
        }
        assert_eq!(collector.outside, 1);
        let (evenings, _) = collector.finish();
        assert_eq!(evenings.rows, ["2026-11-21"]);
        assert_eq!(
            (evenings.columns.len(), evenings.columns[0].as_str(), evenings.columns[36].as_str()),
            (37, "19:00", "01:00")
        );
        assert_eq!(evenings.panels[0].cells.len(), 2);
    }

    #[test]
    fn a_date_that_is_a_label_is_said_to_be_one() {
        let mut collector = collector("19:00-26:00");
        let labelled = |start: &str, window: &str| SessionBin {
            labels: [("window".to_owned(), serde_json::json!(window))].into(),
            ..bin(start, 30, 0)
        };
        collector.add(cohort(), &labelled("2026-11-29T02:20:00Z", "2026-01-01"));
        collector.add(cohort(), &labelled("2026-11-29T02:40:00Z", "2026-01-02"));
        collector.add(cohort(), &labelled("2026-11-29T02:10:00Z", "aa"));
        // At half past midnight, of the evening before, by whatever rule: no label.
        collector.add(cohort(), &labelled("2026-11-28T15:30:00Z", "2026-11-28"));
        let (evenings, _) = collector.finish();
        let said = evenings.labels().unwrap();
        assert_eq!(
            said,
            "The dates 2026-01-01, 2026-01-02 are labels of windows, not of the clock: what stands under them was measured between 2026-11-29 11:20 and 2026-11-29 11:50 (Asia/Tokyo)."
        );
    }

    #[test]
    fn every_session_weighs_the_same_and_silence_is_the_slowest() {
        let mut seen = Seen::default();
        seen.add(&SessionBin {
            rtt: Some([90_000_000; 2000].into_iter().collect()),
            received: 2000,
            sent: 2000,
            ..bin("2026-11-21T10:00:00Z", 1, 0)
        });
        (0..9).for_each(|_| seen.add(&bin("2026-11-21T10:00:00Z", 30, 0)));
        assert_eq!(seen.quantile(5_000).map(|ns| ns / 1_000_000), Some(30));
        assert_eq!(seen.quantile(9_500).map(|ns| ns / 1_000_000), Some(90));
        seen.add(&SessionBin { sent: 5, received: 0, lost: 5, rtt: None, ..bin("2026-11-21T10:00:00Z", 1, 0) });
        assert_eq!((seen.sessions, seen.quantile(9_500)), (11, None));
    }
}
