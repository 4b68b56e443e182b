//! Metrics of the host beside its packets: queueing disciplines, cards, processors, control groups, alerts.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{Families, Labels, named, other};
use crate::watch::{Alert, Loss, QdiscReport, Report, RingPressure};

pub(super) fn encode(families: &mut Families<'_>, whole: &Report, now: &Report) -> fmt::Result {
    qdiscs(families, whole)?;
    cards(families, whole)?;
    processors(families, whole, now)?;
    let groups = || whole.throttling.iter().map(|group| ([("cgroup", group.cgroup.clone())], group));
    let help = "Periods of a limit of processor time in which something ran";
    families.counter("cgroup_run", help, &other("periods"), groups().map(|(labels, group)| (labels, group.periods)))?;
    let help = "Periods in which the share of the control group was used up before their end";
    let throttled = groups().map(|(labels, group)| (labels, group.throttled));
    families.counter("cgroup_throttled", help, &other("periods"), throttled)?;
    let help = "How long a control group was kept from running, summed over processors";
    families.counter("cgroup_waited", help, &Unit::Seconds, groups().map(|(labels, group)| (labels, group.seconds)))?;
    let counted = |wanted: fn(&Alert) -> bool| now.alerts.iter().filter(|alert| wanted(alert)).count() as f64;
    let losses = counted(|alert| matches!(alert, Alert::Losses { .. }));
    let waiting = counted(|alert| matches!(alert, Alert::Waiting { .. }));
    let exhausted = counted(|alert| matches!(alert, Alert::Exhausted { .. }));
    let alerts = [("losses", losses), ("waiting", waiting), ("exhausted", exhausted)];
    let alerts = alerts.map(|(what, count)| ([("what", what.to_owned())], count));
    families.gauge("alerts", "What is at its threshold or over it in the last interval", None, alerts)
}

/// Name, what it tells, its unit, and where it is in a report.
type Column<'a> = (&'a str, &'a str, Unit, fn(&QdiscReport) -> u64);

fn qdiscs(families: &mut Families<'_>, whole: &Report) -> fmt::Result {
    let each = || {
        whole.qdiscs.iter().map(|qdisc| {
            let words = [&qdisc.interface, &qdisc.kind, &qdisc.handle, &qdisc.parent].map(Clone::clone);
            let [interface, kind, handle, parent] = words;
            let labels: Labels<4> = [("interface", interface), ("kind", kind), ("handle", handle), ("parent", parent)];
            (labels, qdisc)
        })
    };
    let packets = || other("packets");
    let gauge = |value: fn(&QdiscReport) -> f64| each().map(move |(labels, qdisc)| (labels, value(qdisc)));
    let waiting = gauge(|qdisc| qdisc.waiting.into());
    families.gauge("qdisc_waiting", "Packets that wait in a qdisc", Some(&packets()), waiting)?;
    let octets = gauge(|qdisc| qdisc.waiting_octets.into());
    families.gauge("qdisc_backlog", "Octets that wait in a qdisc", Some(&Unit::Bytes), octets)?;
    let columns: [Column<'_>; 5] = [
        ("qdisc_left", "Packets that left a qdisc", packets(), |qdisc| qdisc.packets),
        ("qdisc_left", "Octets that left a qdisc", Unit::Bytes, |qdisc| qdisc.octets),
        ("qdisc_dropped", "Packets that a qdisc gave up", packets(), |qdisc| qdisc.drops.into()),
        (
            "qdisc_overlimit",
            "Times that a qdisc held back or refused a packet for its limits",
            other("times"),
            |qdisc| qdisc.overlimits.into(),
        ),
        ("qdisc_requeued", "Packets that the driver gave back, its ring being full", packets(), |qdisc| {
            qdisc.requeues.into()
        }),
    ];
    for (name, help, unit, count) in columns {
        families.counter(name, help, &unit, each().map(|(labels, qdisc)| (labels, count(qdisc))))?;
    }
    Ok(())
}

fn cards(families: &mut Families<'_>, whole: &Report) -> fmt::Result {
    let sizes = whole.rings.iter().flat_map(|port: &RingPressure| {
        let size = |ring: &str, size: Option<u32>| {
            Some(([("interface", port.interface.clone()), ("ring", ring.to_owned())], f64::from(size?)))
        };
        [size("rx", port.rx_ring), size("tx", port.tx_ring)]
    });
    let help = "Descriptors of each receive and transmit ring";
    families.gauge("ring_size", help, Some(&other("descriptors")), sizes.flatten())?;
    let losses = whole.rings.iter().flat_map(|port| port.losses.iter().map(move |loss| (port, loss)));
    let losses = losses.map(|(port, loss): (&RingPressure, &Loss)| {
        let labels = [
            ("interface", port.interface.clone()),
            ("queue", named(loss.queue)),
            ("counter", loss.counter.clone()),
            ("meaning", named(loss.meaning.map(word))),
        ];
        (labels, loss.packets)
    });
    families.counter("card_lost", "Packets that a counter of a card has lost", &other("packets"), losses)
}

/// As JSON spells it.
fn word(meaning: crate::Meaning) -> String {
    let spelled = serde_json::to_value(meaning).unwrap_or_default();
    spelled.as_str().unwrap_or_default().to_owned()
}

/// Shares are of the last interval: since the watch began they would hardly move.
fn processors(families: &mut Families<'_>, whole: &Report, now: &Report) -> fmt::Result {
    type Share = fn(&crate::watch::ProcessorReport) -> f64;
    let columns: [(&str, &str, Share); 3] = [
        ("processor_stolen", "Share in which the hypervisor ran others", |of| of.stolen),
        ("processor_busy", "Share in which a processor neither idled nor was taken away", |of| of.busy),
        ("processor_softirq", "Share in softirqs", |of| of.softirq),
    ];
    for (name, help, share) in columns {
        let shares = now.processors.iter().map(|of| ([("processor", of.processor.to_string())], share(of)));
        families.gauge(name, help, Some(&Unit::Ratios), shares)?;
    }
    let each = || whole.processors.iter().map(|of| ([("processor", of.processor.to_string())], of));
    let help = "Times that a processor left off receiving for want of budget";
    families.counter("softnet_squeezed", help, &other("times"), each().map(|(labels, of)| (labels, of.squeezed)))?;
    let help = "Packets dropped from a processor's full backlog";
    let drops = each().map(|(labels, of)| (labels, of.backlog_drops));
    families.counter("softnet_dropped", help, &other("packets"), drops)
}
