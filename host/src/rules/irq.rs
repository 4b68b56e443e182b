//! Where a port's interrupts land, and whether they stay there.

use std::collections::BTreeMap;

use crate::{
    audit::{Expectation, Judged, Outcome, counted},
    change::Change,
    cpus::Cpus,
    facts::{Facts, Missing, if_there},
};

/// An interrupt of a queue that receives.
struct QueueIrq {
    number: String,
    name: String,
}

/// The port's receive interrupts, in the order of their numbers; `None` where the device has none of its own (veth, loopback).
fn receive_irqs(facts: &Facts<'_>, port: &str) -> Result<Option<Vec<QueueIrq>>, Missing> {
    let Some(own) = if_there(facts.list(&format!("port/{port}/irqs")))? else { return Ok(None) };
    let text = facts.text("proc/interrupts")?;
    // The first line names the CPUs; a line of an interrupt: number, a count a CPU, the chip, what asked for it.
    let irqs = text.lines().skip(1).filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let name = rest.split_whitespace().last()?;
        (own.iter().any(|irq| irq == number) && receives(name))
            .then(|| QueueIrq { number: number.to_owned(), name: name.to_owned() })
    });
    Ok(Some(irqs.collect()))
}

/// Whether an interrupt of that name belongs to a queue that receives: `eth0-TxRx-3`, `mlx5_comp3@pci:...`, `virtio0-input.1`,
/// `eth0-Tx-Rx-2`, `eth0-rx-0`; not `...-config`, `mlx5_async0`, `ena-mgmnt`, `...-output.1`, `eth0-tx-0`.
fn receives(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or(name).to_ascii_lowercase();
    let queue = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    queue.len() < name.len()
        && ["txrx-", "tx-rx-", "-rx-", "mlx5_comp", "-input.", "ntfy-blk"].iter().any(|marker| queue.ends_with(marker))
}

pub(super) fn placement(facts: &Facts<'_>, expectation: &Expectation, port: &str) -> Judged {
    let Some(irqs) = receive_irqs(facts, port)? else {
        return Outcome::not_applicable("no device with interrupts of its own behind this port");
    };
    if irqs.is_empty() {
        return Outcome::not_applicable("none of its interrupts is named after a receive queue");
    }
    let local = facts.local(port)?;
    let wanted = match &expectation.cpus {
        // Beside the service, not on top of it, and not across the nodes.
        Some(cpus) if !cpus.within(&local) => {
            return Outcome::remark(format!(
                "the service's CPUs {cpus} are not near {port}, whose CPUs are {local}: move the service"
            ));
        }
        _ => &local,
    };
    let mut places: Vec<(&QueueIrq, Cpus)> = Vec::new();
    for irq in &irqs {
        places.push((irq, effective(facts, &irq.number)?));
    }
    let mut on: BTreeMap<u32, usize> = BTreeMap::new();
    for cpu in places.iter().flat_map(|(_, cpus)| &cpus.0) {
        *on.entry(*cpu).or_default() += 1;
    }
    let far = places.iter().filter(|(_, cpus)| !cpus.within(wanted)).count();
    let room = wanted.len().min(irqs.len());
    let used = on.keys().filter(|cpu| wanted.0.contains(cpu)).count();
    if far == 0 && used >= room {
        return Outcome::fine(format!(
            "{} on {used} of the near CPUs {wanted}",
            counted(irqs.len(), "receive interrupt")
        ));
    }
    let mut change = Change::default();
    for (at, (irq, _)) in places.iter().enumerate() {
        let path = format!("proc/irq/{}/smp_affinity_list", irq.number);
        let now = facts.line(&path)?;
        let cpu = wanted.0.iter().nth(at % wanted.len()).copied().unwrap_or_default().to_string();
        if now != cpu {
            change.write(&path, &cpu, &now);
        }
    }
    let because = if far > 0 {
        let (irq, cpus) = places.iter().find(|(_, cpus)| !cpus.within(wanted)).unwrap_or(&places[0]);
        format!(
            "{far} of {} receive interrupts land away from the near CPUs {wanted}, as {} on CPU {cpus}",
            irqs.len(),
            irq.name
        )
    } else {
        format!("{} receive interrupts share {used} CPUs, where {room} could have one each", irqs.len())
    };
    Outcome::finding(because, change)
}

/// Where an interrupt really lands; `smp_affinity_list` is what was wished.
fn effective(facts: &Facts<'_>, irq: &str) -> Result<Cpus, Missing> {
    match if_there(facts.cpus(&format!("proc/irq/{irq}/effective_affinity_list")))? {
        Some(cpus) if !cpus.is_empty() => Ok(cpus),
        _ => facts.cpus(&format!("proc/irq/{irq}/smp_affinity_list")),
    }
}

pub(super) fn wandering(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let Some(irqs) = receive_irqs(facts, port)? else {
        return Outcome::not_applicable("no device with interrupts of its own behind this port");
    };
    if irqs.is_empty() {
        return Outcome::not_applicable("none of its interrupts is named after a receive queue");
    }
    for QueueIrq { number, name } in &irqs {
        let path = format!("proc/irq/{number}/effective_affinity_list");
        let (Some(before), Some(now)) =
            (if_there(facts.line(&format!("before/{path}")))?, if_there(facts.line(&path))?)
        else {
            continue;
        };
        if before != now {
            return Outcome::remark(format!("{name} moved from CPU {before} to CPU {now} between two readings"));
        }
    }
    let services = facts.text("services")?;
    if services.lines().any(|name| name == "irqbalance") {
        return Outcome::finding(
            "irqbalance runs and may move them at any time",
            Change::by_hand("systemctl stop irqbalance", "systemctl start irqbalance"),
        );
    }
    Outcome::fine(format!("{} stayed, and irqbalance does not run", counted(irqs.len(), "receive interrupt")))
}

pub(super) fn threaded(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    match facts.number_if_there(&format!("sys/class/net/{port}/threaded"))? {
        None => Outcome::not_applicable("the kernel has no threaded NAPI (5.12 and later have)"),
        Some(0) => Outcome::fine("off"),
        Some(_) => Outcome::remark(format!(
            "on: pin each thread napi/{port}-N to the CPU of its queue's interrupt (taskset -p)"
        )),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn interrupts_of_queues_are_told_from_the_others() {
        for name in [
            "eth0-TxRx-3",
            "i40e-ens1f0-TxRx-0",
            "ice-ens1-TxRx-11",
            "mlx5_comp12@pci:0000:81:00.0",
            "virtio2-input.0",
            "eth0-Tx-Rx-7",
            "enp1s0-rx-0",
            "gve-ntfy-blk3@pci:0000:00:04.0",
        ] {
            assert!(super::receives(name), "{name}");
        }
        for name in [
            "mlx5_async0@pci:0000:81:00.0",
            "ena-mgmnt@pci:0000:00:05.0",
            "virtio2-config",
            "virtio2-output.0",
            "enp1s0-tx-0",
            "eth0",
            "i40e-0000:3b:00.0:misc",
        ] {
            assert!(!super::receives(name), "{name}");
        }
    }
}
