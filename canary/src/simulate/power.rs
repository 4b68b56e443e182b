//! How many sessions an evening, or how many evenings, it takes until the whole policy promotes a true improvement often enough.
//!
//! A policy of many checks has no formula, so experiments are drawn from the controls and judged. Their promotions at a handful of sizes are fitted by a
//! probit in the square root of the size (D. J. Finney, *Probit Analysis*, 1971), and the size is where the fit reaches the wanted power.

use pathlab_stats::{Confidence, Interval, Probit, Rate, replicate, wilson};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Controls, controls::Draw, outcome};
use crate::{Arms, Decision, Error, Experiment, findings::Number};

/// Most experiments of one step of the first search.
const ROUGH: u32 = 24;
/// By how much each of its steps is larger.
const STEP: f64 = 1.6;
/// Rounds of the second search.
const ROUNDS: u64 = 4;

/// What is to be seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// The true improvement in nanoseconds.
    pub effect: u64,
    /// The probability to promote, 0 to 1.
    pub power: f64,
}

/// How much is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Experiments in the last run of a size; as many again find it.
    pub experiments: u32,
    /// Most sessions of an evening that are tried, over all ISPs.
    pub sessions: u64,
    /// Most evenings that are tried at today's number of sessions.
    pub evenings: u32,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// What one ISP takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sized {
    /// The ISP in which the improvement is claimed.
    pub isp: String,
    /// Its sessions of an evening, by arm, with the policy's evenings; none where the most that was tried is too few.
    pub sessions: Option<Arms<u64>>,
    /// Sessions of an evening over all ISPs at that size, or the most that was tried.
    pub all: u64,
    /// Share of the last experiments that were promoted there, with limits of 95 %.
    pub power: Interval,
    /// Those experiments.
    pub experiments: u32,
    /// Its sessions of an evening today.
    pub today: u64,
    /// Evenings that are needed at today's number; none where the most that was tried does not do.
    pub evenings: Option<u32>,
    /// Share promoted today, with the policy's evenings.
    pub power_today: Interval,
}

impl Serialize for Sized {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let limits = |rate: Interval| [Number(rate.estimate), Number(rate.low), Number(rate.high)];
        let mut out = to.serialize_struct("Sized", 8)?;
        out.serialize_field("isp", &self.isp)?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("all_isps", &self.all)?;
        out.serialize_field("power", &limits(self.power))?;
        out.serialize_field("experiments", &self.experiments)?;
        out.serialize_field("today", &self.today)?;
        out.serialize_field("evenings", &self.evenings)?;
        out.serialize_field("power_today", &limits(self.power_today))?;
        out.end()
    }
}

/// Sizes the policy for an improvement in one ISP while the others stay as they are. `told` hears of every step.
///
/// # Errors
/// [`Error::NoSession`] when the controls have no such ISP.
pub fn power(
    experiment: &Experiment,
    controls: &Controls<'_>,
    isp: &str,
    wanted: Wanted,
    effort: Effort,
    mut told: impl FnMut(&str),
) -> Result<Sized, Error> {
    let cells = controls.cells_of(isp);
    let mix = controls.mix();
    let fewest = cells.iter().map(|cell| mix[*cell]).filter(|sessions| *sessions > 0.0).reduce(f64::min);
    let Some(fewest) = fewest else {
        return Err(Error::NoSession { why: format!("no control session of {isp}") });
    };
    let mut experiment = experiment.clone();
    experiment.policy.target.isp = vec![isp.to_owned()];
    let (own, all) = (controls.an_evening(Some(isp)), controls.an_evening(None));
    let mut run = Run { experiment, controls, isp, effect: wanted.effect, seed: effort.seed, points: Vec::new() };
    let planned = run.experiment.windows.evenings;

    // Below what the policy's minimum takes there is nothing to look for.
    let minimum = f64::from(crate::judge::minimum(&run.experiment)) / run.experiment.experiment.share.fraction();
    let mut size = (1.1 * minimum * all / fewest).min(effort.sessions as f64);
    let rough = effort.experiments.min(ROUGH);
    loop {
        told(&format!("{isp}: {size:.0} sessions an evening"));
        let promoted = run.at(size, rough)?;
        if f64::from(promoted) >= wanted.power * f64::from(rough) || size >= effort.sessions as f64 {
            break;
        }
        size = (size * STEP).min(effort.sessions as f64);
    }
    for _ in 0..ROUNDS {
        let Some(next) = run.fitted(wanted.power) else { break };
        size = next.clamp(size / STEP, size * STEP).min(effort.sessions as f64);
        told(&format!("{isp}: {size:.0} sessions an evening"));
        run.at(size, effort.experiments.div_ceil(ROUNDS as u32))?;
    }
    size = run.fitted(wanted.power).unwrap_or(size).clamp(size / STEP, size * STEP).min(effort.sessions as f64).ceil();
    told(&format!("{isp}: {size:.0} sessions an evening, the last run"));
    let promoted = run.at(size, effort.experiments)?;
    // What the last run knows counts as well, but it does not make the size smaller.
    let power = rate(promoted, effort.experiments);
    size = run.fitted(wanted.power).unwrap_or(size).clamp(size, size * STEP).ceil();
    let enough = size <= effort.sessions as f64 && power.high >= wanted.power;
    let of_isp = size * own / all;
    let canary = (of_isp * run.experiment.experiment.share.fraction()).ceil();

    let few = effort.experiments.div_ceil(2);
    let today = run.with_evenings(all, planned, few)?;
    let mut evenings = (today.estimate >= wanted.power).then_some(planned);
    let mut before = today.estimate;
    for more in planned + 1..=effort.evenings {
        if evenings.is_some() {
            break;
        }
        told(&format!("{isp}: {more} evenings at today's {all:.0} sessions"));
        let power = run.with_evenings(all, more, few)?.estimate;
        evenings = (power >= wanted.power).then_some(more);
        // Every evening must agree, so that where one says too little, more of them say no more.
        if power == 0.0 && before == 0.0 {
            break;
        }
        before = power;
    }
    Ok(Sized {
        isp: isp.to_owned(),
        sessions: enough.then_some(Arms { control: (of_isp - canary).ceil() as u64, canary: canary as u64 }),
        all: size as u64,
        power,
        experiments: effort.experiments,
        today: own.round() as u64,
        evenings,
        power_today: today,
    })
}

