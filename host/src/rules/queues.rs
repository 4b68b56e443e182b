//! How many queues there are, and how the card chooses among them.

use std::collections::BTreeMap;

use pathlab_guard::{
    Setting,
    ethtool::{Flow, Group},
    even_table,
};

use crate::{
    audit::{Expectation, Judged, Outcome, counted},
    change::Change,
    facts::{Facts, Missing, if_there},
    port::{Channels, FlowHash, Rss},
};

/// Ports of both ends and both addresses, in ethtool's letters.
const FOUR_TUPLE: &str = "sdfn";

pub(super) fn count(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let Some(channels) = if_there(facts.told::<Channels>(&format!("port/{port}/channels")))? else {
        return Outcome::not_applicable("the driver has no channels to set");
    };
    let (kind, now, most) = match channels {
        Channels { combined: Some(now), combined_max: Some(most), .. } if most > 0 => ("combined", now, most),
        Channels { rx: Some(now), rx_max: Some(most), .. } if most > 0 => ("rx", now, most),
        _ => return Outcome::not_applicable("the driver has no channels to set"),
    };
    let local = u32::try_from(facts.local(port)?.len()).unwrap_or(u32::MAX);
    let wanted = most.min(local);
    if now == wanted {
        return Outcome::fine(format!("{now} of at most {most}, for {local} near CPUs"));
    }
    let change = Change::parameters(Group::Channels, port, format!("{kind} {wanted}"), format!("{kind} {now}"));
    let because = if now < wanted {
        format!("{}, where {local} CPUs are near and the card has {most}", counted(now as usize, "queue"))
    } else {
        format!("{now} queues for {local} near CPUs: the others interrupt far ones, or share")
    };
    Outcome::finding(because, change)
}

pub(super) fn rss(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let queues = facts.queues(port, "rx")?.len();
    if queues < 2 {
        return Outcome::not_applicable("one receive queue: there is nothing to spread");
    }
    let Some(Rss { table }) = if_there(facts.told::<Rss>(&format!("port/{port}/rss")))? else {
        return Outcome::not_applicable("the driver has no RSS table");
    };
    let hash = flow_hash(facts, port)?;
    let mut entries: BTreeMap<u32, usize> =
        (0..u32::try_from(queues).unwrap_or(u32::MAX)).map(|queue| (queue, 0)).collect();
    for queue in &table {
        *entries.entry(*queue).or_default() += 1;
    }
    let (least, most) = (entries.values().min().copied().unwrap_or(0), entries.values().max().copied().unwrap_or(0));
    let mut change = Change::default();
    let mut wrong = Vec::new();
    if most - least > 1 {
        let idle = entries.values().filter(|entries| **entries == 0).count();
        wrong.push(if idle > 0 {
            format!("{idle} of {queues} queues get nothing from the table of {} entries", table.len())
        } else {
            format!("queues get between {least} and {most} of {} entries", table.len())
        });
        let now: Vec<String> = table.iter().map(u32::to_string).collect();
        let even = even_table(table.len(), u32::try_from(queues).unwrap_or(u32::MAX));
        change.set(Setting::Rss { port: port.to_owned() }, even, now.join(" "));
    }
    if let Some(hash) = &hash {
        for (flow, letters) in [(Flow::Udp4, &hash.udp4), (Flow::Udp6, &hash.udp6)] {
            if letters != FOUR_TUPLE {
                let name = flow.name();
                wrong.push(format!("{name} is hashed by {letters:?}: all sessions between two hosts share a queue"));
                change.set(Setting::FlowHash { port: port.to_owned(), flow }, FOUR_TUPLE, letters);
            }
        }
    }
    if wrong.is_empty() {
        let hashed =
            if hash.is_some() { "UDP hashed with its ports" } else { "the driver does not say how UDP is hashed" };
        return Outcome::fine(format!("{} entries over {queues} queues, {hashed}", table.len()));
    }
    Outcome::finding(wrong.join("; "), change)
}

/// What is hashed of UDP; a driver that answers with nothing at all does not know (virtio_net).
fn flow_hash(facts: &Facts<'_>, port: &str) -> Result<Option<FlowHash>, Missing> {
    let hash = if_there(facts.told::<FlowHash>(&format!("port/{port}/flow_hash")))?;
    Ok(hash.filter(|hash| !hash.udp4.is_empty() || !hash.udp6.is_empty()))
}

pub(super) fn families(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let hash = flow_hash(facts, port)?;
    let policies = (
        facts.number_if_there("proc/sys/net/ipv4/fib_multipath_hash_policy")?,
        facts.number_if_there("proc/sys/net/ipv6/fib_multipath_hash_policy")?,
    );
    let mut change = Change::default();
    let mut wrong = Vec::new();
    if let Some(FlowHash { udp4, udp6 }) = &hash
        && udp4 != udp6
    {
        wrong.push(format!("the card hashes udp4 by {udp4:?} and udp6 by {udp6:?}"));
        change.set(Setting::FlowHash { port: port.to_owned(), flow: Flow::Udp6 }, udp4, udp6);
    }
    if let (Some(v4), Some(v6)) = policies
        && v4 != v6
    {
        wrong.push(format!("fib_multipath_hash_policy is {v4} for IPv4 and {v6} for IPv6"));
        change.sysctl("net.ipv6.fib_multipath_hash_policy", v4, v6);
    }
    if !wrong.is_empty() {
        return Outcome::finding(wrong.join("; "), change);
    }
    match (hash, policies) {
        (None, (Some(policy), Some(_))) => {
            Outcome::fine(format!("ECMP policy {policy} for both; the card does not say how it hashes"))
        }
        (Some(hash), _) => Outcome::fine(format!("both hashed by {:?}", hash.udp4)),
        (None, _) => Outcome::not_applicable("one family alone, and a card that does not say how it hashes"),
    }
}
