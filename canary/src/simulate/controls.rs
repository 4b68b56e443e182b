//! Control sessions window by window: what experiments that could have been are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use jiff::civil::Date;
use pathlab_record::{Arm, SessionKey, SparseHistogram, Window};
use pathlab_stats::Generator;
use rand::RngExt;

use crate::{
    Error, Experiment, Ingested, KeyFrom, Metric, Series,
    ingest::{ByWindow, Pooled, Seen, Session},
    stratum::whole_of,
};

/// Microseconds from one drawn evening to the next.
const DAY: i64 = 24 * 3_600 * 1_000_000;

/// Sessions of one client where it is the client that is assigned, otherwise one session.
type Whole<'a> = Vec<(&'a Session, &'a Seen)>;

/// The control sessions of one window.
#[derive(Clone, Debug)]
struct Source<'a> {
    window: Window,
    /// First instant of its data, in microseconds.
    opens: i64,
    /// By cell of the ingest.
    cells: Vec<Vec<Whole<'a>>>,
}

/// Sessions that took today's path: all of an A/A prelude, and of evenings those that are not said to have been on the canary.
#[derive(Clone, Debug)]
pub struct Controls<'a> {
    ingested: &'a Ingested,
    sources: Vec<Source<'a>>,
    /// Sessions that are used.
    pub sessions: u64,
    /// Sessions on the canary, which are not.
    pub left_out: u64,
    /// Sessions of evenings whose lines do not name an arm: they are taken for control.
    pub unstated: u64,
}

/// What is drawn from the controls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw<'a> {
    /// Sessions of one evening, over all ISPs, as mixed as the controls are.
    pub(super) sessions: u64,
    pub(super) evenings: u32,
    /// By how many nanoseconds less every packet of a canary session of this ISP takes.
    pub(super) effect: (&'a str, u64),
}

impl<'a> Controls<'a> {
    /// The controls among what was read.
    ///
    /// # Errors
    /// [`Error::NoSession`] when there are none.
    pub fn new(experiment: &Experiment, ingested: &'a Ingested) -> Result<Self, Error> {
        let mut sources: BTreeMap<Window, (i64, Vec<BTreeMap<String, Whole<'a>>>)> = BTreeMap::new();
        let mut controls = Self { ingested, sources: Vec::new(), sessions: 0, left_out: 0, unstated: 0 };
        for session in &ingested.sessions {
            let evening = session.windows.keys().any(|window| *window != Window::Aa);
            controls.left_out += u64::from(evening && session.arm == Some(Arm::Canary));
            controls.unstated += u64::from(evening && session.arm.is_none());
            let mut used = false;
            for (window, seen) in &session.windows.0 {
                if *window != Window::Aa && session.arm == Some(Arm::Canary) {
                    continue;
                }
                used = true;
                let starts = session.bins.iter().filter(|(of, _)| of == window).map(|(_, bin)| bin.start);
                let none = || (i64::MAX, vec![BTreeMap::new(); ingested.cells.len()]);
                let (opens, cells) = sources.entry(*window).or_insert_with(none);
                *opens = starts.fold(*opens, i64::min);
                cells[usize::from(session.cell)]
                    .entry(whole_of(experiment, session).into_owned())
                    .or_default()
                    .push((session, seen));
            }
            controls.sessions += u64::from(used);
        }
        let source = |(window, (opens, cells)): (_, (_, Vec<BTreeMap<_, _>>))| Source {
            window,
            opens,
            cells: cells.into_iter().map(|cell| cell.into_values().collect()).collect(),
        };
        controls.sources = sources.into_iter().map(source).collect();
        if controls.sources.is_empty() {
            return Err(Error::NoSession { why: "no session took the control path".to_owned() });
        }
        Ok(controls)
    }

    /// ISPs by name.
    pub fn isps(&self) -> BTreeSet<&str> {
        self.ingested.cells.iter().map(|cell| cell.isp.as_str()).collect()
    }

    /// Sessions of an evening, the mean over the windows that there are: of one ISP, or of all.
    pub fn an_evening(&self, isp: Option<&str>) -> f64 {
        self.mix()
            .iter()
            .zip(&self.ingested.cells)
            .filter(|(_, cell)| isp.is_none_or(|isp| cell.isp == isp))
            .map(|(n, _)| n)
            .sum()
    }

    /// Sessions of each cell in a window, the mean over windows.
    pub(super) fn mix(&self) -> Vec<f64> {
        let sessions = |source: &Source<'_>, cell: usize| source.cells[cell].iter().map(Vec::len).sum::<usize>() as f64;
        let evenings = self.evenings();
        let mean = |cell| evenings.iter().map(|source| sessions(source, cell)).sum::<f64>() / evenings.len() as f64;
        (0..self.ingested.cells.len()).map(mean).collect()
    }

    /// The cells of an ISP.
    pub(super) fn cells_of(&self, isp: &str) -> Vec<usize> {
        (0..self.ingested.cells.len()).filter(|cell| self.ingested.cells[*cell].isp == isp).collect()
    }

    /// Evenings, or the prelude where there is nothing else.
    fn evenings(&self) -> Vec<&Source<'a>> {
        let evenings: Vec<_> = self.sources.iter().filter(|source| source.window != Window::Aa).collect();
        if evenings.is_empty() { self.sources.iter().collect() } else { evenings }
    }