/// One search: what was tried, and what came of it.
struct Run<'a> {
    experiment: Experiment,
    controls: &'a Controls<'a>,
    isp: &'a str,
    effect: u64,
    seed: u64,
    /// Root of the size, promoted, experiments.
    points: Vec<(f64, u32, u32)>,
}

impl Run<'_> {
    /// Experiments of this size that were promoted, with the policy's evenings.
    fn at(&mut self, size: f64, experiments: u32) -> Result<u32, Error> {
        let evenings = self.experiment.windows.evenings;
        // Every step draws experiments of its own.
        let purpose = format!("power {}", self.points.len());
        let promoted = self.promoted(&self.experiment, &purpose, size, evenings, experiments)?;
        self.points.push((size.sqrt(), promoted, experiments));
        Ok(promoted)
    }

    /// The share that is promoted with another number of evenings.
    fn with_evenings(&self, size: f64, evenings: u32, experiments: u32) -> Result<Interval, Error> {
        let mut experiment = self.experiment.clone();
        experiment.windows.evenings = evenings;
        if evenings != self.experiment.windows.evenings {
            experiment.policy.looks = Vec::new();
        }
        let purpose = format!("evenings {evenings}");
        Ok(rate(self.promoted(&experiment, &purpose, size, evenings, experiments)?, experiments))
    }

    fn promoted(
        &self,
        experiment: &Experiment,
        purpose: &str,
        size: f64,
        evenings: u32,
        experiments: u32,
    ) -> Result<u32, Error> {
        let draw = Draw { sessions: size.round() as u64, evenings, effect: (self.isp, self.effect) };
        let rows = replicate(
            self.seed,
            purpose,
            experiments as usize,
            1,
            || (),
            |generator, (), row| {
                let stands = self.controls.drawn(experiment, generator, draw);
                let decision = outcome(experiment, rand::RngExt::random(generator), &stands, |_, _| None);
                row[0] = match decision {
                    Ok(decision) => f64::from(u8::from(decision == Decision::Promote)),
                    Err(_) => f64::NAN,
                };
            },
        );
        let promoted: f64 = rows.column(0).sum();
        if promoted.is_nan() {
            return Err(Error::NoSession { why: format!("an evening of {size:.0} sessions has none") });
        }
        Ok(promoted as u32)
    }

    /// The size at which the fit reaches a power.
    fn fitted(&self, power: f64) -> Option<f64> {
        Some(Probit::fit(&self.points)?.reaches(power)?.max(0.0).powi(2))
    }
}

fn rate(promoted: u32, experiments: u32) -> Interval {
    let trials = f64::from(experiments);
    wilson(Rate { rate: f64::from(promoted) / trials, trials }, Confidence::P95)
}
