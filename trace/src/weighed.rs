//! What was counted along one path, by one flow or by several together, and what follows from it.

use std::net::IpAddr;

use statrs::function::gamma::gamma_ur;

use crate::{
    Direction, Verdict,
    blame::{Blame, Count, blame},
    report::Share,
    verdict::{Seen, judge},
};

/// Counts along a path.
#[derive(Clone, Debug)]
pub(crate) struct Weighed {
    /// By hop, the destination last.
    pub(crate) path: Vec<Count>,
    /// Who answers there most often.
    pub(crate) addresses: Vec<Option<IpAddr>>,
    /// The destination answers whatever reaches it.
    pub(crate) reflects: bool,
    /// Packets lost on the way there and back, by the reflector's count.
    pub(crate) legs: Option<(u64, u64)>,
    /// The path changed too often to be one.
    pub(crate) unstable: bool,
    /// This host's own link does not take packets of that length.
    pub(crate) too_long: bool,
}

impl Weighed {
    /// Whether a hop answers less often than it is asked: what lies behind it answers better.
    pub(crate) fn seldom(&self, hop: usize) -> bool {
        let behind = self.path[hop + 1..].iter().map(|count| share(*count).high).fold(1.0, f64::min);
        self.path[hop].answered > 0 && share(self.path[hop]).low > behind
    }

    /// What is to be said of it.
    pub(crate) fn verdict(&self) -> Verdict {
        self.judged(self.direction())
    }

    /// The same where the direction is known.
    pub(crate) fn judged(&self, direction: Direction) -> Verdict {
        let blame: Blame = blame(&self.path, self.reflects);
        let telling: Vec<bool> =
            (0..self.path.len()).map(|hop| self.path[hop].answered > 0 && !self.seldom(hop)).collect();
        judge(&Seen {
            addresses: &self.addresses,
            telling: &telling,
            blame: &blame,
            destination: self.destination(),
            direction,
            unstable: self.unstable,
            too_long: self.too_long,
        })
    }

    pub(crate) fn destination(&self) -> Count {
        self.path.last().copied().unwrap_or_default()
    }

    fn direction(&self) -> Direction {
        match self.legs {
            None | Some((0, 0)) => Direction::Unknown,
            // A tenth is what a chance loss elsewhere may be.
            Some((there, back)) if back * 10 <= there => Direction::Forward,
            Some((there, back)) if there * 10 <= back => Direction::Return,
            Some(_) => Direction::Both,
        }
    }

    /// Whether both went by the same routers, as far as those say.
    pub(crate) fn shares_path(&self, other: &Self) -> bool {
        !self.unstable && !other.unstable && (&self.addresses, self.reflects) == (&other.addresses, other.reflects)
    }

    /// The counts of several flows as if they were of one.
    pub(crate) fn together<'a>(flows: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        flows.into_iter().cloned().reduce(|mut sum, flow| {
            for (sum, count) in sum.path.iter_mut().zip(&flow.path) {
                *sum = Count { sent: sum.sent + count.sent, answered: sum.answered + count.answered };
            }
            sum.legs = sum.legs.zip(flow.legs).map(|((there, back), (t, b))| (there + t, back + b));
            sum
        })
    }
}

/// Odds against chance at which flows through the same addresses are taken to have different links.
const DIFFERENT: f64 = 0.001;

/// Whether the shares lost differ by no more than chance: Pearson's chi-squared test of homogeneity. Flows through the same addresses may still take
/// different members of a bundle, or meet a policer of their own.
pub(crate) fn agree(ends: &[Count]) -> bool {
    let sent: u64 = ends.iter().map(|end| end.sent).sum();
    let lost: u64 = ends.iter().map(|end| end.sent - end.answered).sum();
    if ends.len() < 2 || lost == 0 || lost == sent {
        return true;
    }
    let share = lost as f64 / sent as f64;
    let statistic: f64 = ends
        .iter()
        .filter(|end| end.sent > 0)
        .map(|end| {
            let expected = end.sent as f64 * share;
            ((end.sent - end.answered) as f64 - expected).powi(2) / (expected * (1.0 - share))
        })
        .sum();
    // Of nothing the incomplete gamma function is not defined.
    statistic <= 0.0 || gamma_ur((ends.len() - 1) as f64 / 2.0, statistic / 2.0) >= DIFFERENT
}

pub(crate) fn share(Count { sent, answered }: Count) -> Share {
    Share::of(sent, sent - answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_that_differ_by_chance_agree_and_others_do_not() {
        let ends = |lost: &[u64]| lost.iter().map(|lost| Count { sent: 250, answered: 250 - lost }).collect::<Vec<_>>();
        assert!(agree(&ends(&[75, 70, 82, 66])) && agree(&ends(&[0, 0, 0])) && agree(&ends(&[75])));
        assert!(agree(&ends(&[75, 75])) && agree(&ends(&[250, 250])) && agree(&[]));
        assert!(!agree(&ends(&[75, 0, 0])) && !agree(&ends(&[75, 110, 70])));
        // 3.84 is the 95th percentile with one degree of freedom, 10.83 the 99.9th: at 250 each, 10 and 31 lost are 11.7.
        assert!(!agree(&ends(&[10, 31])) && agree(&ends(&[11, 30])));
    }
}