    /// An experiment as it stands after each evening: a prelude, then evenings, each made of clients drawn with replacement from a window of the
    /// controls that is drawn itself, and assigned by a coin of the experiment's share.
    pub(super) fn drawn(&self, experiment: &Experiment, generator: &mut Generator, draw: Draw<'_>) -> Vec<Ingested> {
        let mix = self.mix();
        let whole: f64 = mix.iter().sum();
        let evenings = self.evenings();
        let mut out = self.empty();
        let mut stands = Vec::new();
        let mut number = 0_u64;
        for place in 0..=draw.evenings {
            let prelude = self.sources.iter().find(|source| source.window == Window::Aa && place == 0);
            let source = prelude.unwrap_or_else(|| evenings[generator.random_range(0..evenings.len())]);
            let window = if place == 0 { Window::Aa } else { evening(place) };
            let shift = i64::from(place) * DAY - source.opens;
            for (cell, mean) in mix.iter().enumerate() {
                let (wanted, pool) = ((draw.sessions as f64 * mean / whole).round() as usize, &source.cells[cell]);
                let mut taken = 0;
                while taken < wanted && !pool.is_empty() {
                    let drawn = &pool[generator.random_range(0..pool.len())];
                    let canary = generator.random_bool(experiment.experiment.share.fraction());
                    let client = IpAddr::from(Ipv6Addr::from(u128::from(number)));
                    for (session, seen) in drawn {
                        number += 1;
                        taken += 1;
                        let mut session = visit(session, seen, window, shift);
                        session.name = format!("{number:09}").into();
                        session.key =
                            (experiment.key.from == KeyFrom::ClientAddr).then(|| SessionKey((client, 1).into()));
                        session.arm = Some(if canary { Arm::Canary } else { Arm::Control });
                        let better = canary && place > 0 && self.ingested.cells[cell].isp == draw.effect.0;
                        if let (true, Metric::Quantile { series, .. }) = (better, experiment.policy.metric) {
                            faster(&mut session, series, draw.effect.1);
                        }
                        out.sessions.push(session);
                    }
                }
            }
            if place > 0 {
                stands.push(out.clone());
            }
        }
        stands
    }

