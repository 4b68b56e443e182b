//! The result as one serialisable model: hops, destination and verdict of each flow, by the stretch of time in which its path stayed one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use pathlab_stats::{Confidence, Rate, wilson};
use serde::Serialize;

use crate::{
    Change, Flow, Plan, Reverse, Traced, Verdict,
    blame::Count,
    icmp::Kind,
    legs::{self, Legs},
    tracer::{self, Answer, FAR, Probe, What},
    weighed::{Weighed, agree, share},
};

/// A trace of several flows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `pathlab.trace/1`.
    pub schema: &'static str,
    /// The destination.
    pub target: SocketAddr,
    /// Rounds that were asked for.
    pub rounds: u32,
    /// Nanoseconds from one round to the next.
    pub interval_ns: u64,
    /// Octets of UDP payload of a probe.
    pub size: usize,
    /// In order of their places.
    pub flows: Vec<FlowReport>,
    /// Flows through the same routers, taken together.
    pub paths: Vec<PathReport>,
}

/// Flows through the same routers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathReport {
    /// Places of the flows, from 0.
    pub flows: Vec<usize>,
    /// Who answers at each hop most often, the destination last.
    pub addresses: Vec<Option<IpAddr>>,
    /// Packets of all its flows without an answer.
    pub loss: Share,
    /// Whether the flows lose alike. Where they do not, they have different links under the same addresses, and each speaks for itself.
    pub alike: bool,
    /// What is said of them together; absent where they are not alike.
    pub verdict: Option<Verdict>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowReport {
    /// This host's address and port.
    pub source: SocketAddr,
    /// What is said of it.
    pub verdict: Verdict,
    /// Hops before the destination.
    pub hops: Vec<Hop>,
    /// The destination.
    pub destination: Destination,
    /// The way back, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Reverse>,
    /// Changes of the path, in order.
    pub changes: Vec<PathChange>,
    /// Rounds that the counts are from: all, or the longest stretch without a change.
    pub probes: u64,
    /// Who answered that probes are not passed on, and why; of a black hole that nobody explains, empty.
    pub refusals: Vec<Refusal>,
    /// Probes that this host did not send, as its own link does not take so long a packet.
    pub too_long: u64,
    /// Errors that quoted too little to be told whose they are.
    pub unmatched: u64,
}

/// Who an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// AS number.
    pub asn: u32,
    /// Its name, or `AS` and the number.
    pub name: String,
}

/// A hop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hop {
    /// From 1.
    pub hop: u8,
    /// Addresses that answered, the most frequent first.
    pub addresses: Vec<IpAddr>,
    /// Who they belong to, by the user's table.
    pub network: Option<Network>,
    /// Probes without an answer.
    pub loss: Share,
    /// Its router answers less often than it is asked: what lies behind it answers better.
    pub seldom: bool,
    /// Round trips.
    pub rtt: Option<Rtt>,
}

/// The destination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Destination {
    /// Hops to it, itself included.
    pub distance: Option<u8>,
    /// `reflector`, `port_unreachable`, or absent.
    pub answers: Option<&'static str>,
    /// Who it belongs to, by the user's table.
    pub network: Option<Network>,
    /// Packets without an answer.
    pub loss: Share,
    /// Packets lost on the way there, by a stateful reflector's count.
    pub lost_forward: Option<u64>,
    /// Packets lost on the way back, likewise.
    pub lost_return: Option<u64>,
    /// Round trips.
    pub rtt: Option<Rtt>,
}

/// A share of packets with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Packets sent.
    pub sent: u64,
    /// Of those lost.
    pub lost: u64,
    /// Lost over sent; absent where none was sent.
    pub share: Option<f64>,
    /// Wilson's 95 % interval.
    pub low: f64,
    /// Its other limit.
    pub high: f64,
}

impl Share {
    /// With Wilson's interval; `lost` is at most `sent`.
    pub fn of(sent: u64, lost: u64) -> Self {
        let share = (sent > 0).then(|| lost as f64 / sent as f64);
        let interval = wilson(Rate { rate: share.unwrap_or(0.0), trials: sent as f64 }, Confidence::P95);
        Self { sent, lost, share, low: interval.low, high: interval.high }
    }
}

/// Round trips in nanoseconds, from this process to the kernel's receive stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Rtt {
    pub last_ns: u64,
    pub min_ns: u64,
    pub median_ns: u64,
    pub p95_ns: u64,
    pub max_ns: u64,
    pub mean_ns: u64,
    pub deviation_ns: u64,
}

/// A change of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PathChange {
    /// Nanoseconds since the start.
    pub at_ns: u64,
    /// At which hop; absent where the length changed.
    pub hop: Option<u8>,
    /// Who answered before.
    pub before: Option<IpAddr>,
    /// Who answers since.
    pub after: Option<IpAddr>,
}

