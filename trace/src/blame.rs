//! Where loss that persists to the destination begins, and how sure that is: a hidden Markov model along the path.
//!
//! What survives can only become less from hop to hop, so the state after each link is a level of survival that stays or drops. A hop's answers
//! are binomial at its level, or, as routers may answer seldom, at any rate below it: then they say almost nothing. A destination that is a
//! reflector answers all that reaches it. The forward-backward algorithm (L. R. Rabiner, Proc. IEEE 77 (1989)) gives the probability that the first
//! drop is at each link. A rate-limited router so explains itself: what lies behind it answers better. Whether there is loss at all and where it begins are
//! two questions: a router that left out three answers of 250 must not hide a link that loses a third, so a step far smaller than the loss at the
//! destination is not where that begins.

use statrs::function::{beta::beta_reg, factorial::ln_binomial};

/// Probes sent to a hop and answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many this host has sent.
    pub sent: u64,
    /// How many were answered in time.
    pub answered: u64,
}

/// The probabilities that the counts lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct Blame {
    /// That no link loses anything that matters.
    pub none: f64,
    /// By link, from the one to the first hop on: that the loss which the destination sees begins there. They sum to one.
    pub first: Vec<f64>,
}

/// Losses after which a level is told apart; the first is what a sound path may lose.
const LOSSES: [f64; 34] = [
    0.0002,
    0.003,
    0.006,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.065,
    0.08,
    0.1,
    0.125,
    0.15,
    0.175,
    0.2,
    0.23,
    0.26,
    0.3,
    0.34,
    0.38,
    0.42,
    0.46,
    0.5,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.85,
    0.9,
    0.96,
    1.0 - 1e-6,
];
const LEVELS: usize = LOSSES.len();
/// How many times less than the destination loses is no beginning of that loss.
const SLIGHT: f64 = 10.0;
/// Probability beforehand that a link drops the level.
const DROP: f64 = 0.002;
/// Probability beforehand that a router answers less often than it is asked.
const SELDOM: f64 = 0.01;

/// Weighs the counts of the hops in order, the destination's last; `reflector` says that the destination answers whatever reaches it.
pub fn blame(path: &[Count], reflector: bool) -> Blame {
    let links = path.len();
    let evidence: Vec<[f64; LEVELS]> = path
        .iter()
        .enumerate()
        .map(|(hop, count)| weights(*count, if reflector && hop + 1 == links { 0.0 } else { SELDOM }))
        .collect();
    // From the end: how well what follows a hop fits, by the level there.
    let mut after = vec![[1.0; LEVELS]; links + 1];
    for hop in (0..links).rev() {
        let fits: [f64; LEVELS] = std::array::from_fn(|level| evidence[hop][level] * after[hop + 1][level]);
        after[hop] = scaled(std::array::from_fn(|level| {
            stay(level) * fits[level] + drop_to(level) * fits[level + 1..].iter().sum::<f64>()
        }));
    }
    let fits = |hop: usize| std::array::from_fn(|level| evidence[hop][level] * after[hop + 1][level]);
    let (none, _) = first_drop(links, 1, fits);
    let lost = path.last().map_or(0.0, |end| 1.0 - end.answered as f64 / end.sent.max(1) as f64);
    let sound = LOSSES.iter().filter(|loss| **loss <= lost / SLIGHT).count().max(1);
    let (_, first) = first_drop(links, sound, fits);
    let all: f64 = first.iter().sum();
    let first = first.into_iter().map(|first| if all > 0.0 { first / all } else { 1.0 / links as f64 }).collect();
    Blame { none, first }
}

/// The probabilities that no link leaves the first `sound` levels, and that the first to do so is each; by how well level and all that follows fit a hop.
fn first_drop(links: usize, sound: usize, fits: impl Fn(usize) -> [f64; LEVELS]) -> (f64, Vec<f64>) {
    // Where within the sound levels the path is, by all the evidence; it begins at the best.
    let mut within = [0.0; LEVELS];
    within[0] = 1.0;
    let (mut none, mut first) = (1.0, Vec::with_capacity(links));
    for hop in 0..links {
        let fits = fits(hop);
        let mut next = [0.0; LEVELS];
        for from in (0..sound).filter(|from| within[*from] > 0.0) {
            let step = |to: usize| (if to == from { stay(from) } else { drop_to(from) }) * fits[to];
            let all: f64 = (from..LEVELS).map(step).sum();
            (from..LEVELS).filter(|_| all > 0.0).for_each(|to| next[to] += within[from] * step(to) / all);
        }
        let stays: f64 = next[..sound].iter().sum();
        first.push(none * next[sound..].iter().sum::<f64>());
        none *= stays;
        within = std::array::from_fn(|level| if level < sound && stays > 0.0 { next[level] / stays } else { 0.0 });
    }
    (none, first)
}