    /// The controls as they are, arms left to be assigned, as they stood after each evening: the prelude, or else the first evening, then as many
    /// evenings as the policy takes. `by_key` keeps the keys, otherwise every session gets one that stands for its name.
    ///
    /// # Errors
    /// [`Error::NoSession`] when there are fewer windows than that.
    pub(super) fn as_they_are(&self, experiment: &Experiment, by_key: bool) -> Result<Vec<Ingested>, Error> {
        let wanted = experiment.windows.evenings as usize + 1;
        if self.sources.len() < wanted {
            let (seen, more) = (self.sources.len(), wanted - self.sources.len());
            let why = format!(
                "{seen} windows of control sessions, {wanted} wanted (a prelude and the policy's evenings): measure {more} more evenings with both arms on today's path"
            );
            return Err(Error::NoSession { why });
        }
        let mut sessions: BTreeMap<&str, Session> = BTreeMap::new();
        let mut stands = Vec::new();
        // Window::Aa sorts first.
        for (place, source) in self.sources.iter().take(wanted).enumerate() {
            let window = if place == 0 { Window::Aa } else { source.window };
            for (session, seen) in source.cells.iter().flatten().flatten() {
                let mut visit = visit(session, seen, window, 0);
                visit.bins.iter_mut().for_each(|(of, _)| *of = window);
                let known = sessions.entry(&session.name).or_insert_with(|| Session {
                    windows: ByWindow::default(),
                    bins: Vec::new(),
                    arm: None,
                    ..visit.clone()
                });
                known.windows.0.append(&mut visit.windows.0);
                known.bins.append(&mut visit.bins);
            }
            if place > 0 {
                let mut out = self.empty();
                out.sessions = sessions.values().cloned().collect();
                for (number, session) in out.sessions.iter_mut().enumerate().filter(|_| !by_key) {
                    let address = IpAddr::from(Ipv6Addr::from(number as u128));
                    session.key = Some(SessionKey((address, 1).into()));
                }
                stands.push(out);
            }
        }
        Ok(stands)
    }

    /// Whether every session has a key that `bucket` can hash.
    pub(super) fn has_keys(&self, bucket: impl Fn(u32, &SessionKey) -> Option<u16>) -> bool {
        let sessions = self.sources.iter().flat_map(|source| source.cells.iter().flatten().flatten());
        sessions.into_iter().all(|(session, _)| session.key.is_some_and(|key| bucket(0, &key).is_some()))
    }

    fn empty(&self) -> Ingested {
        Ingested {
            inputs: Vec::new(),
            cells: self.ingested.cells.clone(),
            sessions: Vec::new(),
            pooled: Pooled::new(),
            remarks: BTreeMap::new(),
            complaints: None,
            registrations: Vec::new(),
            judged_lines: 0,
            in_progress: None,
        }
    }
}

/// The date under which a drawn evening goes.
fn evening(place: u32) -> Window {
    let first = Date::constant(2000, 1, 1);
    Window::Evening(first.checked_add(jiff::Span::new().days(i64::from(place))).unwrap_or(first))
}

/// One session as it was in one window, `shift` microseconds later and under another window's name.
fn visit(session: &Session, seen: &Seen, window: Window, shift: i64) -> Session {
    let of = |known: &Seen| std::ptr::eq(known, seen);
    let own = session.windows.0.iter().find(|(_, known)| of(known)).map_or(window, |(own, _)| *own);
    let bins = session.bins.iter().filter(|(of, _)| *of == own);
    let bins = bins.map(|(_, bin)| {
        let mut bin = *bin;
        (bin.start, bin.end) = (bin.start + shift, bin.end + shift);
        (window, bin)
    });
    Session {
        name: session.name.clone(),
        key: session.key,
        cell: session.cell,
        arm: None,
        windows: ByWindow(vec![(window, Seen { share: None, ..seen.clone() })]),
        bins: bins.collect(),
    }
}

/// Takes `effect` nanoseconds off every packet.
fn faster(session: &mut Session, series: Series, effect: u64) {
    for (_, seen) in &mut session.windows.0 {
        let mut shifted = SparseHistogram::new();
        let before = &mut seen.series[series as usize];
        before.iter().for_each(|(value, count)| shifted.record_n(value.saturating_sub(effect), count));
        *before = shifted;
    }
    if series == Series::Rtt {
        for (_, bin) in &mut session.bins {
            let less = u32::try_from(effect / 1_000).unwrap_or(u32::MAX);
            bin.median =
                bin.median.and_then(|median| std::num::NonZeroU32::new(median.get().saturating_sub(less).max(1)));
        }
    }
}
