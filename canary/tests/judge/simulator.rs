//! Made-up sessions whose truth is known: skewed levels, autocorrelated packets, spikes, bursts of loss, an evening hump, common stalls.

use jiff::{SignedDuration, Timestamp};
use pathlab_canary::{Experiment, Ingest, Ingested, KeyFrom};
use pathlab_record::{Labels, SessionBin, SessionKey, SparseHistogram};
use pathlab_stats::{Generator, generator};
use rand::RngExt;

pub(crate) const EVENINGS: [&str; 2] = ["2026-11-21", "2026-11-22"];

/// The assignment by client address and port.
pub(crate) fn bucket(seed: u32, key: &SessionKey) -> Option<u16> {
    pathlab_canary::bucket(seed, key, KeyFrom::ClientAddrPort)
}

/// What a session is, told to the effect.
pub(crate) struct Who<'a> {
    pub(crate) isp: &'a str,
    pub(crate) canary: bool,
    /// `aa` or a date.
    pub(crate) window: &'a str,
    /// Uniform from 0 to 1, the same in every window: picks out sessions for a treatment.
    pub(crate) lot: f64,
}

/// What a path does to a session.
#[derive(Clone, Copy, Default)]
pub(crate) struct Path {
    /// Added to every packet, in milliseconds.
    pub(crate) shift: f64,
    /// Every packet is multiplied by this plus one.
    pub(crate) factor: f64,
    /// A queue that all its sessions share: its least and most delay in milliseconds.
    pub(crate) queue: (f64, f64),
    /// Probability of loss.
    pub(crate) loss: f64,
}

pub(crate) const CONGESTED: Path = Path { shift: 0.0, factor: 0.0, queue: (20.0, 40.0), loss: 0.03 };
pub(crate) const CLEAR: Path = Path { shift: 0.0, factor: 0.0, queue: (0.0, 0.0), loss: 0.0 };

/// The demo's three variants: transit A congested (`better`), transit B congested (`worse`), or neither.
pub(crate) fn demo(variant: &str) -> impl Fn(&Who<'_>) -> Path {
    let (a, b) = match variant {
        "better" => (CONGESTED, CLEAR),
        "worse" => (CLEAR, CONGESTED),
        _ => (CLEAR, CLEAR),
    };
    move |who| if who.canary && who.window != "aa" { b } else { a }
}

/// A true improvement that promotes when nothing else is wrong.
pub(crate) fn improved(who: &Who<'_>) -> Path {
    if who.canary && who.window != "aa" { Path { shift: -12.0, ..CLEAR } } else { CLEAR }
}

/// The experiment, with a margin.
pub(crate) fn plan(margin: &str) -> Experiment {
    let text = include_str!("canary.toml").replace("\"2ms\"", &format!("\"{margin}\""));
    Experiment::from_toml("canary.toml", &text).unwrap()
}

