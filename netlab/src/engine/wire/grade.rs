//! How well the wire engine kept its own times: beyond what a scenario tolerates a run says nothing about queues, and is invalid rather than wrong.

use std::time::Duration;

use pathlab_record::SparseHistogram;

use crate::engine::LinkCount;

/// Frames of a direction without which its times are not judged.
const FEWEST: u64 = 20;

/// How far a run may stray from what its scenario says and still stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of the frames of each direction, 99 % were handed over no later than this after they were due.
    pub release: Duration,
    /// Share of the processors' time that the hypervisor may have taken, 0 to 1.
    pub steal: f64,
}

impl Default for Tolerance {
    /// A millisecond, which no queue of a scenario is shallow enough to resemble, and 5 % of stolen time.
    fn default() -> Self {
        Self { release: Duration::from_millis(1), steal: 0.05 }
    }
}

/// One direction of a link.
#[derive(Clone, Debug, Default)]
pub struct DirectionGrade {
    /// Node that sends.
    pub node: String,
    /// Its interface.
    pub dev: String,
    /// What its queue did.
    pub count: LinkCount,
    /// From when a frame was due until it was handed over, in nanoseconds.
    pub error: SparseHistogram,
    /// Frames that the router was too slow to take: its ring was full.
    pub missed: u64,
    /// Frames longer than the link's MTU, which were not played.
    pub cut: u64,
    /// Frames that the kernel did not take from the router.
    pub refused: u64,
}

/// The whole router.
#[derive(Clone, Debug)]
pub struct WireGrade {
    /// Each direction.
    pub directions: Vec<DirectionGrade>,
    /// How late its sleeps ended, in nanoseconds.
    pub overslept: SparseHistogram,
    /// How long it looked at the clock before something was due, at the end.
    pub spin: Duration,
    /// The scheduling class that it got, such as `SCHED_FIFO 1`.
    pub scheduler: String,
    /// Why it is not real time.
    pub scheduler_why: Option<String>,
    /// Share of the processors' time that the hypervisor took meanwhile, 0 to 1; absent where it cannot be read.
    pub steal: Option<f64>,
    /// Times that the clock in which the kernel stamps was set while frames were under way.
    pub clock_jumps: u64,
}

impl WireGrade {
    /// Why the run does not stand; nothing where it does.
    pub fn objections(&self, tolerance: Tolerance) -> Vec<String> {
        let mut objections = Vec::new();
        for direction in &self.directions {
            let place = format!("{}:{}", direction.node, direction.dev);
            // A direction on which only the kernel has announced itself tells nothing by its percentiles.
            let enough = direction.error.count() >= FEWEST;
            let late = direction
                .error
                .quantile(0.99)
                .map(Duration::from_nanos)
                .filter(|late| enough && *late > tolerance.release);
            if let Some(late) = late {
                let allowed = tolerance.release;
                objections.push(format!(
                    "{place}: 1 % of the frames left {late:?} or more after they were due, tolerated are {allowed:?}"
                ));
            }
            for (frames, what) in [
                (direction.missed, "were lost because the router was too slow"),
                (direction.cut, "were longer than the link's MTU"),
                (direction.refused, "were not taken by the kernel"),
            ] {
                if frames > 0 {
                    objections.push(format!("{place}: {frames} frames {what}"));
                }
            }
        }
        if let Some(steal) = self.steal.filter(|steal| *steal > tolerance.steal) {
            let (took, allowed) = (steal * 100.0, tolerance.steal * 100.0);
            objections
                .push(format!("the hypervisor took {took:.1} % of the processors' time, tolerated are {allowed:.1} %"));
        }
        if self.clock_jumps > 0 {
            objections.push(format!("the system's clock was set {} times meanwhile", self.clock_jumps));
        }
        objections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade(error_ns: &[u64]) -> WireGrade {
        let mut direction = DirectionGrade { node: "a".into(), dev: "b".into(), ..DirectionGrade::default() };
        error_ns.iter().for_each(|error| direction.error.record(*error));
        WireGrade {
            directions: vec![direction],
            overslept: SparseHistogram::new(),
            spin: Duration::ZERO,
            scheduler: "SCHED_FIFO 1".into(),
            scheduler_why: None,
            steal: Some(0.0),
            clock_jumps: 0,
        }
    }

    #[test]
    fn a_run_stands_while_one_in_a_hundred_is_late_at_most() {
        let tolerance = Tolerance { release: Duration::from_micros(100), steal: 0.05 };
        let mut errors = vec![20_000; 995];
        errors.extend([5_000_000; 5]);
        assert_eq!(grade(&errors).objections(tolerance), [""; 0]);
        errors.extend([5_000_000; 20]);
        let objections = WireGrade { steal: Some(0.06), ..grade(&errors) }.objections(tolerance);
        assert!(objections[0].starts_with("a:b: 1 % of the frames left 5."), "{objections:?}");
        assert!(objections[0].ends_with("ms or more after they were due, tolerated are 100µs"), "{objections:?}");
        assert_eq!(objections[1], "the hypervisor took 6.0 % of the processors' time, tolerated are 5.0 %");
    }

    #[test]
    fn what_the_router_lost_is_no_loss_of_the_scenario() {
        let mut grade = grade(&[]);
        grade.directions[0].missed = 3;
        grade.clock_jumps = 1;
        assert_eq!(
            grade.objections(Tolerance::default()),
            ["a:b: 3 frames were lost because the router was too slow", "the system's clock was set 1 times meanwhile"]
        );
    }
}