/// A router's answer that it does not pass probes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Whose.
    pub from: IpAddr,
    /// At which hop it is, where it also answers probes that end there.
    pub hop: Option<u8>,
    /// The ICMP message by the name that its RFC has for it, such as `Fragmentation Needed`.
    pub answer: String,
    /// The MTU in octets that it told of its next link, in an answer about a packet's length; 0: not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// How often it came.
    pub times: u64,
}

/// With more changes than this a path is none.
const MOST_CHANGES: usize = 8;

impl Report {
    /// What a trace of `flows` by `plan` has seen.
    pub fn new(flows: &[Flow], plan: &Plan, traced: &[Traced]) -> Self {
        let (reports, weighed): (Vec<_>, Vec<_>) =
            flows.iter().zip(traced).map(|(flow, traced)| of_flow(flow, traced)).unzip();
        Self {
            schema: "pathlab.trace/1",
            target: flows[0].target,
            rounds: plan.rounds,
            interval_ns: nanos(plan.interval),
            size: plan.size,
            paths: paths(&weighed),
            flows: reports,
        }
    }

    /// Names the networks of hops and destination.
    pub fn label(&mut self, network: impl Fn(IpAddr) -> Option<Network>) {
        let target = self.target.ip();
        for flow in &mut self.flows {
            flow.destination.network = network(target);
            for hop in flow.hops.iter_mut().chain(flow.reverse.iter_mut().flat_map(|way| &mut way.hops)) {
                hop.network = hop.addresses.first().and_then(|address| network(*address));
            }
        }
    }
}

fn of_flow(flow: &Flow, traced: &Traced) -> (FlowReport, Weighed) {
    let (probes, unstable) = steady(traced);
    let hops_asked = traced.distance.map_or_else(|| highest(probes), |distance| distance - 1);
    let far = |probe: &&Probe| traced.distance.map_or(probe.ttl > hops_asked, |distance| probe.ttl >= distance);
    let arrived = |answer: &Answer| matches!(answer.what, What::Reflected(_) | What::Closed);
    // One a round: neither replies that were to end on their way, nor probes of hops that came through before the path's length was known.
    let end = |probe: &&Probe| probe.ttl == FAR && probe.ask == 0;
    let destination = count(probes.iter().filter(end), arrived);
    let reflects =
        probes.iter().any(|probe| probe.answer.is_some_and(|answer| matches!(answer.what, What::Reflected(_))));
    let closed = probes.iter().any(|probe| probe.answer.is_some_and(|answer| answer.what == What::Closed));

    let at_hop = |hop: u8| probes.iter().filter(move |probe| probe.ttl == hop);
    let mut path: Vec<Count> = (1..=hops_asked).map(|hop| count(at_hop(hop), |_| true)).collect();
    path.push(destination);
    let addresses: Vec<Vec<IpAddr>> = (1..=hops_asked).map(|hop| answering(at_hop(hop))).collect();
    let mut named: Vec<Option<IpAddr>> = addresses.iter().map(|addresses| addresses.first().copied()).collect();
    named.push((destination.answered > 0).then_some(flow.target.ip()));

    // From where every packet that reaches the reflector is one of those, so that its count is of the same packets.
    let before = probes.iter().rposition(|probe| probe.ttl != FAR && far(&probe)).map_or(0, |last| last + 1);
    let counted = if before * 2 < probes.len() { &probes[before..] } else { probes };
    let legs = Legs::of(counted, far, legs::counts_by_itself(traced));
    let refusals = traced.refusals.iter().map(|refusal| refused(refusal, flow, &addresses)).collect();
    let weighed = Weighed {
        path,
        addresses: named,
        reflects,
        legs: legs.as_ref().map(|legs| (legs.there, legs.back)),
        unstable,
        too_long: traced.too_long > 0,
    };
    let hops = (1..=hops_asked).zip(addresses).map(|(hop, addresses)| {
        let place = usize::from(hop) - 1;
        let (loss, seldom) = (share(weighed.path[place]), weighed.seldom(place));
        Hop { hop, addresses, network: None, loss, seldom, rtt: rtt(at_hop(hop)) }
    });
    let report = FlowReport {
        source: flow.source,
        verdict: weighed.verdict(),
        hops: hops.collect(),
        destination: Destination {
            distance: traced.distance,
            answers: if reflects { Some("reflector") } else { closed.then_some("port_unreachable") },
            network: None,
            loss: share(destination),
            lost_forward: legs.as_ref().map(|legs| legs.there),
            lost_return: legs.as_ref().map(|legs| legs.back),
            rtt: rtt(probes.iter().filter(end).filter(|probe| probe.answer.as_ref().is_some_and(arrived))),
        },
        reverse: traced.way_back.as_ref().map(|way| Reverse::of(flow, probes, way, legs.as_ref())),
        changes: traced.changes.iter().map(change).collect(),
        probes: probes.len() as u64,
        refusals,
        too_long: traced.too_long,
        unmatched: traced.unmatched,
    };
    (report, weighed)
}

