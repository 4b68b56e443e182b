//! The account as OpenMetrics: which metric says what, under which labels. Every label has a bounded number of values.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use pathlab_record::Plane;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    ReflectorReport,
    places::{Bins, Place, Stages},
    report::QueueReport,
};

/// The whole text, `# EOF` included.
pub(super) fn text(report: Option<Arc<ReflectorReport>>) -> String {
    let mut registry = Registry::with_prefix("pathlab_reflector");
    if let Some(report) = report {
        registry.register_collector(Box::new(Account(report)));
    }
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    text
}

#[derive(Debug)]
struct Account(Arc<ReflectorReport>);

type Label = (&'static str, Cow<'static, str>);

fn number(name: &'static str, number: Option<u32>) -> Label {
    (name, number.map_or(Cow::Borrowed(""), |number| number.to_string().into()))
}

fn plane_name(plane: Plane) -> &'static str {
    match plane {
        Plane::App => "app",
        Plane::Sched => "sched",
        Plane::Kernel => "kernel",
        Plane::Xdp => "xdp",
        Plane::Nic => "nic",
    }
}

impl Collector for Account {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let report = &*self.0;
        let mut families = Families(encoder);
        let identity = [("datapath", report.datapath), ("version", env!("CARGO_PKG_VERSION"))];
        let mut info = families.0.encode_descriptor("build", "What answers", None, MetricType::Info)?;
        info.encode_info(&identity)?;

        families.datagrams(
            "received",
            "Datagrams that came to its port, the dropped ones included",
            report.received,
        )?;
        families.datagrams("replied", "Replies sent", report.replied)?;
        let reasons = report.refused.iter().map(|(reason, count)| ([("reason", *reason)], *count));
        families.counters("refused", "Datagrams without a reply, by reason", datagrams(), reasons)?;
        let dropped = "Datagrams that the kernel dropped before the reflector could see them";
        families.datagrams("kernel_dropped", dropped, report.kernel_drops)?;
        let handed = "Requests left to the stack for want of an AF_XDP socket on their queue";
        families.datagrams("handed_to_stack", handed, report.handed_to_stack)?;
        let undelivered = "Replies that an ICMP message reported as not delivered";
        families.datagrams("undelivered", undelivered, report.undelivered)?;
        let steps = "Replies whose B3 was before their B2, for a step of the clock";
        families.counters("clock_steps", steps, None, [([("datapath", report.datapath)], report.clock_steps)])?;
        let seen = [("system", Some(report.steps.system)), ("card", report.steps.card)];
        let seen = seen.into_iter().filter_map(|(clock, count)| Some(([("clock", clock)], count?)));
        families.counters("steps", "Steps of this host's clocks that were seen", None, seen)?;
        if let Some(traced) = report.return_trace {
            let outcomes = [("limited", traced.limited), ("refused", traced.refused), ("answered", traced.answered)];
            let outcomes = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count));
            let help = "Replies that a sender asked to end on their way, those that left with the usual hop limit, and errors about the former";
            families.counters("return_trace", help, None, outcomes)?;
        }
        if let Some(void) = report.nic_void {
            families.datagrams(
                "nic_void",
                "Datagrams whose stamp by the card was void, for a step of a clock",
                void,
            )?;
        }

        let by_plane = |counts: &BTreeMap<Plane, u64>| -> Vec<_> {
            counts.iter().map(|(plane, count)| ([("plane", plane_name(*plane))], *count)).collect()
        };
        let arrivals = by_plane(&report.received_on);
        families.counters("arrivals_stamped", "Replies by the plane of their B2", datagrams(), arrivals)?;
        let departures = by_plane(&report.sent_on);
        let help = "Replies by the plane of the stamp of their departure";
        families.counters("departures_stamped", help, datagrams(), departures)?;
        let nic = "Datagrams whose arrival the card stamped";
        families.datagrams("nic_stamped", nic, report.nic_received)?;
        families.coverage(report)?;
        families.queues(&report.queues)?;
        families.places(&report.places)
    }
}

