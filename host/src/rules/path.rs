//! What stands in a packet's way through the stack: egress queues, connection tracking, offloads that hold packets back.

use pathlab_guard::Setting;

use crate::{
    audit::{Expectation, Judged, Outcome},
    change::Change,
    facts::{Facts, if_there},
    port::{Features, Qdisc},
};

/// Qdiscs that keep flows apart, and those that keep no queue at all.
const GOOD: [&str; 6] = ["fq", "fq_codel", "cake", "fq_pie", "noqueue", "etf"];
/// Qdiscs that only hold others.
const HOLDERS: [&str; 3] = ["mq", "mqprio", "clsact"];

pub(super) fn egress(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let path = format!("qdisc/{port}");
    let qdiscs: Vec<Qdisc> = facts.told(&path)?;
    let before: Option<Vec<Qdisc>> = if_there(facts.told(&format!("before/{path}")))?;
    let Some(root) = qdiscs.iter().find(|qdisc| qdisc.parent == "root") else {
        return Outcome::not_applicable("no qdisc");
    };
    let queues: Vec<&Qdisc> =
        qdiscs.iter().filter(|qdisc| !HOLDERS.contains(&qdisc.kind.as_str()) && qdisc.kind != "ingress").collect();
    let kinds = |queues: &[&Qdisc]| {
        let mut kinds: Vec<&str> = queues.iter().map(|qdisc| qdisc.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.join(", ")
    };
    let long: Vec<&Qdisc> = queues.iter().copied().filter(|qdisc| !GOOD.contains(&qdisc.kind.as_str())).collect();
    let sum = |qdiscs: &[Qdisc]| qdiscs.iter().map(|qdisc| u64::from(qdisc.drops)).sum::<u64>();
    let dropped = before.as_ref().map_or(sum(&qdiscs), |before| sum(&qdiscs).saturating_sub(sum(before)));
    let stands = queues.iter().any(|qdisc| {
        qdisc.queued > 0
            && before
                .iter()
                .flatten()
                .any(|earlier| earlier.parent == qdisc.parent && earlier.handle == qdisc.handle && earlier.queued > 0)
    });
    let mut wrong = Vec::new();
    let mut change = Change::default();
    if !long.is_empty() {
        wrong.push(format!("{} lets a bulk flow delay every other", kinds(&long)));
        // A default qdisc has no handle, and comes back when ours is deleted.
        let default = root.handle == "0:";
        if default {
            let kinds: Vec<&str> = qdiscs.iter().map(|qdisc| qdisc.kind.as_str()).collect();
            let children = qdiscs.len() - 1;
            // Below mq of ours each queue has its own, whatever net.core.default_qdisc says.
            let ours = if root.kind == "mq" {
                ["mq"].into_iter().chain(vec!["fq_codel"; children]).collect()
            } else {
                vec!["fq_codel"]
            };
            change.set(
                Setting::Qdisc { port: port.to_owned() },
                ours.join(" "),
                format!("default {}", kinds.join(" ")),
            );
        } else {
            wrong.push(format!(
                "root {} {} was put there by somebody: see who before it is replaced",
                root.kind, root.handle
            ));
        }
    }
    if dropped > 0 {
        wrong.push(format!("{dropped} packets dropped{}", if before.is_some() { " lately" } else { "" }));
    }
    if stands {
        wrong.push("a queue stands: the link is slower than what is sent".into());
    }
    match (wrong.is_empty(), change.is_empty()) {
        (true, _) => Outcome::fine(format!("{}, nothing dropped, nothing standing", kinds(&queues))),
        (false, true) => Outcome::remark(wrong.join("; ")),
        (false, false) => Outcome::finding(wrong.join("; "), change),
    }
}

pub(super) fn conntrack(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let Some(count) = facts.number_if_there("proc/sys/net/netfilter/nf_conntrack_count")? else {
        return Outcome::not_applicable("connection tracking is not loaded");
    };
    let most = facts.number("proc/sys/net/netfilter/nf_conntrack_max")?;
    if count * 5 < most * 4 {
        return Outcome::fine(format!("{count} of {most} entries"));
    }
    let mut change = Change::default();
    change.sysctl("net.netfilter.nf_conntrack_max", most * 2, most);
    Outcome::finding(
        format!(
            "{count} of {most} entries: when it is full, new sessions are dropped; better keep the game's UDP out of it (nft: notrack)"
        ),
        change,
    )
}

pub(super) fn offloads(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let Some(features) = if_there(facts.told::<Features>(&format!("port/{port}/features")))? else {
        return Outcome::not_applicable("the driver has no features to set");
    };
    let mut change = Change::default();
    let mut on = Vec::new();
    let mut fixed = Vec::new();
    for name in ["rx-lro", "rx-gro-hw"] {
        if !features.active.iter().any(|active| active == name) {
            continue;
        }
        on.push(name);
        if features.fixed.iter().any(|kept| kept == name) {
            fixed.push(name);
        } else {
            change.set(Setting::Feature { port: port.to_owned(), name: name.to_owned() }, "off", "on");
        }
    }
    if on.is_empty() {
        return Outcome::fine("no LRO, no hardware GRO");
    }
    let because = format!("{} on: the card joins packets before the stack or XDP sees them", on.join(" and "));
    if change.is_empty() {
        return Outcome::remark(format!("{because}; {} cannot be switched off", fixed.join(" and ")));
    }
    Outcome::finding(because, change)
}