fn refused(seen: &tracer::Refusal, flow: &Flow, addresses: &[Vec<IpAddr>]) -> Refusal {
    let at = addresses.iter().position(|answering| answering.contains(&seen.from));
    Refusal {
        from: seen.from,
        hop: at.and_then(|at| u8::try_from(at + 1).ok()),
        answer: seen.kind.name(flow.target.is_ipv6()).into_owned(),
        mtu: if let Kind::PacketTooBig { mtu } = seen.kind { Some(mtu) } else { None },
        times: seen.times,
    }
}

/// Flows by the routers that they went through, in order of their first flow.
fn paths(flows: &[Weighed]) -> Vec<PathReport> {
    let mut paths: Vec<Vec<usize>> = Vec::new();
    for (place, flow) in flows.iter().enumerate() {
        match paths.iter_mut().find(|path| flows[path[0]].shares_path(flow)) {
            Some(path) => path.push(place),
            None => paths.push(vec![place]),
        }
    }
    let path = |places: Vec<usize>| {
        let of = || places.iter().map(|place| &flows[*place]);
        let together = Weighed::together(of())?;
        let alike = agree(&of().map(Weighed::destination).collect::<Vec<_>>());
        Some(PathReport {
            loss: share(together.destination()),
            alike,
            verdict: alike.then(|| together.verdict()),
            addresses: together.addresses,
            flows: places,
        })
    };
    paths.into_iter().filter_map(path).collect()
}

/// The longest run of probes without a change of the path, and whether there were too many for that.
fn steady(traced: &Traced) -> (&[Probe], bool) {
    let probes = &traced.probes[..];
    if traced.changes.is_empty() {
        return (probes, false);
    }
    // A change is seen hop by hop: within a round it is one.
    let back = traced.way_back.as_ref().and_then(|way| way.distance).unwrap_or(0);
    let round = usize::from(traced.distance.unwrap_or(1)) + usize::from(back) + 1;
    let mut cuts: Vec<usize> = Vec::new();
    for change in &traced.changes {
        let at = change.number as usize;
        if cuts.last().is_none_or(|last| at > last + 2 * round) {
            cuts.push(at);
        }
    }
    if cuts.len() > MOST_CHANGES {
        return (probes, true);
    }
    let begins = std::iter::once(0).chain(cuts.iter().map(|cut| cut + 2 * round));
    let ends = cuts.iter().map(|cut| cut.saturating_sub(round)).chain([probes.len()]);
    let stretch = begins.zip(ends).filter(|(begin, end)| begin < end).max_by_key(|(begin, end)| end - begin);
    stretch.map_or((&[], true), |(begin, end)| (&probes[begin..end], false))
}

fn highest(probes: &[Probe]) -> u8 {
    let routers = probes.iter().filter(|probe| probe.answer.is_some_and(|answer| answer.what == What::Router));
    routers.map(|probe| probe.ttl).max().unwrap_or(0)
}

fn count<'a>(probes: impl Iterator<Item = &'a Probe>, counts: impl Fn(&Answer) -> bool) -> Count {
    probes.filter(|probe| probe.sent.is_some()).fold(Count::default(), |count, probe| Count {
        sent: count.sent + 1,
        answered: count.answered + u64::from(probe.answer.as_ref().is_some_and(&counts)),
    })
}

fn answering<'a>(probes: impl Iterator<Item = &'a Probe>) -> Vec<IpAddr> {
    by_frequency(probes.filter_map(|probe| Some(probe.answer?.from)))
}

/// Each address once, the most frequent first.
pub(crate) fn by_frequency(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut often: BTreeMap<IpAddr, u64> = BTreeMap::new();
    addresses.for_each(|address| *often.entry(address).or_default() += 1);
    let mut addresses: Vec<_> = often.into_iter().collect();
    addresses.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    addresses.into_iter().map(|(address, _)| address).collect()
}

fn rtt<'a>(probes: impl Iterator<Item = &'a Probe>) -> Option<Rtt> {
    summary(probes.filter_map(|probe| Some(probe.answer?.rtt)))
}

/// Of round trips in order of time.
pub(crate) fn summary(round_trips: impl Iterator<Item = Duration>) -> Option<Rtt> {
    let in_order: Vec<u64> = round_trips.map(nanos).collect();
    let mut sorted = in_order.clone();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
    let mean = sorted.iter().sum::<u64>() as f64 / sorted.len() as f64;
    let variance = sorted.iter().map(|rtt| (*rtt as f64 - mean).powi(2)).sum::<f64>() / sorted.len() as f64;
    Some(Rtt {
        last_ns: *in_order.last()?,
        min_ns: *sorted.first()?,
        median_ns: at(0.5)?,
        p95_ns: at(0.95)?,
        max_ns: *sorted.last()?,
        mean_ns: mean as u64,
        deviation_ns: variance.sqrt() as u64,
    })
}

pub(crate) fn change(change: &Change) -> PathChange {
    PathChange { at_ns: nanos(change.at), hop: change.hop, before: change.before, after: change.after }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
