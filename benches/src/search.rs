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

/// Rates are halved on a logarithmic scale. A rate that fails, or that the generator falls short of, is tried once more, because on a shared host one
/// stolen slice of time makes a loss that is nobody's: for a rate to fail, two trials must.
///
/// # Errors
/// The first trial that cannot be made.
pub fn no_loss(criterion: &Criterion, mut trial: impl FnMut(f64) -> Result<Trial>) -> Result<Held> {
    /// A generator that falls so far short of the rate asked cannot go higher.
    const SHORT: f64 = 0.95;
    let mut held = |rate: f64| -> Result<Option<Trial>> {
        let mut short = None;
        for _ in 0..2 {
            let trial = trial(rate)?;
            if trial.lost <= criterion.loss {
                if trial.offered >= rate * SHORT {
                    return Ok(Some(trial));
                }
                short = Some(trial);
            }
        }
        Ok(short)
    };
    let mut best = None;
    let (mut low, mut high) = (criterion.from, criterion.to);
    // first the generator's own limit: who holds it needs no search
    let mut rate = high;
    loop {
        match held(rate)? {
            Some(trial) => {
                if rate >= criterion.to || trial.offered < rate * SHORT {
                    return Ok(Held::AtLeast(trial.offered));
                }
                (low, best) = (rate, Some(trial.offered));
            }
            None if rate <= criterion.from => return Ok(Held::Nothing),
            None => high = rate,
        }
        if high <= low * (1.0 + criterion.precision) {
            break;
        }
        rate = (low * high).sqrt();
    }
    match best {
        Some(offered) => Ok(Held::UpTo(offered)),
        // everything above the lowest rate failed: the lowest itself is left
        None => Ok(held(criterion.from)?.map_or(Held::Nothing, |trial| Held::UpTo(trial.offered))),
    }
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
