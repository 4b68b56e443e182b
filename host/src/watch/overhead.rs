//! What watching costs: the kernel's own measure of each program.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// What the kernel has counted of a program. Runs and time are counted only while somebody holds `BPF_ENABLE_STATS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) nanoseconds: u64,
    pub(crate) runs: u64,
    /// Events that were not looked at because the program was already running on that processor.
    pub(crate) missed: u64,
}

/// Of a program's `/proc/self/fdinfo/N`; a field that an older kernel does not have is 0.
pub(crate) fn cost(fdinfo: &str) -> Cost {
    let field = |name: &str| {
        let mut lines = fdinfo.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
    };
    Cost { nanoseconds: field("run_time_ns"), runs: field("run_cnt"), missed: field("recursion_misses") }
}

/// What a program cost in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overhead {
    /// Its name in `bpf/`.
    pub program: String,
    /// How often it ran while that was counted.
    pub runs: u64,
    /// Nanoseconds of a run, the kernel's reading of its clock included; absent where it did not run.
    pub per_event: Option<f64>,
    /// Share of one processor.
    pub share: f64,
    /// Events that it missed because it was running already; of the whole window.
    pub missed: u64,
}

/// What was counted between two readings, in which the kernel measured for `measured`.
pub(crate) fn overheads(
    now: &BTreeMap<String, Cost>,
    earlier: &BTreeMap<String, Cost>,
    measured: Duration,
) -> Vec<Overhead> {
    let of = |(program, now): (&String, &Cost)| {
        let before = earlier.get(program).copied().unwrap_or_default();
        let runs = now.runs.saturating_sub(before.runs);
        let nanoseconds = now.nanoseconds.saturating_sub(before.nanoseconds) as f64;
        Overhead {
            program: program.clone(),
            runs,
            per_event: (runs > 0).then(|| nanoseconds / runs as f64),
            share: if measured.is_zero() { 0.0 } else { nanoseconds / measured.as_nanos() as f64 },
            missed: now.missed.saturating_sub(before.missed),
        }
    };
    now.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_read_and_spread_over_the_time_in_which_it_was_kept() {
        let text = "prog_type:\t26\nprog_id:\t7\nrun_time_ns:\t52000\nrun_cnt:\t400\nrecursion_misses:\t3\n";
        let now = cost(text);
        assert_eq!(now, Cost { nanoseconds: 52_000, runs: 400, missed: 3 });
        assert_eq!(cost("prog_type:\t26\n"), Cost::default());
        let earlier = Cost { nanoseconds: 12_000, runs: 200, missed: 1 };
        let [now, earlier] = [now, earlier].map(|cost| BTreeMap::from([("dropped".to_owned(), cost)]));
        let measured = Duration::from_millis(4);
        let expected =
            Overhead { program: "dropped".into(), runs: 200, per_event: Some(200.0), share: 0.01, missed: 2 };
        assert_eq!(overheads(&now, &earlier, measured), [expected]);
        let idle = &overheads(&now, &now, Duration::ZERO)[0];
        assert_eq!((idle.per_event, idle.share), (None, 0.0));
    }
}
