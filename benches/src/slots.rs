//! How well a sender kept its schedule, from when its packets came out of the wire alone.
//!
//! The same rule for all. The grid has the interval that was asked for and the phase that puts the most packets within the first 50 µs of a slot:
//! the phase that flatters the sender most, as nobody outside knows when it meant to begin. A slot's lateness is the time from the slot to
//! the first packet at or after it, so that a slot that was left out is as late as the next packet, and a burst that catches up is late by what
//! it makes up for; one after the last packet is as late as the end of the schedule. Nothing is assigned to slots, so no numbering needs to be believed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::figures::quantile;

/// What counts as on time.
pub const ON_TIME: Duration = Duration::from_micros(50);

/// The schedule as it was kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Slots that were to be sent.
    pub slots: usize,
    /// Packets that came.
    pub packets: usize,
    /// Share of the slots with a packet within [`ON_TIME`], 0 to 1.
    pub on_time: f64,
    /// Lateness of the slots in microseconds, median.
    pub late_p50: f64,
    /// 99th percentile.
    pub late_p99: f64,
}

/// Of packets that came at `times`, nanoseconds in any order, for `slots` slots of `interval`.
///
/// # Errors
/// No packets, or an interval no longer than what counts as on time.
pub fn kept(times: &[u64], interval: Duration, slots: usize) -> Result<Kept> {
    let (interval, window) = (interval.as_nanos() as u64, ON_TIME.as_nanos() as u64);
    ensure!(interval > window, "slots {interval} ns apart cannot be told from one another within {window} ns");
    let mut times = times.to_vec();
    times.sort_unstable();
    let first = *times.first().context("no packet came out of the wire")?;
    let phase = phase(&times, interval, window);
    // the last slot not after the first packet
    let start = first - (first + interval - phase) % interval;
    let late: Vec<f64> = (0..slots as u64)
        .map(|slot| {
            let at = start + slot * interval;
            let next = times.partition_point(|time| *time < at);
            let end = start + slots as u64 * interval;
            (times.get(next).copied().unwrap_or(end) - at) as f64 / 1e3
        })
        .collect();
    let on_time = late.iter().filter(|late| **late <= window as f64 / 1e3).count();
    Ok(Kept {
        slots,
        packets: times.len(),
        on_time: on_time as f64 / slots as f64,
        late_p50: quantile(&late, 0.5).context("no slots")?,
        late_p99: quantile(&late, 0.99).context("no slots")?,
    })
}

/// The start of the window of that width on the circle of the interval that holds the most packets.
fn phase(times: &[u64], interval: u64, window: u64) -> u64 {
    let mut residues: Vec<u64> = times.iter().map(|time| time % interval).collect();
    residues.sort_unstable();
    let around = residues.iter().map(|residue| residue + interval);
    let circle: Vec<u64> = residues.iter().copied().chain(around).collect();
    let inside = |from: usize| circle[from..].partition_point(|residue| *residue <= circle[from] + window);
    // of several equal ones the first
    let best = (0..residues.len()).rev().max_by_key(|from| inside(*from));
    best.map_or(0, |from| residues[from])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const INTERVAL: Duration = Duration::from_millis(1);

    fn at(offsets: impl IntoIterator<Item = u64>) -> Vec<u64> {
        offsets.into_iter().map(|offset| 77 * MS + 999_990 + offset).collect()
    }

    #[test]
    fn a_perfect_schedule_is_on_time_whatever_its_phase() {
        let kept = kept(&at((0..1000).map(|slot| slot * MS)), INTERVAL, 1000).expect("packets");
        assert_eq!((kept.on_time, kept.late_p50, kept.late_p99), (1.0, 0.0, 0.0));
    }

    #[test]
    fn a_late_tenth_is_a_late_tenth() {
        let times = at((0..1000).map(|slot| slot * MS + if slot % 10 == 9 { 200_000 } else { slot % 5 * 1000 }));
        let kept = kept(&times, INTERVAL, 1000).expect("packets");
        assert_eq!(kept.on_time, 0.9);
        assert_eq!((kept.late_p50, kept.late_p99), (2.0, 200.0));
    }

    #[test]
    fn a_slot_left_out_is_as_late_as_the_next_packet() {
        let times = at((0..1000).filter(|slot| slot % 4 != 3).map(|slot| slot * MS));
        let kept = kept(&times, INTERVAL, 1000).expect("packets");
        // the last slot is among them: nothing came after it
        assert_eq!((kept.packets, kept.on_time, kept.late_p99), (750, 0.75, 1000.0));
    }

    #[test]
    fn a_burst_that_catches_up_is_late_by_what_it_makes_up_for() {
        // a pause of three slots in every hundred, then all of them at once
        let times = at((0..1000).map(|slot| if slot % 100 < 3 { slot / 100 * 100 * MS + 3 * MS } else { slot * MS }));
        let kept = kept(&times, INTERVAL, 1000).expect("packets");
        // the first packet, three slots late, is where the grid begins: three slots at the end are left without a packet for it
        assert_eq!(kept.on_time, 0.97);
        assert_eq!(kept.late_p99, 2000.0);
    }

    #[test]
    fn no_packets_and_too_short_an_interval_are_refused() {
        assert!(super::kept(&[], INTERVAL, 10).is_err());
        assert!(super::kept(&[1], ON_TIME, 10).is_err());
    }
}
