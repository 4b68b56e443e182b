//! The bootstrap interval against a known truth: skewed session levels, autocorrelated packets, spikes.
//!
//! `PATHLAB_EXPERIMENTS` sets the number of repetitions; the full 2,000 belong to the soak.

use pathlab_stats::{Confidence, Generator, Interval, Level, Pool, replicate, resample};
use rand::RngExt;

const PACKETS: usize = 30;
/// The canary is this much slower, in nanoseconds of the simulation.
const SHIFT: f64 = 5_000.0;

fn gauss(rng: &mut Generator) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A lognormal level, AR(1) packets, 2 % spikes.
fn session(rng: &mut Generator, shift: f64) -> impl Iterator<Item = (u64, u64)> {
    let level = 40_000.0 * (0.25 * gauss(rng)).exp() + shift;
    let mut wander = gauss(rng);
    (0..PACKETS).map(move |_| {
        wander = 0.8 * wander + 0.6 * gauss(rng);
        let spike = if rng.random_bool(0.02) { 30_000.0 * rng.random::<f64>() } else { 0.0 };
        ((level + 2_000.0 * wander + spike).max(100.0) as u64, 1)
    })
}

fn pool(rng: &mut Generator, sessions: usize, shift: f64) -> Pool {
    let mut pool = Pool::new(sessions);
    for unit in 0..sessions {
        pool.add(unit, session(rng, shift));
    }
    pool.sorted()
}

/// How often the 95 % interval of the mean difference of `strata` held the truth, and how often its 95 % one-sided upper limit did.
fn coverage(level: Level, sessions: [usize; 2], strata: usize, repetitions: usize) -> (f64, f64) {
    let held = replicate(
        11,
        "coverage",
        repetitions,
        2,
        || (),
        |rng, (), row| {
            let stratum = |rng: &mut Generator| [pool(rng, sessions[0], 0.0), pool(rng, sessions[1], SHIFT)];
            let strata: Vec<[Pool; 2]> = (0..strata).map(|_| stratum(rng)).collect();
            let units = sessions.map(|sessions| (0..sessions as u32).collect::<Vec<_>>());
            let mut weights = sessions.map(|sessions| vec![1; sessions]);
            let mut difference = |draw: &mut dyn FnMut(&mut [Vec<u32>; 2])| {
                let each = strata.iter().map(|[control, canary]| {
                    draw(&mut weights);
                    canary.quantile(level, &weights[1]).unwrap() - control.quantile(level, &weights[0]).unwrap()
                });
                each.sum::<f64>() / strata.len() as f64
            };
            let estimate = difference(&mut |_| ());
            let resampled: Vec<f64> = (0..1_000)
                .map(|_| {
                    difference(&mut |weights| {
                        units.iter().zip(weights).for_each(|(units, to)| resample(rng, units, to))
                    })
                })
                .collect();
            let interval = |confidence| Interval::percentile(estimate, resampled.iter().copied(), confidence);
            row[0] = f64::from(u8::from(interval(Confidence::P95).holds(SHIFT)));
            row[1] = f64::from(u8::from(interval(Confidence::P90).high >= SHIFT));
        },
    );
    let mean = |column| held.column(column).sum::<f64>() / repetitions as f64;
    (mean(0), mean(1))
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let repetitions = std::env::var("PATHLAB_EXPERIMENTS").map_or(150, |text| text.parse().unwrap());
    // Between 93 % and 97 %, and four standard deviations of what so many repetitions can show.
    let slack = 0.02 + 4.0 * (0.95_f64 * 0.05 / repetitions as f64).sqrt();
    for (level, sessions, strata) in
        [(Level::P50, [408, 72], 1), (Level::P95, [408, 72], 1), (Level::P95, [553, 97], 1), (Level::P95, [553, 97], 2)]
    {
        let (two_sided, _) = coverage(level, sessions, strata, repetitions);
        println!("{level}, {sessions:?} sessions in {strata} strata: {two_sided:.3} of {repetitions}");
        assert!((two_sided - 0.95).abs() <= slack, "{level} {sessions:?} {two_sided}");
    }
}

#[test]
fn a_one_sided_limit_of_p99_takes_299_sessions() {
    let repetitions = std::env::var("PATHLAB_EXPERIMENTS").map_or(60, |text| text.parse().unwrap());
    let (_, upper) = coverage(Level::P99, [1_700, 300], 1, repetitions);
    println!("p99, 300 canary sessions: {upper:.3} of {repetitions}");
    assert!(upper >= 0.90 - 4.0 * (0.1 * 0.9 / repetitions as f64).sqrt(), "{upper}");
}
