//! The highest rate that is held: a search over trials, each of which says what was really offered and whether all of it came back.

use anyhow::Result;

/// One trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Packets a second that really left.
    pub offered: f64,
    /// Share of them that did not come back, 0 to 1.
    pub lost: f64,
}

/// What counts as held, and how closely it is sought.
#[derive(Clone, Copy, Debug)]
pub struct Criterion {
    /// The most that may be lost, 0 to 1.
    pub loss: f64,
    /// Below this rate there is nothing to find.
    pub from: f64,
    /// Above this one the generator cannot go.
    pub to: f64,
    /// The search ends when the next rate above what was held is at most so much higher, as a share of it.
    pub precision: f64,
}

/// Where a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Held {
    /// That rate was held and a slightly higher one was not.
    UpTo(f64),
    /// The generator ended before the loss began: the rate is at least this.
    AtLeast(f64),
    /// Not even the lowest rate.
    Nothing,
}

/// Rates are halved on a logarithmic scale. On a shared host a stolen slice of time makes a loss that is nobody's and lets the generator fall short: for a rate
/// to fail, two trials must, and a trial that fell short is made again. One that stays short lost nothing at what it offered, so that the search goes
/// on above it. What is returned was offered and came back.
///
/// # Errors
/// The first trial that cannot be made.
pub fn no_loss(criterion: &Criterion, mut trial: impl FnMut(f64) -> Result<Trial>) -> Result<Held> {
    const TRIALS: usize = 4;
    const FAILURES: usize = 2;
    const SHORT: f64 = 0.95;
    // what was offered when nothing was lost; `None` when two trials lost
    let mut held = |rate: f64| -> Result<Option<f64>> {
        let (mut most, mut failures) = (None::<f64>, 0);
        for _ in 0..TRIALS {
            let Trial { offered, lost } = trial(rate)?;
            if lost > criterion.loss {
                failures += 1;
                if failures == FAILURES {
                    return Ok(None);
                }
            } else {
                most = Some(most.map_or(offered, |most| most.max(offered)));
                if offered >= rate * SHORT {
                    break;
                }
            }
        }
        Ok(most)
    };
    // first the generator's own limit: who holds it needs no search
    if let Some(offered) = held(criterion.to)? {
        return Ok(Held::AtLeast(offered));
    }
    let (mut low, mut high) = (criterion.from, criterion.to);
    let mut best = None::<f64>;
    while high > low * (1.0 + criterion.precision) {
        let rate = (low * high).sqrt();
        match held(rate)? {
            Some(offered) => (low, best) = (rate, Some(best.map_or(offered, |best| best.max(offered)))),
            None => high = rate,
        }
    }
    // where everything above the lowest rate failed, the lowest itself is left
    let found = if best.is_some() { best } else { held(criterion.from)? };
    Ok(found.map_or(Held::Nothing, Held::UpTo))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRITERION: Criterion = Criterion { loss: 0.0, from: 1e4, to: 1e6, precision: 0.02 };

    /// Holds `limit`; the generator goes up to `generator`.
    fn machine(limit: f64, generator: f64) -> impl FnMut(f64) -> Result<Trial> {
        move |rate| {
            let offered = rate.min(generator);
            Ok(Trial { offered, lost: (1.0 - limit / offered).max(0.0) })
        }
    }

    #[test]
    fn the_limit_is_found_from_below_within_the_precision() {
        for limit in [10_500.0, 77_000.0, 500_000.0, 970_000.0] {
            let Held::UpTo(rate) = no_loss(&CRITERION, machine(limit, 2e6)).expect("trials") else { panic!("{limit}") };
            assert!(rate <= limit && rate * 1.021 >= limit, "{rate} for {limit}");
        }
    }

    #[test]
    fn the_generators_limit_is_told_apart() {
        assert_eq!(no_loss(&CRITERION, machine(5e6, 7e5)).expect("trials"), Held::AtLeast(7e5));
        assert_eq!(no_loss(&CRITERION, machine(5e3, 2e6)).expect("trials"), Held::Nothing);
    }

    #[test]
    fn a_generator_that_is_held_up_now_and_then_is_no_limit() {
        let mut trials = 0;
        let held_up = |rate: f64| {
            trials += 1;
            let offered = if trials % 3 == 0 { rate } else { rate / 2.0 };
            Ok(Trial { offered, lost: (1.0 - 300_000.0 / offered).max(0.0) })
        };
        let criterion = Criterion { to: 1.2e6, ..CRITERION };
        let Held::UpTo(rate) = no_loss(&criterion, held_up).expect("trials") else { panic!("found") };
        assert!(rate <= 300_000.0 && rate > 200_000.0, "{rate}");
    }

    #[test]
    fn one_disturbed_trial_fails_no_rate() {
        let mut machine = machine(300_000.0, 2e6);
        let mut trials = 0;
        let disturbed = |rate| {
            trials += 1;
            let trial = machine(rate)?;
            Ok(if trials % 2 == 1 { Trial { lost: 0.5, ..trial } } else { trial })
        };
        let Held::UpTo(rate) = no_loss(&CRITERION, disturbed).expect("trials") else { panic!("found") };
        assert!(rate <= 300_000.0 && rate * 1.021 >= 300_000.0, "{rate}");
    }
}
