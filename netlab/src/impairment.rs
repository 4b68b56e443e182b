//! One direction of a link as packets of one family meet it: pure code, with the time as an argument and chance from the seed, so that every engine that plays a
//! scenario draws the same fates.

use std::time::Duration;

use crate::{
    scenario::{Conditions, Fault, LinkEnd, Scenario},
    seeded::SplitMix64,
};

/// What becomes of a packet that a link end has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives that much later.
    Delivered(Duration),
}

/// A link end's own conditions, its faults, and where its chance stands.
#[derive(Clone, Debug)]
pub struct Impairment {
    own: Conditions,
    faults: Vec<Fault>,
    random: SplitMix64,
    /// The Gilbert channel is in its bad state.
    losing: bool,
}

impl Impairment {
    /// That of `end` for one family. Chance depends on the seed and on the names of node and interface, not on what else is in the scenario.
    pub fn new(scenario: &Scenario, end: &LinkEnd, v6: bool, seed: u64) -> Self {
        let faults = scenario.faults.iter().filter(|fault| fault.harms(end, v6)).cloned().collect();
        let place = [end.node.as_bytes(), b":", end.dev.as_bytes(), &[u8::from(v6)]].concat();
        // FNV-1a
        let place = place
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let own = end.conditions[usize::from(v6)];
        Self { own, faults, random: SplitMix64(seed ^ place), losing: false }
    }

    /// Whether all that it ever does is to delay every packet by this.
    pub fn only_delays(&self) -> Option<Duration> {
        let Conditions { delay, loss, reorder, down } = self.own;
        (self.faults.is_empty() && loss.share == 0.0 && reorder.share == 0.0 && !down).then_some(delay)
    }

    /// What holds at `now`.
    pub fn conditions(&self, now: Duration) -> Conditions {
        let active = self.faults.iter().filter(|fault| fault.is_active(now));
        active.fold(self.own, |conditions, fault| fault.apply(conditions))
    }

    /// The next packet, sent at `now`.
    pub fn meet(&mut self, now: Duration) -> Fate {
        let Conditions { delay, loss, reorder, down } = self.conditions(now);
        if down || self.loses(loss.share, loss.burst) {
            return Fate::Lost;
        }
        let held = reorder.share > 0.0 && self.random.unit() < reorder.share;
        Fate::Delivered(if held { delay + reorder.hold } else { delay })
    }

    fn loses(&mut self, share: f64, burst: Option<f64>) -> bool {
        if share <= 0.0 {
            self.losing = false;
            return false;
        }
        let chance = self.random.unit();
        let Some(burst) = burst else { return chance < share };
        // Of a chain that stays bad for `burst` packets in the mean and is bad for that share of them.
        let change = if self.losing { 1.0 / burst } else { share / (burst * (1.0 - share)) };
        self.losing ^= chance < change;
        self.losing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Loss, Reorder};

    fn impairment(own: Conditions, faults: Vec<Fault>) -> Impairment {
        Impairment { own, faults, random: SplitMix64(7), losing: false }
    }

    fn fates(mut impairment: Impairment) -> Vec<Fate> {
        (0..200_000).map(|number| impairment.meet(Duration::from_millis(number))).collect()
    }

    fn runs_of_losses(fates: &[Fate]) -> (usize, usize) {
        let lost = |fate: &Fate| *fate == Fate::Lost;
        let runs = fates.windows(2).filter(|pair| !lost(&pair[0]) && lost(&pair[1])).count();
        (fates.iter().filter(|fate| lost(fate)).count(), runs)
    }

    #[test]
    fn losses_have_their_share_and_their_mean_run() {
        for (burst, mean_run) in [(None, 1.0 / 0.98), (Some(4.0), 4.0)] {
            let own = Conditions { loss: Loss { share: 0.02, burst }, ..Conditions::default() };
            let (lost, runs) = runs_of_losses(&fates(impairment(own, Vec::new())));
            // 2 % of 200,000 in some thousand runs: within 10 %
            assert!((3_600..4_400).contains(&lost), "{lost}");
            let run = lost as f64 / runs as f64;
            assert!((run / mean_run - 1.0).abs() < 0.1, "{run} for {mean_run}");
        }
    }

    #[test]
    fn held_packets_are_later_by_the_hold() {
        let (delay, hold) = (Duration::from_millis(5), Duration::from_millis(3));
        let own = Conditions { delay, reorder: Reorder { share: 0.1, hold }, ..Conditions::default() };
        let fates = fates(impairment(own, Vec::new()));
        let held = fates.iter().filter(|fate| **fate == Fate::Delivered(delay + hold)).count();
        assert!((19_000..21_000).contains(&held), "{held}");
        assert_eq!(fates.iter().filter(|fate| **fate == Fate::Delivered(delay)).count(), fates.len() - held);
    }

    #[test]
    fn a_fault_is_there_in_its_time_alone() {
        let [second, two] = [1, 2].map(Duration::from_secs);
        let fault = Fault {
            name: "cut".into(),
            node: "a".into(),
            dev: "b".into(),
            family: None,
            add_delay: second,
            loss: None,
            reorder: None,
            down: false,
            during: vec![(second, two)],
        };
        let mut slow = impairment(Conditions { delay: second, ..Conditions::default() }, vec![fault.clone()]);
        let mut cut = impairment(Conditions::default(), vec![Fault { down: true, ..fault }]);
        let just_before = second - Duration::from_nanos(1);
        assert_eq!(
            (slow.meet(just_before), cut.meet(just_before)),
            (Fate::Delivered(second), Fate::Delivered(Duration::ZERO))
        );
        assert_eq!((slow.meet(second), cut.meet(second)), (Fate::Delivered(two), Fate::Lost));
        assert_eq!((slow.meet(two), cut.meet(two)), (Fate::Delivered(second), Fate::Delivered(Duration::ZERO)));
        assert_eq!(slow.only_delays(), None);
    }
}
