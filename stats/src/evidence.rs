//! Evidence that may be looked at after every session: an e-process, whose chance of ever reaching 1/α without cause is at most α.
//!
//! Sessions to which something bad happened are taken in the order in which it happened. If the path makes no difference, each is on the canary
//! with the probability with which it was assigned there, whatever the skew of the data. The likelihood ratio against odds that are some times
//! higher is a martingale; the mean over several such odds is one too (J. Ville 1939; A. Ramdas et al., "Game-Theoretic Statistics
//! and Safe Anytime-Valid Inference", Statist. Sci. 38 (2023)).

/// How many times the odds of the canary may be raised; each alternative has the same weight.
const ODDS: [f64; 6] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0];

/// Evidence that bad things come to the canary more often than its share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Natural logarithm of the likelihood ratio against each of [`ODDS`].
    logs: [f64; ODDS.len()],
}

impl Default for Evidence {
    fn default() -> Self {
        Self { logs: [0.0; ODDS.len()] }
    }
}

impl Evidence {
    /// No evidence: 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one bad event of a session that was assigned to the canary with probability `share`, between 0 and 1, exclusive.
    pub fn push(&mut self, canary: bool, share: f64) {
        for (log, odds) in self.logs.iter_mut().zip(ODDS) {
            let raised = odds * share / (1.0 - share + odds * share);
            *log += if canary { (raised / share).ln() } else { ((1.0 - raised) / (1.0 - share)).ln() };
        }
    }

    /// How many to one the events speak against chance.
    pub fn value(&self) -> f64 {
        self.logs.iter().map(|log| log.exp()).sum::<f64>() / ODDS.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::generator;

    #[test]
    fn it_is_rarely_wrong_however_often_it_is_looked_at() {
        // 4,000 experiments, 400 looks each: at most 5 % may ever reach 20; 241 would be 3 standard deviations above.
        let wrong = (0..4_000)
            .filter(|&experiment| {
                let mut rng = generator(experiment, "evidence", 0);
                let mut evidence = Evidence::new();
                (0..400).any(|_| {
                    evidence.push(rng.random_bool(0.15), 0.15);
                    evidence.value() >= 20.0
                })
            })
            .count();
        assert!((40..=241).contains(&wrong), "{wrong}");
    }

    #[test]
    fn it_grows_where_the_canary_suffers_and_shrinks_where_it_does_not() {
        let mut evidence = Evidence::new();
        (0..8).for_each(|_| evidence.push(true, 0.15));
        assert!(evidence.value() > 50_000.0, "{}", evidence.value());
        let mut evidence = Evidence::new();
        (0..100).for_each(|_| evidence.push(false, 0.15));
        assert!(evidence.value() < 0.01);
    }
}
