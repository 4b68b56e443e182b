//! How software spreads packets over CPUs: RPS, RFS and XPS.

use crate::{
    audit::{Expectation, Judged, Outcome, counted},
    change::Change,
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
    let share = share(global, queues.len());
    let mut change = Change::default();
    let mut with = 0;
    for queue in &queues {
        let path = format!("sys/class/net/{port}/queues/rx-{queue}/rps_flow_cnt");
        let now = facts.number(&path)?;
        with += usize::from(now > 0);
        if u64::try_from(now) != Ok(share) {
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

/// A queue's part of the host's entries, as the kernel holds it: it rounds up to a power of two, and a value that would read back as another
/// is no command to show.
fn share(entries: i64, queues: usize) -> u64 {
    let (Ok(entries), Ok(queues)) = (u64::try_from(entries), u64::try_from(queues)) else { return 0 };
    match entries.checked_div(queues) {
        None | Some(0) => 0,
        Some(share) => share.next_power_of_two(),
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::source::Tree;

    #[test]
    fn three_queues_are_told_what_the_kernel_will_hold() {
        let host = tempfile::tempdir().unwrap();
        let core = host.path().join("proc/sys/net/core");
        fs::create_dir_all(&core).unwrap();
        fs::write(core.join("rps_sock_flow_entries"), "32768\n").unwrap();
        let queues = host.path().join("sys/class/net/eth0/queues");
        for (queue, entries) in [(0, "0\n"), (1, "16384\n"), (2, "0\n")] {
            let queue = queues.join(format!("rx-{queue}"));
            fs::create_dir_all(&queue).unwrap();
            fs::write(queue.join("rps_flow_cnt"), entries).unwrap();
        }
        let tree = Tree::new(host.path());
        let Ok(Outcome::Finding(_, Some(change))) = rfs(&Facts::new(&tree), &Expectation::default(), "eth0") else {
            panic!("two queues have no table, and that is a finding")
        };
        let to = |value: u32| {
            [0, 2].map(|queue| format!("echo {value} > /sys/class/net/eth0/queues/rx-{queue}/rps_flow_cnt")).to_vec()
        };
        assert_eq!((change.fix(), change.undo()), (to(16384), to(0)));
    }

    #[test]
    fn a_share_is_a_power_of_two_or_nothing() {
        for (entries, queues, expected) in [
            (0, 4, 0),
            (32_768, 4, 8_192),
            (32_768, 3, 16_384),
            (2, 4, 0),
            (4, 0, 0),
            (-1, 4, 0),
            (i64::MAX, 1, 1 << 63),
        ] {
            assert_eq!(share(entries, queues), expected, "{entries} entries over {queues} queues");
        }
    }
}
