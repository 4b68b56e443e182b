//! Where packets are lost inside the host, and whose fault each loss is.

use std::collections::BTreeMap;

use pathlab_guard::ethtool::Group;

use crate::{
    audit::{Expectation, Judged, Outcome, counted},
    change::Change,
    counters::{Counter, KERNELS_OWN, Meaning, meaning, suspect, without_queue},
    facts::{Facts, Missing, if_there},
    port::{Driver, Rings, XdpSocket},
    processors::{self, Softnet},
    source::Unread,
};

/// What one CPU takes out of a ring in a second when all is well, through the kernel's stack: what a full ring's delay is reckoned by.
const DRAIN: u64 = 2_000_000;

pub(super) fn ring(facts: &Facts<'_>, expectation: &Expectation, port: &str) -> Judged {
    let Some(rings) = if_there(facts.told::<Rings>(&format!("port/{port}/rings")))? else {
        return Outcome::not_applicable("the driver has no rings to set");
    };
    let (Some(rx), Some(most)) = (rings.rx, rings.rx_max.filter(|most| *most > 0)) else {
        return Outcome::not_applicable("the driver does not tell its receive ring");
    };
    let lost = losses(facts, port)?
        .into_iter()
        .filter(|counter| counter.meaning == Some(Meaning::RingFull))
        .map(|counter| counter.lately.unwrap_or(counter.total))
        .sum::<u64>();
    let delay = u64::from(rx) * 1_000_000 / DRAIN;
    let resize = |wanted: u32| Change::parameters(Group::Rings, port, format!("rx {wanted}"), format!("rx {rx}"));
    if let Some(burst) = expectation.burst.filter(|burst| *burst > rx) {
        let wanted = burst.checked_next_power_of_two().unwrap_or(most).min(most);
        return if wanted > rx {
            Outcome::finding(
                format!(
                    "{rx} descriptors, a burst has {burst} packets: {} of them are lost if none leaves meanwhile",
                    burst - rx
                ),
                resize(wanted),
            )
        } else {
            Outcome::remark(format!(
                "{rx} descriptors are all that the card has, a burst has {burst} packets: spread it over queues"
            ))
        };
    }
    if lost > 0 {
        let wanted = rx.saturating_mul(2).min(most);
        let because = format!("{lost} packets found no free descriptor in a ring of {rx}");
        return if wanted > rx {
            Outcome::finding(
                because + "; a longer ring delays instead of dropping, a faster CPU does neither",
                resize(wanted),
            )
        } else {
            Outcome::remark(because + ", the largest there is: the CPU of its queue is too slow")
        };
    }
    if delay > u64::from(expectation.budget_us) {
        let wanted = u64::from(expectation.budget_us) * DRAIN / 1_000_000;
        let wanted = u32::try_from(wanted).unwrap_or(rx).max(64);
        let wanted = 1 << wanted.ilog2();
        return Outcome::finding(
            format!(
                "{rx} descriptors lost nothing, and when full hold a packet {delay} µs at 2 million a second; the budget is {} µs",
                expectation.budget_us
            ),
            resize(wanted),
        );
    }
    Outcome::fine(format!(
        "{rx} of at most {most} descriptors lost nothing; full, they hold a packet {delay} µs at 2 million a second"
    ))
}

pub(super) fn softnet(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let now = processors::softnet(&facts.text("proc/net/softnet_stat")?);
    let before = if_there(facts.text("before/proc/net/softnet_stat"))?.map(|text| processors::softnet(&text));
    let sum = |lines: &[Softnet], column: fn(&Softnet) -> u32| lines.iter().map(|cpu| u64::from(column(cpu))).sum();
    let total = |column: fn(&Softnet) -> u32| -> u64 { sum(&now, column) };
    let lately = |column: fn(&Softnet) -> u32| {
        before.as_ref().map(|before| total(column).wrapping_sub(sum(before, column)) & u64::from(u32::MAX))
    };
    let (dropped, squeezed, processed) =
        (total(|cpu| cpu.dropped), total(|cpu| cpu.squeezed), total(|cpu| cpu.processed));
    let budget = facts.number("proc/sys/net/core/netdev_budget")?;
    let time = facts.number("proc/sys/net/core/netdev_budget_usecs")?;
    let backlog = facts.number("proc/sys/net/core/netdev_max_backlog")?;
    let mut change = Change::default();
    let mut wrong = Vec::new();
    if lately(|cpu| cpu.dropped).unwrap_or(dropped) > 0 {
        wrong.push(format!(
            "{} packets dropped from a backlog of {backlog}",
            lately(|cpu| cpu.dropped).unwrap_or(dropped)
        ));
        change.sysctl("net.core.netdev_max_backlog", backlog * 2, backlog);
    }
    // A squeeze now and then is the budget doing its work.
    let often = |squeezed: u64, processed: u64| squeezed > 0 && squeezed.saturating_mul(10_000) > processed;
    let squeezes = match (lately(|cpu| cpu.squeezed), lately(|cpu| cpu.processed)) {
        (Some(squeezed), Some(processed)) => (squeezed, processed),
        _ => (squeezed, processed),
    };
    if often(squeezes.0, squeezes.1) {
        wrong.push(format!(
            "out of budget ({budget} packets, {time} µs) {} times in {} packets",
            squeezes.0, squeezes.1
        ));
        change.sysctl("net.core.netdev_budget", budget * 2, budget);
        change.sysctl("net.core.netdev_budget_usecs", time * 2, time);
    }
    if wrong.is_empty() {
        return Outcome::fine(format!(
            "{dropped} dropped and {squeezed} times out of budget in {processed} packets since the start, none that matters lately"
        ));
    }
    Outcome::finding(wrong.join("; "), change)
}