/// How sessions scatter.
#[derive(Clone, Copy)]
pub(crate) struct World {
    /// Sessions of each ISP and family.
    pub(crate) sessions: [(&'static str, usize); 2],
    pub(crate) packets: usize,
    pub(crate) prelude_packets: usize,
    /// Median level in milliseconds and its sigma on the log scale.
    pub(crate) level: (f64, f64),
    /// Standard deviation of the AR(1) wander within a session, in milliseconds, and its coefficient.
    pub(crate) wander: (f64, f64),
    /// Probability and size in milliseconds of a spike.
    pub(crate) spikes: (f64, f64),
    /// Added at the middle of the evening, in milliseconds.
    pub(crate) hump: f64,
    /// Stalls that delay everything alike until they end: number in an evening, longest in milliseconds.
    pub(crate) stalls: (usize, f64),
    /// Length of an evening in milliseconds; the packets of a session are spread evenly over it, each session at its own phase.
    pub(crate) length: f64,
    /// Share of sessions with bursts of loss.
    pub(crate) lossy: f64,
    /// Whether the same sessions come back on the second evening.
    pub(crate) returning: bool,
    /// Whether each session lives in a bin of its own somewhere in the evening, placed by the clock, as players do.
    pub(crate) scattered: bool,
}

/// Bins of ten minutes in an evening of five hours.
const BINS: u64 = 30;

impl World {
    /// The demo: four cells of 650 sessions, milliseconds of path, a noisy machine.
    pub(crate) const DEMO: Self = Self {
        sessions: [("NTT", 650), ("KDDI", 650)],
        packets: 25,
        prelude_packets: 6,
        level: (0.3, 0.15),
        wander: (0.05, 0.5),
        spikes: (0.01, 2.0),
        hump: 0.0,
        stalls: (10, 50.0),
        length: 10_000.0,
        lossy: 0.0,
        returning: true,
        scattered: false,
    };

    /// Players on the internet: heavy between sessions, autocorrelated within.
    pub(crate) const PLAYERS: Self = Self {
        sessions: [("NTT", 650), ("KDDI", 650)],
        packets: 30,
        prelude_packets: 30,
        level: (40.0, 0.25),
        wander: (2.0, 0.8),
        spikes: (0.02, 30.0),
        hump: 8.0,
        stalls: (0, 0.0),
        length: 10_000.0,
        lossy: 0.02,
        returning: false,
        scattered: true,
    };

    /// One experiment: prelude and evenings, judged under `experiment` with assignment seed `seed`.
    pub(crate) fn play(
        &self,
        experiment: &Experiment,
        seed: u32,
        evenings: &[&str],
        path: impl Fn(&Who<'_>) -> Path,
    ) -> Ingested {
        let mut ingest = Ingest::new(experiment).unwrap();
        self.bins(experiment, seed, evenings, path, |number, bin| ingest.bin("simulated", number, bin));
        ingest.finish()
    }

    /// The same twice: as it stood after the first evening, and at the end.
    pub(crate) fn play_looks(
        &self,
        experiment: &Experiment,
        seed: u32,
        path: impl Fn(&Who<'_>) -> Path,
    ) -> [Ingested; 2] {
        let mut looks = [Ingest::new(experiment).unwrap(), Ingest::new(experiment).unwrap()];
        let last = *EVENINGS.last().unwrap();
        self.bins(experiment, seed, &EVENINGS, path, |number, bin| {
            let second = bin.start.to_string().starts_with(last) || bin.labels.get("window").is_some_and(|w| w == last);
            if !second {
                looks[0].bin("simulated", number, bin.clone());
            }
            looks[1].bin("simulated", number, bin);
        });
        looks.map(Ingest::finish)
    }

    /// The same as bins.
    pub(crate) fn bins(
        &self,
        experiment: &Experiment,
        seed: u32,
        evenings: &[&str],
        path: impl Fn(&Who<'_>) -> Path,
        mut put: impl FnMut(u64, SessionBin),
    ) {
        let share = experiment.experiment.share.buckets();
        let mut number = 0;
        for (place, window) in ["aa"].iter().chain(evenings).enumerate() {
            let packets = if place == 0 { self.prelude_packets } else { self.packets };
            let mut air = generator(u64::from(seed), "air", place as u64);
            let air = Air::new(self, &mut air);
            for (isp_number, (isp, sessions)) in self.sessions.iter().enumerate() {
                for family in [4, 6] {
                    for session in 0..*sessions {
                        let again = if self.returning { 0 } else { place };
                        let id = ((isp_number * 2 + family / 5) * 10 + again) as u64 * 1_000_000 + session as u64;
                        let mut rng = generator(u64::from(seed), "session", id);
                        let lot = rng.random();
                        let level = self.level.0 * (self.level.1 * gauss(&mut rng)).exp();
                        let lossy = rng.random_bool(self.lossy);
                        let mut rng = generator(u64::from(seed), "packets", id * 10 + place as u64);
                        let (group, port) = (id / 50_000 + 1, 1_024 + id % 50_000);
                        let address = match family {
                            4 => format!("10.{}.{}.{}:{port}", group >> 16, group >> 8 & 255, group & 255),
                            _ => format!("[2001:db8::{group:x}]:{port}"),
                        };
                        let key: SessionKey = address.parse().unwrap();
                        let canary = bucket(seed, &key).unwrap() < share;
                        let path = path(&Who { isp, canary, window, lot });
                        // A scattered session meets the hump of its own time of day.
                        let own = rng.random_range(0..BINS);
                        let span = match self.scattered {
                            true => (self.length * own as f64 / BINS as f64, self.length / BINS as f64),
                            false => (0.0, self.length),
                        };
                        let seen = self.session(&mut rng, level, lossy, &path, packets, &air, span);
                        let mut labels = Labels::new();
                        labels.insert("isp".into(), (*isp).into());
                        labels.insert("family".into(), family.into());
                        let date = if place == 0 { "2026-11-20" } else { window };
                        let mut start: Timestamp = format!("{date}T10:00:00Z").parse().unwrap();
                        if self.scattered {
                            start += SignedDuration::from_mins(10 * own as i64);
                        }
                        if place == 0 || !self.scattered {
                            labels.insert("window".into(), (*window).into());
                        }
                        number += 1;
                        put(
                            number,
                            SessionBin {
                                session: key.to_string(),
                                key: Some(key),
                                labels,
                                start,
                                end: start + SignedDuration::from_mins(10),
                                zone: "Asia/Tokyo".into(),
                                source: format!("probe-{window}"),
                                ..seen
                            },
                        );
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // all of what a session meets
    fn session(
        &self,
        rng: &mut Generator,
        level: f64,
        lossy: bool,
        path: &Path,
        packets: usize,
        air: &Air,
        (from, length): (f64, f64),
    ) -> SessionBin {
        let mut bin = SessionBin { sent: packets as u64, ..SessionBin::default() };
        let (mut rtt, mut ipdv) = (SparseHistogram::new(), SparseHistogram::new());
        let mut wander = gauss(rng);
        let mut before: Option<f64> = None;
        let mut burst = 0_usize;
        let interval = length / packets as f64;
        let phase = from + rng.random::<f64>() * interval;
        for packet in 0..packets {
            let at = phase + packet as f64 * interval;
            let (stall, queue) = (air.stall(at), air.queue(at));
            let phi = self.wander.1;
            wander = phi * wander + (1.0 - phi * phi).sqrt() * gauss(rng);
            let spike = if rng.random_bool(self.spikes.0) { self.spikes.1 * rng.random::<f64>() } else { 0.0 };
            let hump = self.hump * (std::f64::consts::PI * at / self.length).sin();
            let queue = path.queue.0 + (path.queue.1 - path.queue.0) * queue;
            let plain = level + self.wander.0 * wander + spike + hump;
            let value = (plain.max(0.05) * (1.0 + path.factor) + path.shift).max(0.02) + queue + stall;
            if lossy && rng.random_bool(0.02) {
                burst = 4;
            }
            if burst > 0 || rng.random_bool(path.loss) {
                burst = burst.saturating_sub(1);
                bin.lost += 1;
                before = None;
                continue;
            }
            rtt.record((value * 1e6) as u64);
            if let Some(before) = before {
                ipdv.record(((value - before).abs() * 1e6) as u64);
            }
            before = Some(value);
        }
        bin.received = bin.sent - bin.lost;
        bin.rtt = Some(rtt);
        bin.ipdv_round_trip = Some(ipdv);
        bin
    }
}

/// What all sessions meet at the same time.
struct Air {
    /// Start and end of each stall.
    stalls: Vec<(f64, f64)>,
    /// How full the shared queue is, 0 to 1, every 20 ms.
    queue: Vec<f64>,
}

impl Air {
    fn new(world: &World, rng: &mut Generator) -> Self {
        let mut stall = || {
            let start = world.length * rng.random::<f64>();
            (start, start + world.stalls.1 * rng.random::<f64>())
        };
        let stalls = (0..world.stalls.0).map(|_| stall()).collect();
        let mut level: f64 = 0.5;
        let queue = (0..=(world.length / 20.0) as usize).map(|_| {
            level = (level + 0.2 * gauss(rng)).clamp(0.0, 1.0);
            level
        });
        Self { stalls, queue: queue.collect() }
    }

    fn stall(&self, at: f64) -> f64 {
        self.stalls
            .iter()
            .filter(|(start, end)| (*start..*end).contains(&at))
            .map(|(_, end)| end - at)
            .fold(0.0, f64::max)
    }

    fn queue(&self, at: f64) -> f64 {
        self.queue[((at / 20.0) as usize).min(self.queue.len() - 1)]
    }
}

fn gauss(rng: &mut Generator) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
