//! Bursts through real AF_XDP rings: the kernel's counters are the closed form where the host sleeps, and the model's where it works.

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Duration;

use pathlab_netlab::{
    queue::Burst,
    ring::{Bench, Trial, Which},
};
use support::isolated;

/// Longer than any burst takes.
const ASLEEP: Duration = Duration::from_millis(200);

fn burst(packets: u32, wake: Duration, service: Duration) -> Burst {
    Burst { packets, gap: Duration::ZERO, service, wake }
}

#[test]
fn a_sleeping_host_loses_what_does_not_fit_and_nothing_else() {
    if !isolated("a_sleeping_host_loses_what_does_not_fit_and_nothing_else") {
        return;
    }
    let bench = Bench::new("rings").expect("namespaces");
    for (packets, descriptors) in [(300, 64), (65, 64), (1000, 512)] {
        for which in [Which::Rx, Which::Fill] {
            let asleep = burst(packets, ASLEEP, Duration::from_micros(1));
            let trial = bench.trial(which, descriptors, asleep).expect("sockets");
            eprintln!("{which:?} {descriptors}: {trial:?}");
            assert!(trial.took < ASLEEP, "the burst outlasted the host's sleep: {trial:?}");
            // On a machine that is held up the veth's own ring may run over before ours.
            let came = packets - u32::try_from(trial.wire_dropped).expect("of these packets");
            let lost = came.saturating_sub(descriptors);
            let counters = (trial.rx_ring_full, trial.rx_fill_ring_empty_descs);
            assert_eq!(counters, if which == Which::Rx { (lost.into(), 0) } else { (0, lost.into()) }, "{trial:?}");
            assert_eq!(trial.received + lost, came, "every packet has one fate: {trial:?}");
            let model = (packets.saturating_sub(descriptors), packets.min(descriptors));
            assert_eq!((trial.model.lost, trial.model.deepest), model);
        }
    }
}

#[test]
fn a_working_host_loses_what_the_model_says() {
    if !isolated("a_working_host_loses_what_the_model_says") {
        return;
    }
    let bench = Bench::new("rings").expect("namespaces");
    let service = Duration::from_micros(20);
    let mut judged = 0;
    for which in [Which::Rx, Which::Fill] {
        let trials: Vec<Trial> = [64, 256]
            .map(|descriptors| bench.trial(which, descriptors, burst(1024, Duration::ZERO, service)).expect("sockets"))
            .into();
        for trial in &trials {
            let fates = u64::from(trial.received) + trial.lost() + trial.wire_dropped;
            assert_eq!(fates, 1024, "every packet has one fate: {trial:?}");
            // A host that was held up for two packets' time is another host than the model's; and so is a sender that paused, or a wire that lost.
            let valid =
                trial.held_up < 2 * service && trial.took < Duration::from_millis(10) && trial.wire_dropped == 0;
            eprintln!("{which:?}: {trial:?}{}", if valid { "" } else { ": invalid" });
            if valid {
                judged += 1;
                // Of what comes while it works, the host takes one every 20 µs: a few more or less where the pace was uneven.
                let stray = trial.lost().abs_diff(trial.model.lost.into());
                assert!(
                    stray <= 12,
                    "{which:?}: {} lost, the model says {}: {trial:?}",
                    trial.lost(),
                    trial.model.lost
                );
            }
        }
    }
    eprintln!("{judged} of 4 trials were judged");
}
