//! Processor time that the hypervisor gave to others: what no program can see in its own clock, and no measurement of time should hide.

use std::{fs, io};

/// The counters of all processors, in ticks of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// No such file, or one without a line of all processors.
    pub fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        Self::parse(&stat).ok_or_else(|| io::Error::other("/proc/stat has no line of all processors"))
    }

    /// proc_stat(5): user nice system idle iowait irq softirq steal; guest times are within user and nice.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|number| number.parse().ok()).collect();
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// Share of the time since `before` that was stolen, 0 to 1.
    pub fn stolen_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 { 0.0 } else { self.stolen.saturating_sub(before.stolen) as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = Ticks::parse("cpu  10 0 10 80 0 0 0 5 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n").expect("a line");
        let after = Ticks::parse("cpu  60 0 10 110 0 0 0 25 7 0\n").expect("a line");
        assert!((after.stolen_since(before) - 0.2).abs() < 1e-12);
        assert_eq!(before.stolen_since(before), 0.0);
        assert!(Ticks::parse("intr 1 2 3").is_none());
    }
}