pub(super) fn udp_buffers(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let v4 = |text: &str| snmp(text, "Udp:", "RcvbufErrors");
    let v6 =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")?.trim().parse::<u64>().ok());
    let now = v4(&facts.text("proc/net/snmp")?).unwrap_or(0)
        + if_there(facts.text("proc/net/snmp6"))?.as_deref().and_then(v6).unwrap_or(0);
    let earlier = if_there(facts.text("before/proc/net/snmp"))?
        .as_deref()
        .and_then(v4)
        .map(|before| before + facts.text("before/proc/net/snmp6").ok().as_deref().and_then(v6).unwrap_or(0));
    let mut sockets: Vec<(u64, u16)> = Vec::new();
    for path in ["proc/net/udp", "proc/net/udp6"] {
        let Some(text) = if_there(facts.text(path))? else { continue };
        sockets.extend(text.lines().skip(1).filter_map(losing_socket));
    }
    sockets.sort_unstable_by(|one, other| other.cmp(one));
    let most = facts.number("proc/sys/net/core/rmem_max")?;
    let lost = earlier.map_or(now, |earlier| now.saturating_sub(earlier));
    if lost == 0 && sockets.is_empty() {
        return Outcome::fine(format!("no open socket has lost one, {now} since the start"));
    }
    let mut because = format!("{lost} datagrams lost for want of room");
    if earlier.is_some() {
        because += " lately";
    }
    if let Some((drops, udp_port)) = sockets.first() {
        because +=
            &format!("; {} lost some, most of them {drops} on port {udp_port}", counted(sockets.len(), "open socket"));
    }
    let mut change = Change::default();
    if most < 4 << 20 {
        change.sysctl("net.core.rmem_max", 4 << 20, most);
    }
    because += ": give it a larger SO_RCVBUF, or a faster reader";
    Outcome::finding(because, change)
}

/// Losses and port of a socket that has lost something: a line of `/proc/net/udp`.
fn losing_socket(line: &str) -> Option<(u64, u16)> {
    let mut columns = line.split_whitespace();
    let port = columns.nth(1)?.rsplit(':').next()?;
    let drops: u64 = columns.last()?.parse().ok()?;
    (drops > 0).then_some((drops, u16::from_str_radix(port, 16).ok()?))
}