fn datagrams() -> Option<Unit> {
    Some(Unit::Other("datagrams".into()))
}

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn datagrams(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let unit = datagrams();
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        count_of(&mut encoder, count)
    }

    fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        counts: impl IntoIterator<Item = ([(&'static str, &'a str); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, count) in counts {
            count_of(&mut encoder.encode_family(&labels)?, count)?;
        }
        Ok(())
    }

    /// Which share of the replies has a stamp of each plane, where there are replies.
    fn coverage(&mut self, report: &ReflectorReport) -> fmt::Result {
        let help = "Share of the replies with a stamp of that plane at that point";
        let mut encoder = self.0.encode_descriptor("stamp_coverage", help, Some(&Unit::Ratios), MetricType::Gauge)?;
        for (point, counts) in [("B2", &report.received_on), ("B3", &report.sent_on)] {
            for (plane, count) in counts.iter().filter(|_| report.replied > 0) {
                let labels = [("point", point), ("plane", plane_name(*plane))];
                encoder.encode_family(&labels)?.encode_gauge(&(*count as f64 / report.replied as f64))?;
            }
        }
        Ok(())
    }

    fn queues(&mut self, queues: &[QueueReport]) -> fmt::Result {
        type Count = fn(&QueueReport) -> u64;
        let descriptors = || Some(Unit::Other("descriptors".into()));
        let columns: [(&str, &str, Option<Unit>, Count); 8] = [
            ("queue_received", "Datagrams through the AF_XDP socket", datagrams(), |queue| queue.received),
            ("queue_replied", "Replies of the AF_XDP socket", datagrams(), |queue| queue.replied),
            (
                "queue_rx_dropped",
                "XDP_STATISTICS: dropped for want of a frame, or because longer than one",
                datagrams(),
                |queue| queue.rx_dropped,
            ),
            ("queue_rx_ring_full", "XDP_STATISTICS: dropped because the rx ring was full", datagrams(), |queue| {
                queue.rx_ring_full
            }),
            ("queue_fill_ring_empty", "XDP_STATISTICS: how often the fill ring was empty", None, |queue| {
                queue.rx_fill_ring_empty
            }),
            ("queue_tx_ring_empty", "XDP_STATISTICS: how often the tx ring was empty when looked at", None, |queue| {
                queue.tx_ring_empty
            }),
            (
                "queue_invalid",
                "XDP_STATISTICS: entries of the fill and tx rings that the kernel did not take",
                descriptors(),
                |queue| queue.invalid_descriptors,
            ),
            ("queue_stray", "Ring entries from the kernel that named no frame it had", descriptors(), |queue| {
                queue.strays
            }),
        ];
        if queues.is_empty() {
            return Ok(());
        }
        for (name, help, unit, count) in columns {
            let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for queue in queues {
                let labels = [number("queue", Some(queue.queue)), ("bind_mode", queue.bind_mode.into())];
                count_of(&mut encoder.encode_family(&labels)?, count(queue))?;
            }
        }
        Ok(())
    }

    fn places(&mut self, places: &[(Place, Stages)]) -> fmt::Result {
        let labels = |place: &Place| {
            [
                number("queue", place.queue),
                number("irq_cpu", place.irq_cpu),
                number("cpu", place.cpu),
                number("node", place.node),
            ]
        };
        let help = "B3 - B2 by receive queue, CPU of its interrupt, CPU and NUMA node of the reflector";
        let mut encoder = self.0.encode_descriptor("residence", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (place, stages) in places.iter().filter(|(_, stages)| stages.residence.count() > 0) {
            histogram(&mut encoder.encode_family(&labels(place))?, &stages.residence)?;
        }
        let help = "Parts of the time in the host: arrive is B2 on its plane to the reflector, answer from there to B3, \
                    leave from B3 to the hand-over to the driver";
        let mut encoder = self.0.encode_descriptor("stage", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (place, stages) in places {
            let [queue, irq_cpu, cpu, node] = labels(place);
            let staged = [("arrive", &stages.arrive), ("answer", &stages.answer), ("leave", &stages.leave)];
            for (stage, bins) in staged.into_iter().filter(|(_, bins)| bins.count() > 0) {
                let labels =
                    [queue.clone(), irq_cpu.clone(), cpu.clone(), node.clone(), ("stage", Cow::Borrowed(stage))];
                histogram(&mut encoder.encode_family(&labels)?, bins)?;
            }
        }
        Ok(())
    }
}

fn count_of(encoder: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn histogram(encoder: &mut MetricEncoder<'_>, bins: &Bins) -> fmt::Result {
    let seconds = |nanos: i64| nanos as f64 / 1e9;
    let buckets: Vec<_> = bins.bins().map(|(bound, count)| (bound.map_or(f64::INFINITY, seconds), count)).collect();
    encoder.encode_histogram::<NoLabelSet>(seconds(bins.sum()), bins.count(), &buckets, None)
}
