//! How software spreads packets over CPUs: RPS, RFS and XPS.

use crate::{
    audit::{Change, Expectation, Judged, Outcome, counted},
    cpus::Cpus,
    facts::{Facts, if_there},
};

pub(super) fn rps(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let queues = facts.queues(port, "rx")?;
    let local = facts.local(port)?;
    let spare = queues.len() < local.len();
    let mut change = Change::default();
    let (mut on, mut far) = (0, 0);
    for queue in &queues {
        let path = format!("sys/class/net/{port}/queues/rx-{queue}/rps_cpus");
        let now = facts.mask(&path)?;
        on += usize::from(!now.is_empty());
        far += usize::from(!now.within(&local));
        let wanted = if spare { local.clone() } else { Cpus::default() };
        if now != wanted {
            change.write(&path, &wanted.to_mask(), &now.to_mask());
        }
    }
    match (spare, on) {
        (false, 0) => Outcome::fine(format!("off: each of {} near CPUs has a queue", local.len())),
        (false, _) => Outcome::finding(
            format!(
                "on for {on} of {} queues although each near CPU has one: a packet changes CPU for nothing",
                queues.len()
            ),
            change,
        ),
        (true, 0) => Outcome::finding(
            format!(
                "off, with {} for {} near CPUs: one CPU does all the work of a queue",
                counted(queues.len(), "queue"),
                local.len()
            ),
            change,
        ),
        (true, _) if far > 0 => {
            Outcome::finding(format!("sends packets of {} to CPUs away from {local}", counted(far, "queue")), change)
        }
        (true, _) => Outcome::fine(format!("on for {on} of {}, CPUs near", counted(queues.len(), "queue"))),
    }
}

pub(super) fn rfs(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let Some(global) = facts.number_if_there("proc/sys/net/core/rps_sock_flow_entries")? else {
        return Outcome::not_applicable("the kernel has no RPS");
    };
    let queues = facts.queues(port, "rx")?;
    let share = if queues.is_empty() { 0 } else { global / i64::try_from(queues.len()).unwrap_or(1) };
    let mut change = Change::default();
    let mut with = 0;
    for queue in &queues {
        let path = format!("sys/class/net/{port}/queues/rx-{queue}/rps_flow_cnt");
        let now = facts.number(&path)?;
        with += usize::from(now > 0);
        if now != share {
            change.write(&path, &share.to_string(), &now.to_string());
        }
    }
    match (global, with) {
        (0, 0) => Outcome::fine("off"),
        (0, _) => {
            Outcome::finding(format!("{with} queues have a flow table, the host has none: RFS does nothing"), change)
        }
        (_, with) if with == queues.len() => Outcome::fine(format!("{global} entries, every queue has a table")),
        (_, with) => Outcome::finding(
            format!("the host has {global} entries, {} of {} queues have no table", queues.len() - with, queues.len()),
            change,
        ),
    }
}

pub(super) fn xps(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let queues = facts.queues(port, "tx")?;
    if queues.len() < 2 {
        return Outcome::not_applicable("one transmit queue: XPS has no effect");
    }
    let online = facts.online()?;
    let mut masks: Vec<(String, Cpus)> = Vec::new();
    for queue in &queues {
        let path = format!("sys/class/net/{port}/queues/tx-{queue}/xps_cpus");
        match if_there(facts.mask(&path))? {
            Some(mask) => masks.push((path, mask)),
            None => return Outcome::not_applicable("the kernel has no XPS"),
        }
    }
    let by_queue = facts.mask(&format!("sys/class/net/{port}/queues/tx-0/xps_rxqs"));
    if by_queue.is_ok_and(|queues| !queues.is_empty()) {
        return Outcome::fine("chosen by the receive queue (xps_rxqs)");
    }
    let served = |cpu: u32| masks.iter().filter(|(_, mask)| mask.0.contains(&cpu)).count();
    let unserved = online.0.iter().filter(|cpu| served(**cpu) == 0).count();
    let shared = online.0.iter().filter(|cpu| served(**cpu) > 1).count();
    if unserved == 0 && shared == 0 {
        return Outcome::fine(format!("{} queues, each CPU sends by one of them", queues.len()));
    }
    let mut change = Change::default();
    for (at, (path, now)) in masks.iter().enumerate() {
        let mine = online.0.iter().enumerate().filter(|(place, _)| place % queues.len() == at).map(|(_, cpu)| *cpu);
        let wanted = Cpus(mine.collect());
        if *now != wanted {
            change.write(path, &wanted.to_mask(), &now.to_mask());
        }
    }
    let because = if unserved == online.len() {
        "not set: a flow's queue is chosen by its hash, and CPUs contend for queues".to_owned()
    } else if unserved > 0 {
        format!("{unserved} of {} CPUs have no queue", online.len())
    } else {
        format!("{shared} of {} CPUs send by several queues", online.len())
    };
    Outcome::finding(because, change)
}
