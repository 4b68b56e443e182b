//! Totals of all sessions as OpenMetrics, by arm, family and server. Every label has few values.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    Account,
    bins::{Group, Packets, Total},
    kernel::bounds,
};

/// The first bucket of the kernel's that is a limit here: 1.05 ms; below it all is one.
const FIRST: u16 = 64 + 4 * 32;
/// Limits to each doubling.
const LIMITS: usize = 4;

/// The whole text, `# EOF` included.
pub(super) fn text(account: &Account) -> String {
    let mut registry = Registry::with_prefix("pathlab_canary");
    registry.register_collector(Box::new(Sessions(account.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    text
}

#[derive(Debug)]
struct Sessions(Account);

impl Collector for Sessions {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Account { totals, echoes, sessions, counted, steered } = &self.0;
        let packets = Unit::Other("packets".into());
        type Count = fn(&Packets) -> u64;
        let columns: [(&str, &str, Count); 5] = [
            ("sent_by_control", "Packets to clients by the devices of the control path", |packets| packets.by_control),
            ("sent_by_canary", "Packets to clients by the device of the canary path", |packets| packets.by_canary),
            ("received", "Packets of clients", |packets| packets.received),
            ("unmatched", "Acknowledgements of numbers that were not sent, or too long ago", |packets| {
                packets.unmatched
            }),
            ("ambiguous", "Echoes that tell no round trip", |packets| packets.ambiguous),
        ];
        for (name, help, count) in columns {
            let mut family = encoder.encode_descriptor(name, help, Some(&packets), MetricType::Counter)?;
            for (group, total) in totals {
                let count = count(&total.packets);
                family.encode_family(&labels(group))?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let (name, help) = match echoes {
            true => ("rtt", "From a packet to a client to the first packet that acknowledges it"),
            false => ("residence", "From a client's packet to the next packet to it, in this host"),
        };
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (group, total) in totals.iter().filter(|(_, total)| total.count() > 0) {
            let (sum, buckets) = histogram(total);
            family.encode_family(&labels(group))?.encode_histogram::<NoLabelSet>(sum, total.count(), &buckets, None)?;
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&(value as i64))
        };
        gauge("sessions", "Sessions in the kernel's table", *sessions)?;
        gauge("steering", "Whether the canary arm's sessions are on the canary path", u64::from(*steered))?;
        for (name, help, value) in [
            ("sessions_begun", "Sessions that began", counted.began),
            ("sessions_evicted", "Sessions that left the table for want of room", counted.evicted),
            ("strangers", "Packets of clients without a session", counted.unknown),
            ("short", "Packets too short for the fields or the key", counted.short),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn labels(group: &Group) -> [(&'static str, String); 3] {
    let arm = match group.arm {
        pathlab_record::Arm::Control => "control",
        pathlab_record::Arm::Canary => "canary",
    };
    [("arm", arm.to_owned()), ("family", group.family.to_string()), ("server", group.server.clone())]
}

/// Sum in seconds, and buckets by their upper limit, which is an edge of the kernel's: nothing is split.
fn histogram(total: &Total) -> (f64, Vec<(f64, u64)>) {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let sum = total.times.iter().map(|(bucket, count)| seconds(super::kernel::middle(*bucket)) * *count as f64).sum();
    let mut buckets: Vec<(f64, u64)> = (FIRST..=super::kernel::LAST)
        .step_by(32 / LIMITS)
        .map(|bucket| (seconds(bounds(bucket).0), 0))
        .chain([(f64::INFINITY, 0)])
        .collect();
    for (bucket, count) in &total.times {
        let place = bucket.checked_sub(FIRST).map_or(0, |above| 1 + usize::from(above) * LIMITS / 32);
        let last = buckets.len() - 1;
        buckets[place.min(last)].1 += count;
    }
    (sum, buckets)
}

#[cfg(test)]
mod tests {
    use pathlab_record::Arm;

    use super::*;
    use crate::passive::Counted;

    #[test]
    fn every_time_lies_below_its_limit_and_above_the_one_before() {
        for bucket in 0..=super::super::kernel::LAST {
            let total = Total { times: [(bucket, 7)].into(), ..Total::default() };
            let (_, buckets) = histogram(&total);
            let at = buckets.iter().position(|(_, count)| *count == 7).unwrap();
            let (lower, past) = bounds(bucket);
            assert!(buckets[at].0 >= past as f64 / 1e9 || buckets[at].0.is_infinite(), "{bucket}");
            assert!(at == 0 || buckets[at - 1].0 <= lower as f64 / 1e9, "{bucket}");
        }
    }

    #[test]
    fn residence_is_never_called_a_round_trip() {
        let group = Group { arm: Arm::Canary, family: 6, server: "tyo-a".into() };
        let total = Total { times: [(300, 2)].into(), ..Total::default() };
        let account = |echoes| Account {
            totals: [(group.clone(), total.clone())].into(),
            echoes,
            sessions: 1,
            counted: Counted { evicted: 4, ..Counted::default() },
            steered: false,
        };
        let text = super::text(&account(true));
        assert!(
            text.contains("pathlab_canary_rtt_seconds_count{arm=\"canary\",family=\"6\",server=\"tyo-a\"} 2"),
            "{text}"
        );
        assert!(text.contains("pathlab_canary_sessions_evicted_total 4") && text.ends_with("# EOF\n"), "{text}");
        let text = super::text(&account(false));
        assert!(text.contains("pathlab_canary_residence_seconds_count") && !text.contains("rtt"), "{text}");
    }
}