fn stay(level: usize) -> f64 {
    if level + 1 == LEVELS { 1.0 } else { 1.0 - DROP }
}

/// Probability of a drop to one given level below.
fn drop_to(level: usize) -> f64 {
    if level + 1 == LEVELS { 0.0 } else { DROP / (LEVELS - 1 - level) as f64 }
}

/// How well a count fits each level, up to a factor: 1 at best.
fn weights(Count { sent, answered }: Count, seldom: f64) -> [f64; LEVELS] {
    let answered = answered.min(sent);
    let (n, k) = (sent as f64, answered as f64);
    let ways = ln_binomial(sent, answered);
    let at = |loss: f64| {
        let full = (ways + k * (1.0 - loss).ln() + (n - k) * loss.ln()).exp();
        // The binomial averaged over all rates up to the level.
        let below = beta_reg(k + 1.0, n - k + 1.0, 1.0 - loss) / ((n + 1.0) * (1.0 - loss));
        (1.0 - seldom) * full + seldom * below
    };
    scaled(LOSSES.map(at))
}

fn scaled(weights: [f64; LEVELS]) -> [f64; LEVELS] {
    let most = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    // Never nothing at all: an impossible path would leave no answer.
    weights.map(|weight| (weight / most).max(1e-200))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(answered: &[u64]) -> Vec<Count> {
        answered.iter().map(|answered| Count { sent: 100, answered: *answered }).collect()
    }

    fn most(blame: &Blame) -> (usize, f64) {
        let best = blame.first.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a link");
        (best.0 + 1, *best.1)
    }

    #[test]
    fn the_first_step_that_persists_is_blamed() {
        let (link, sure) = most(&blame(&path(&[100, 100, 70, 72, 69, 70]), true));
        assert_eq!(link, 3);
        assert!(sure > 0.99, "{sure}");
        let (link, sure) = most(&blame(&path(&[100, 80, 81, 40, 41]), true));
        assert!(link == 2 && sure > 0.95, "{link} {sure}");
    }

    #[test]
    fn a_router_that_answers_seldom_is_no_loss() {
        for limited in 0..5 {
            let mut answered = [100; 6];
            answered[limited] = 11;
            assert!(blame(&path(&answered), true).none > 0.99, "{limited}");
        }
        // And hides where the loss begins: two links share the blame.
        let blame = blame(&path(&[100, 100, 11, 70]), true);
        assert!(blame.first[2] + blame.first[3] > 0.99 && blame.first[3] > 0.1 && blame.first[2] > 0.1, "{blame:?}");
    }

    /// As measured in namespaces: a first router with the kernel's limit of all its ICMP, which left out 4 of 250.
    #[test]
    fn a_few_answers_left_out_do_not_hide_the_link() {
        let counts = |answered: [u64; 4]| answered.map(|answered| Count { sent: 250, answered });
        for (answered, link) in [([247, 250, 181, 175], 3), ([246, 250, 168, 176], 3), ([246, 250, 249, 161], 4)] {
            let blame = blame(&counts(answered), true);
            let (named, sure) = most(&blame);
            assert!(named == link && sure > 0.97 && blame.none < 1e-6, "{answered:?}: {blame:?}");
        }
        // What is left out by a router before a sound path is no loss, and a small loss is told where it is all there is.
        assert!(blame(&counts([246, 250, 250, 250]), true).none > 0.99);
        let (named, sure) = most(&blame(&counts([250, 243, 244, 242]), true));
        assert!(named == 2 && sure > 0.9, "{named} {sure}");
    }

    #[test]
    fn the_probabilities_sum_to_one_and_silence_says_nothing() {
        let silent = [Count { sent: 100, answered: 0 }; 3];
        for path in [path(&[100, 3, 50]), path(&[0, 0, 0]), path(&[50, 100, 99]), silent.to_vec(), Vec::new()] {
            let blame = blame(&path, true);
            let sum = blame.first.iter().sum::<f64>();
            assert!(path.is_empty() || (sum - 1.0).abs() < 1e-9, "{path:?} {blame:?}");
            assert!((0.0..=1.0).contains(&blame.none), "{path:?} {blame:?}");
        }
        let unasked = blame(&[Count::default(); 4], false);
        assert!(unasked.none > 0.9);
    }
}