/// A value of `/proc/net/snmp`: a line of names above a line of values, both with the same first word.
fn snmp(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(group));
    let place = lines.next()?.split_whitespace().position(|column| column == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

pub(super) fn af_xdp(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let sockets: Vec<XdpSocket> = match facts.told("xdp_sockets") {
        Err(Missing { path, reason: Unread::Absent }) => {
            return Err(Missing {
                path,
                reason: Unread::Refused("the kernel was built without CONFIG_XDP_SOCKETS_DIAG".into()),
            });
        }
        sockets => sockets?,
    };
    let index = facts.number(&format!("sys/class/net/{port}/ifindex"))?;
    let own: Vec<&XdpSocket> = sockets.iter().filter(|socket| i64::from(socket.ifindex) == index).collect();
    if own.is_empty() {
        return Outcome::not_applicable("no AF_XDP socket on this port");
    }
    let mut wrong = Vec::new();
    for socket in &own {
        let Some(statistics) = socket.statistics else { continue };
        let rings = format!(
            "queue {}: rx ring {}, fill ring {}",
            socket.queue,
            length(socket.rx_ring),
            length(socket.fill_ring)
        );
        if statistics.rx_ring_full > 0 {
            wrong.push(format!("{rings}: rx ring full {} times: the reader is too slow", statistics.rx_ring_full));
        }
        if statistics.rx_fill_ring_empty > 0 {
            wrong.push(format!(
                "{rings}: fill ring empty {} times: frames come back too late",
                statistics.rx_fill_ring_empty
            ));
        }
    }
    if !wrong.is_empty() {
        return Outcome::remark(wrong.join("; "));
    }
    let copied = own.iter().filter(|socket| socket.zero_copy == Some(false)).count();
    let how = if copied == 0 { String::new() } else { format!(", {copied} of them copy") };
    Outcome::fine(format!("{} lost nothing{how}", counted(own.len(), "socket")))
}

fn length(ring: Option<u32>) -> String {
    ring.map_or_else(|| "unknown".into(), |entries| entries.to_string())
}

pub(super) fn counters(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let losses = losses(facts, port)?;
    let growing: Vec<&Counter> = losses.iter().filter(|counter| counter.lately.unwrap_or(counter.total) > 0).collect();
    let told = |counter: &&Counter| {
        let cause = counter.meaning.map_or("not in this driver's table", Meaning::sentence);
        match counter.lately {
            Some(lately) => format!("{} +{lately} ({cause})", counter.name),
            None => format!("{} {} ({cause})", counter.name, counter.total),
        }
    };
    if growing.is_empty() {
        let total: u64 = losses.iter().map(|counter| counter.total).sum();
        return Outcome::fine(if total == 0 {
            "none".to_owned()
        } else {
            format!("none lately, {total} since the counters began, most in {}", losses[0].name)
        });
    }
    let known = growing.iter().filter(|counter| counter.meaning.is_some()).count();
    let list: Vec<String> = growing.iter().map(told).collect();
    if known == 0 {
        return Outcome::fine(format!(
            "none that is known to be a loss; not in the table and growing: {}",
            list.join("; ")
        ));
    }
    Outcome::remark(list.join("; "))
}

/// Counters of losses that are not zero, the largest first: the driver's own, or where it has none, the kernel's for every port.
fn losses(facts: &Facts<'_>, port: &str) -> Result<Vec<Counter>, Missing> {
    let driver = if_there(facts.told::<Driver>(&format!("port/{port}/driver")))?.unwrap_or_default().driver;
    let statistics = |path: String| if_there(facts.told::<BTreeMap<String, u64>>(&path));
    let Some(now) = statistics(format!("port/{port}/statistics"))? else {
        return general(facts, port);
    };
    let before = statistics(format!("before/port/{port}/statistics"))?;
    let summed = |statistics: &BTreeMap<String, u64>| {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (name, value) in statistics {
            if meaning(&driver, name).is_some() || suspect(name) {
                *sums.entry(without_queue(name)).or_default() += value;
            }
        }
        sums
    };
    let before = before.map(|before| summed(&before));
    let mut counters: Vec<Counter> = summed(&now)
        .into_iter()
        .filter(|(_, total)| *total > 0)
        .map(|(name, total)| Counter {
            meaning: meaning(&driver, &name),
            total,
            lately: before.as_ref().map(|before| total.saturating_sub(before.get(&name).copied().unwrap_or(0))),
            name,
        })
        .collect();
    counters.sort_by_key(|counter| std::cmp::Reverse(counter.total));
    Ok(counters)
}

/// `/sys/class/net/IF/statistics`.
fn general(facts: &Facts<'_>, port: &str) -> Result<Vec<Counter>, Missing> {
    let mut counters = Vec::new();
    for (name, cause) in KERNELS_OWN {
        let total = facts.number(&format!("sys/class/net/{port}/statistics/{name}"))?;
        if let Some(total) = u64::try_from(total).ok().filter(|total| *total > 0) {
            counters.push(Counter { name: name.to_owned(), meaning: Some(cause), total, lately: None });
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_under_their_names() {
        let text = "Udp: InDatagrams RcvbufErrors\nUdp: 7 3\nUdpLite: InDatagrams RcvbufErrors\nUdpLite: 1 2\n";
        assert_eq!(snmp(text, "Udp:", "RcvbufErrors"), Some(3));
        assert_eq!(snmp(text, "Udp:", "Nothing"), None);
    }

    #[test]
    fn a_socket_that_lost_datagrams_is_named_by_its_port() {
        let line =
            "  12: 0100007F:035E 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0 41";
        assert_eq!(losing_socket(line), Some((41, 862)));
        assert_eq!(losing_socket(&line.replace("41", "0")), None);
    }
}
