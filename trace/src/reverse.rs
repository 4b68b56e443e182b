//! The way back as the reflector told it: hops, loss and verdict, counted from the reflector.

use serde::Serialize;

use crate::{
    Direction, Flow, Hop, Verdict, WayBack,
    blame::Count,
    legs::Legs,
    report::{PathChange, Share, by_frequency, change, summary},
    tracer::Probe,
    weighed::{Weighed, share},
};

/// The way back of one flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reverse {
    /// What is said of it; hop 0 is the reflector.
    pub verdict: Verdict,
    /// Hops from the reflector to this host, itself included.
    pub distance: Option<u8>,
    /// Hops from the reflector on, with the round trips between it and them.
    pub hops: Vec<Hop>,
    /// Replies that were to come through and did not, by the reflector's count between its first and last reply.
    pub loss: Share,
    /// Changes, in order.
    pub changes: Vec<PathChange>,
}

impl Reverse {
    pub(crate) fn of(flow: &Flow, probes: &[Probe], way: &WayBack, legs: Option<&Legs>) -> Self {
        let changes = way.changes.iter().map(change).collect();
        let lacking = match legs {
            _ if way.refused => Some("the reflector does not trace back: it takes --allow-reverse-trace there"),
            None => Some("too few replies have come back to count by"),
            Some(_) => None,
        };
        let replies = legs.map(|legs| legs.replies).unwrap_or_default();
        if let Some(why) = lacking {
            let verdict = Verdict::Insufficient { why: why.into() };
            return Self { verdict, distance: way.distance, hops: Vec::new(), loss: share(replies), changes };
        }
        let told = |hop: u8| {
            let asked = probes.iter().filter(move |probe| probe.ask == hop);
            // One that came through has met nobody.
            asked.filter(|probe| !probe.limited.is_some_and(|(_, limited)| limited)).filter_map(|probe| probe.told)
        };
        let met = |hop: u8| told(hop).flatten();
        let highest = probes.iter().filter(|probe| probe.told.flatten().is_some()).map(|probe| probe.ask).max();
        let last = way.distance.map_or(highest.unwrap_or(0), |distance| distance - 1);
        let mut path: Vec<Count> =
            (1..=last).map(|hop| Count { sent: told(hop).count() as u64, answered: met(hop).count() as u64 }).collect();
        path.push(replies);
        let addresses: Vec<_> = (1..=last).map(|hop| by_frequency(met(hop).map(|(from, _)| from))).collect();
        let mut named: Vec<_> = addresses.iter().map(|addresses| addresses.first().copied()).collect();
        named.push(Some(flow.source.ip()));
        let weighed = Weighed { path, addresses: named, reflects: true, legs: None, unstable: false, too_long: false };
        let hops = (1..=last).zip(addresses).map(|(hop, addresses)| {
            let place = usize::from(hop) - 1;
            let rtt = summary(met(hop).map(|(_, after)| after));
            Hop { hop, addresses, network: None, loss: share(weighed.path[place]), seldom: weighed.seldom(place), rtt }
        });
        Self {
            verdict: weighed.judged(Direction::Return),
            distance: way.distance,
            hops: hops.collect(),
            loss: share(replies),
            changes,
        }
    }
}
