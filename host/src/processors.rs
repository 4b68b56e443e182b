//! What the kernel counts of each processor for everybody to read: its ticks, and how its share of receiving packets went.

use std::collections::BTreeMap;

/// Time of a processor since the start, in ticks of `USER_HZ` (100 a second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    /// Ready to run, and the hypervisor ran others.
    pub(crate) stolen: u64,
    /// In softirqs, receiving and sending among them.
    pub(crate) softirq: u64,
    /// Neither idle nor waiting for a disk; stolen time is not in it.
    pub(crate) busy: u64,
    pub(crate) all: u64,
}

/// Of a line of `/proc/stat` without its first word; `None` where the kernel does not count stolen time.
fn ticks(line: &str) -> Option<Ticks> {
    let ticks: Vec<u64> = line.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
    // guest time, behind these, is within user
    let [user, nice, system, idle, waiting, irq, softirq, stolen] = *ticks.first_chunk()?;
    // a capture may say anything
    let sum = |ticks: &[u64]| ticks.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    let busy = sum(&[user, nice, system, irq, softirq]);
    Some(Ticks { stolen, softirq, busy, all: sum(&[busy, idle, waiting, stolen]) })
}

/// All processors together.
pub(crate) fn all(proc_stat: &str) -> Option<Ticks> {
    ticks(proc_stat.lines().next()?.strip_prefix("cpu ")?)
}

/// Each that is online, by its number.
pub(crate) fn each(proc_stat: &str) -> BTreeMap<u32, Ticks> {
    let one = |line: &str| {
        let (number, rest) = line.strip_prefix("cpu")?.split_once(' ')?;
        Some((number.parse().ok()?, ticks(rest)?))
    };
    proc_stat.lines().filter_map(one).collect()
}

/// Columns of `/proc/net/softnet_stat` that matter (net/core/net-procfs.c), of one processor. They are counted in 32 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Softnet {
    pub(crate) processed: u32,
    /// From its full backlog.
    pub(crate) dropped: u32,
    /// It left off receiving for want of budget or time, with packets waiting.
    pub(crate) squeezed: u32,
    /// Its number; kernels before 5.10 do not tell.
    pub(crate) processor: Option<u32>,
}

/// A line for each processor that is online.
pub(crate) fn softnet(text: &str) -> Vec<Softnet> {
    let line = |line: &str| {
        let columns: Vec<u32> =
            line.split_whitespace().map_while(|column| u32::from_str_radix(column, 16).ok()).collect();
        let [processed, dropped, squeezed] = *columns.first_chunk()?;
        Some(Softnet { processed, dropped, squeezed, processor: columns.get(12).copied() })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stolen_ticks_are_the_eighth_column() {
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu11 0 0 0 9 0 0 0 1 0 0\nintr 5\n";
        let whole = Ticks { stolen: 8, softirq: 7, busy: 19, all: 36 };
        assert_eq!(all(text), Some(whole));
        assert_eq!(each(text), [(0, whole), (11, Ticks { stolen: 1, softirq: 0, busy: 0, all: 10 })].into());
        assert_eq!(all("cpu  1 2 3\n"), None);
    }

    #[test]
    fn softnet_is_read_as_hexadecimal() {
        let line = "0000000a 00000001 0000000f 00000000 0 0 0 0 0 0 0 0 0000001f 0 0\n";
        let told = Softnet { processed: 10, dropped: 1, squeezed: 15, processor: Some(31) };
        assert_eq!(softnet(line), [told]);
        assert_eq!(softnet("0000000a 00000001 0000000f 00000000\n")[0].processor, None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_left_out(text in "(cpu)?[0-9]{0,3}( [0-9]{1,9}){0,12}\n?") {
            let _ = (all(&text), each(&text), softnet(&text));
        }
    }
}
