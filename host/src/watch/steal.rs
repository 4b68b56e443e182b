//! What others took of each processor, and where its receiving ran out of budget: the hypervisor's steal, `/proc/net/softnet_stat`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::processors::{self, Softnet, Ticks};

/// Since the host started, by processor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Processors {
    ticks: BTreeMap<u32, Ticks>,
    softnet: BTreeMap<u32, Softnet>,
}

/// A processor in a window. Shares are of its time, and as coarse as the kernel's ticks: 1 % of a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessorReport {
    /// Its number.
    pub processor: u32,
    /// Share in which it was ready to run and the hypervisor ran others: every latency that was measured has it.
    pub stolen: f64,
    /// Share in which it neither idled nor was taken away.
    pub busy: f64,
    /// Share in softirqs, receiving and sending among them.
    pub softirq: f64,
    /// Times that it left off receiving for want of budget (`net.core.netdev_budget`, `netdev_budget_usecs`) with packets waiting.
    pub squeezed: u32,
    /// Packets dropped from its full backlog (`net.core.netdev_max_backlog`).
    pub backlog_drops: u32,
}

impl Processors {
    /// Of `/proc/stat` and `/proc/net/softnet_stat`.
    pub(crate) fn of(proc_stat: &str, softnet_stat: &str) -> Self {
        let ticks = processors::each(proc_stat);
        let lines = processors::softnet(softnet_stat);
        // Before 5.10 the lines are those of the processors that are online, in order.
        let softnet = lines.iter().zip(ticks.keys()).map(|(line, place)| (line.processor.unwrap_or(*place), *line));
        Self { softnet: softnet.collect(), ticks }
    }

    pub(crate) fn since(&self, earlier: &Self) -> Vec<ProcessorReport> {
        let of = |(processor, now): (&u32, &Ticks)| {
            // one that was offline
            let before = earlier.ticks.get(processor).copied().unwrap_or_default();
            let all = now.all.saturating_sub(before.all).max(1) as f64;
            let share = |of: fn(&Ticks) -> u64| of(now).saturating_sub(of(&before)) as f64 / all;
            let softnet = self.softnet.get(processor).copied().unwrap_or_default();
            let before = earlier.softnet.get(processor).copied().unwrap_or_default();
            ProcessorReport {
                processor: *processor,
                stolen: share(|ticks| ticks.stolen),
                busy: share(|ticks| ticks.busy),
                softirq: share(|ticks| ticks.softirq),
                squeezed: softnet.squeezed.wrapping_sub(before.squeezed),
                backlog_drops: softnet.dropped.wrapping_sub(before.dropped),
            }
        };
        self.ticks.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_window() {
        let softnet = |squeezed: u32| format!("0000000a 00000001 {squeezed:08x} 0 0 0 0 0 0 0 0 0 00000001\n");
        let earlier = Processors::of("cpu  9\ncpu1 10 0 0 70 0 0 10 10\n", &softnet(u32::MAX));
        let now = Processors::of("cpu  9\ncpu1 20 10 10 100 10 10 20 20\n", &softnet(2));
        let wanted =
            ProcessorReport { processor: 1, stolen: 0.1, busy: 0.5, softirq: 0.1, squeezed: 3, backlog_drops: 0 };
        assert_eq!(now.since(&earlier), [wanted]);
        assert_eq!(now.since(&now)[0].stolen, 0.0);
    }
}
