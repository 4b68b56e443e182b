//! On which way packets were lost, by the numbers that a stateful reflector gives its replies.

use crate::{
    Traced,
    blame::Count,
    tracer::{Probe, What},
};

/// Packets between the first and the last reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Legs {
    /// Lost on the way there.
    pub(crate) there: u64,
    /// Lost on the way back, but for replies that were to end on it.
    pub(crate) back: u64,
    /// Replies that left to come through, and those that did.
    pub(crate) replies: Count,
}

impl Legs {
    /// Of the probes that were `far` enough to reach the reflector; `None` where it does not count, or another count began in between.
    pub(crate) fn of(probes: &[Probe], far: impl Fn(&&Probe) -> bool, counts: bool) -> Option<Self> {
        let sent: Vec<&Probe> = probes.iter().filter(far).filter(|probe| probe.sent.is_some()).collect();
        let came: Vec<(usize, u32, &Probe)> = sent
            .iter()
            .enumerate()
            .filter_map(|(place, probe)| Some((place, number(probe)?, *probe)))
            .filter(|_| counts)
            .collect();
        let (first, last) = (came.first()?.0, came.last()?.0);
        let oldest = came.iter().min_by_key(|(_, number, _)| number)?;
        let newest = came.iter().max_by_key(|(_, number, _)| number)?;
        let arrived = u64::from(newest.1 - oldest.1);
        // Replies that were to end on their way, and those of them that came through.
        let so_far = |probe: &Probe| probe.limited.map_or(0, |(limited, _)| limited);
        let limited = u64::from(so_far(newest.2).wrapping_sub(so_far(oldest.2)));
        let through = |probe: &Probe| probe.limited.is_some_and(|(_, limited)| limited);
        let limited_through =
            came.iter().filter(|(_, number, probe)| *number != oldest.1 && through(probe)).count() as u64;
        let sent = arrived.checked_sub(limited)?;
        let answered = (came.len() as u64 - 1).checked_sub(limited_through)?;
        Some(Self {
            there: ((last - first) as u64).checked_sub(arrived)?,
            back: sent.checked_sub(answered)?,
            replies: Count { sent, answered },
        })
    }
}

/// A stateless reflector gives our own numbers back, which the probes of routers make gaps in.
pub(crate) fn counts_by_itself(traced: &Traced) -> bool {
    traced.probes.iter().enumerate().any(|(place, probe)| number(probe).is_some_and(|theirs| theirs as usize != place))
}

fn number(probe: &Probe) -> Option<u32> {
    match probe.answer?.what {
        What::Reflected(number) => Some(number),
        _ => None,
    }
}
