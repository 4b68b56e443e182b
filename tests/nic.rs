//! What a card's stamps are worth, on cards that are known to the nanosecond: `scripts/vm-test 6.12 nic`, on the test NIC of `tests/nic`.
//!
//! Its two ports have clocks of their own that start anywhere and run as wrongly as they are told, and the wire between them takes as long as
//! it is told. Each is a host of its own here.

#[path = "support/realtime.rs"]
mod realtime;
#[path = "support/test_nic.rs"]
mod test_nic;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use test_nic::{
    ALL, BACK, Hosts, Messages, PATIENCE, Ptp, Reflector, THERE, coverage, pathlab, probe, stamped_all_round, told,
    wires_found,
};

/// The samples whose reply has another right after it that came while the probe waited for it: a reply tells of the one before. Those whose
/// stamps the reflector has taken back, because its clocks may have been set, are not among them.
fn followed(samples: &[Value]) -> Vec<&Value> {
    // The probe waits for its interval of 50 ms and 100 ms more, by its own clock: where it is held up, it may look at it late.
    const WAITED_FOR: i64 = 100_000_000;
    let mut answered: Vec<&Value> = samples.iter().filter(|sample| sample["outcome"] == "received").collect();
    answered.sort_by_key(|sample| sample["seq"].as_u64());
    let pairs = answered.windows(2).filter(|pair| {
        let [this, next] = [pair[0], pair[1]].map(|sample| sample["seq"].as_u64());
        let waited_for = stamp(pair[0], "A4", "app")
            .zip(stamp(pair[1], "A4", "app"))
            .is_some_and(|(this, next)| next.0 - this.0 < WAITED_FOR);
        let not_void = pair.iter().all(|sample| sample["stamps"]["B2"]["nic"].is_array());
        this.zip(next).is_some_and(|(this, next)| next == this + 1) && waited_for && not_void
    });
    pairs.map(|pair| pair[0]).collect()
}

/// The reflector's stamps of one plane that had come when the next reply was made, and those that came too late to be told: all that came.
fn follow_ups(account: &Value, plane: &str) -> (u64, u64) {
    let [in_time, late] = ["in_time", "late"].map(|when| account["follow_ups"][plane][when].as_u64());
    let (in_time, late) = in_time.zip(late).unwrap_or_else(|| panic!("{account:#}"));
    assert_eq!(account["sent_on"][plane], in_time + late, "each was one or the other");
    (in_time, late)
}

/// How many samples have which stamps.
fn kinds(samples: &[Value]) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for sample in samples {
        let stamps = [("A1", "nic"), ("B2", "nic"), ("B3", "kernel"), ("B3", "nic"), ("A4", "nic")];
        let present = stamps.map(|(point, plane)| {
            if sample["stamps"][point][plane].is_array() { format!(" {point} {plane}") } else { String::new() }
        });
        *kinds.entry(format!("{}{}", sample["outcome"], present.concat())).or_default() += 1;
    }
    kinds
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn every_packet_is_stamped_by_both_cards_and_the_wire_is_as_long_as_it_is() {
    let hosts = Hosts::joined(&[]);
    let reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic --stateful");
    // The first seconds are those of the clocks, which are told in UTC once they are known well enough.
    probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 100"));
    let (report, samples) = probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 2200"));
    let account = reflector.stop();
    let received = samples.iter().filter(|sample| sample["outcome"] == "received").count() as u64;
    for (point, [packets, asked, stamped]) in [
        ("A1", coverage(&report, "A1")),
        ("A4", coverage(&report, "A4")),
        ("B2", coverage(&account, "B2")),
        ("B3", coverage(&account, "B3")),
    ] {
        eprintln!("{point}: {packets} packets, {asked} asked, {stamped} stamped");
        assert!(packets >= received && asked == packets && stamped == packets, "{point}");
    }
    let followed = followed(&samples);
    let told = followed.iter().filter(|sample| sample["stamps"]["B3"]["nic"].is_array()).count();
    eprintln!("B3 of the card told by the next reply: {told} of {}; {:#?}", followed.len(), kinds(&samples));
    // What was not told is what came too late, as the reflector counted it, and nothing else.
    let (in_time, late) = follow_ups(&account, "nic");
    let missing = (followed.len() - told) as u64;
    eprintln!(
        "of the reflector's stamps {in_time} came in time and {late} late, {missing} of these missed by the probe"
    );
    assert!(told >= 500 && missing <= late, "{told} of {}, {late} late", followed.len());
    let whole = stamped_all_round(&samples);
    let (found, of) = wires_found(&whole);
    let widths: Vec<i64> = whole.iter().filter_map(|sample| sample["ledger"]["u"].as_i64()).collect();
    eprintln!("the wire of 4 ms: {found} of {of} within what they state, {:?} ns at most", widths.iter().max());
    assert!(of >= 1000 && found * 1000 >= of * 999, "{found} of {of}: {:#}", whole[0]);
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn a_delay_in_a_host_is_that_hosts_alone() {
    let hosts = Hosts::joined(&[]);
    let median = |samples: &[&Value], term: &str| {
        let mut terms: Vec<i64> = samples.iter().filter_map(|sample| sample["ledger"][term].as_i64()).collect();
        terms.sort_unstable();
        terms[terms.len() / 2]
    };
    for (of_reflector, of_probe, term) in
        [("--fault-delay-tx 20ms", "", "residence"), ("", "--fault-delay-rx 20ms", "probe_rx")]
    {
        let reflector =
            Reflector::start(&hosts, "mlx5", &format!("--datapath socket --timestamps nic --stateful {of_reflector}"));
        let (_, samples) = probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 300 {of_probe}"));
        reflector.stop();
        let whole = stamped_all_round(&samples);
        let (found, of) = wires_found(&whole);
        assert!(of >= 100 && found * 1000 >= of * 999, "{term}: {found} of {of}: {:#}", whole[0]);
        // On the probe's own card, what is before and after the wire cannot be parted unless its clock is told in UTC.
        let delayed = median(&whole, term);
        eprintln!("{of_reflector}{of_probe}: {term} {delayed} ns");
        assert!(delayed >= 20_000_000, "{term}: {delayed}: {:#}", whole[0]);
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn a_reply_whose_stamp_was_lost_says_so() {
    let hosts = Hosts::joined(&[("lose_transmit", 5)]);
    let reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic --stateful");
    probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 100"));
    let lost = hosts.counter(1, "tx_hwtstamp_lost");
    let (report, samples) = probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 300"));
    let account = reflector.stop();
    for (point, [packets, asked, stamped]) in [("A1", coverage(&report, "A1")), ("B3", coverage(&account, "B3"))] {
        eprintln!("{point}: {packets} packets, {asked} asked, {stamped} stamped");
        assert!(asked == packets && stamped.abs_diff(packets * 4 / 5) <= 2, "{point}");
    }
    let received: Vec<&Value> = samples.iter().filter(|sample| sample["outcome"] == "received").collect();
    let without =
        |point: &str| received.iter().filter(|sample| sample["stamps"][point]["nic"].is_null()).count() as u64;
    assert!(without("A1") > 10, "a stamp that did not come is absent");
    let lost = hosts.counter(1, "tx_hwtstamp_lost") - lost;
    let followed = followed(&samples);
    let (told, instead): (Vec<&Value>, Vec<&Value>) =
        followed.iter().partition(|sample| sample["stamps"]["B3"]["nic"].is_array());
    eprintln!("B3: {lost} stamps lost; {} of the card told, {} not: {:#?}", told.len(), instead.len(), kinds(&samples));
    // Of every fifth no stamp of the card is told, and no other's in its place.
    let [(_, late), (_, late_of_kernel)] = ["nic", "kernel"].map(|plane| follow_ups(&account, plane));
    assert!(
        told.len() >= 50 && instead.len() > 10 && instead.len() as u64 <= lost + late,
        "{} of {lost} and {late} late",
        instead.len()
    );
    assert!(received.len() as u64 - without("B3") + lost <= received.len() as u64 + 1, "a stamp that nobody took");
    // What is told instead is the kernel's, by its name, unless that too came late.
    let of_kernel = instead.iter().filter(|sample| sample["stamps"]["B3"]["kernel"].is_array()).count();
    let nothing = (instead.len() - of_kernel) as u64;
    assert!(of_kernel > 10 && nothing <= late_of_kernel, "{late_of_kernel} late: {:#?}", kinds(&samples));
    let (found, of) = wires_found(&stamped_all_round(&samples));
    assert!(of >= 50 && found * 1000 >= of * 999, "{found} of {of}");
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn what_the_cards_stamp_is_put_back_however_it_ends() {
    let hosts = Hosts::joined(&[]);
    let before = hosts.settings();
    for end in ["INT", "TERM", "KILL"] {
        let mut reflector = Reflector::start(&hosts, "mlx5", "--datapath socket --timestamps nic");
        let during = hosts.settings();
        assert_ne!(during[1], before[1], "{end}: told to stamp");
        assert_eq!(during[0], before[0], "{end}: the other port is another's");
        reflector.signal(end);
        reflector.0.wait().expect("a child");
        let deadline = Instant::now() + PATIENCE;
        while hosts.settings() != before {
            assert!(Instant::now() < deadline, "after {end}: {:?}, before {before:?}", hosts.settings());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A card as its driver has it.
struct Card {
    /// The row of the driver table.
    name: &'static str,
    /// What the test NIC is told, to be like it.
    knobs: &'static [(&'static str, i64)],
    /// Packets that are not PTP are stamped, too.
    stamps_all: bool,
}

const CARDS: [Card; 5] = [
    Card { name: "mlx5", knobs: &[], stamps_all: true },
    Card { name: "ixgbe-x550", knobs: &[("tail", 1), ("slots", 1), ("kfunc", 0)], stamps_all: true },
    Card {
        name: "ixgbe-82599",
        knobs: &[("receive_all", 0), ("transmit_all", 0), ("latches", 1), ("slots", 1), ("kfunc", 0)],
        stamps_all: false,
    },
    Card {
        name: "i40e",
        knobs: &[("receive_all", 0), ("transmit_all", 0), ("latches", 4), ("slots", 1), ("kfunc", 0)],
        stamps_all: false,
    },
    Card { name: "bnxt", knobs: &[("slots", 4), ("kfunc", 0)], stamps_all: true },
];

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn each_card_does_what_it_can_and_is_refused_what_it_cannot() {
    for Card { name: card, knobs, stamps_all } in CARDS {
        let hosts = Hosts::joined(knobs);
        let doctor =
            pathlab(&hosts.reflector, card, "doctor --iface test1 --json").output().expect("pathlab was built");
        assert!(doctor.status.success(), "{card}: {}", told(&doctor));
        let doctor: Value = serde_json::from_slice(&doctor.stdout).expect("one JSON document");
        assert_eq!(doctor["ports"][0]["rule"]["id"], card);
        let args = "--datapath socket --timestamps nic --stateful";
        if stamps_all {
            let reflector = Reflector::start(&hosts, card, args);
            let (report, samples) = probe(&hosts, card, &format!("{ALL} --interval 50ms --count 300"));
            let account = reflector.stop();
            let counted: BTreeMap<_, _> = [("A1", &report), ("A4", &report), ("B2", &account), ("B3", &account)]
                .map(|(point, report)| (point, coverage(report, point)))
                .into();
            eprintln!("{card}: packets, asked, stamped: {counted:?}");
            for (point, [packets, asked, stamped]) in counted {
                assert!(stamped == asked && asked > 0, "{card} {point}: {packets} {asked} {stamped}");
            }
            let (found, of) = wires_found(&stamped_all_round(&samples));
            assert!(of >= 50 && found * 1000 >= of * 999, "{card}: {found} of {of}");
        } else {
            let refused =
                pathlab(&hosts.reflector, card, &format!("reflect --listen 192.0.2.2:862 --iface test1 {args}"))
                    .output()
                    .expect("pathlab was built");
            let told = told(&refused);
            assert!(!refused.status.success() && told.contains("--ptp-shaped"), "{card}: {told}");
        }
    }
}

/// A stamp of a sample: its time and its uncertainty.
fn stamp(sample: &Value, point: &str, plane: &str) -> Option<(i64, i64)> {
    let stamp = &sample["stamps"][point][plane];
    Some((stamp[0].as_i64()?, stamp[2].as_i64()?))
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn past_the_stack_the_card_says_when_a_packet_came() {
    let hosts = Hosts::joined(&[]);
    for datapath in ["--datapath afxdp --stateful", "--datapath xdp"] {
        let args = format!("{datapath} --xdp-mode native --timestamps nic");
        let reflector = Reflector::start(&hosts, "mlx5", &args);
        probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 100"));
        let (_, samples) = probe(&hosts, "mlx5", &format!("{ALL} --interval 50ms --count 200"));
        let account = reflector.stop();
        let received: Vec<&Value> = samples.iter().filter(|sample| sample["outcome"] == "received").collect();
        let by_card: Vec<_> =
            received.iter().filter_map(|sample| Some((stamp(sample, "B2", "nic")?, sample))).collect();
        eprintln!("{datapath}: B2 of the card in {} of {}: {:#?}", by_card.len(), received.len(), kinds(&samples));
        assert_eq!(account["nic_received"], account["received"], "every packet has the card's stamp: {account:#}");
        // Told in UTC is what came while the reflector knew its card's clock well enough.
        assert!(by_card.len() >= 80, "{}", by_card.len());
        // Two clocks told in UTC, 100 ppm apart: what lies between the probe's card and the reflector's is the one wire.
        let forward = by_card.iter().filter_map(|((b2, far), sample)| {
            // While the probe knows its card's clock too little, A1 is told on that clock alone.
            let told = sample["stamps"]["A1"]["nic"][1] == "realtime" && sample["stamps"]["B2"]["nic"][1] == "realtime";
            let (a1, near) = stamp(sample, "A1", "nic").filter(|_| told)?;
            let by_program = stamp(sample, "B2", "xdp")?;
            let is_true = (b2 - a1 - THERE).abs() <= far + near && b2 - far <= by_program.0 + by_program.1;
            if !is_true {
                let (off, after) = (b2 - a1 - THERE, by_program.0 - b2);
                eprintln!(
                    "{}: off by {off} ns, stated {near} and {far}; the program saw it {after} ns later",
                    sample["seq"]
                );
            }
            Some(is_true)
        });
        let forward: Vec<bool> = forward.collect();
        let found = forward.iter().filter(|found| **found).count();
        eprintln!("{datapath}: one way of 1.5 ms, {found} of {} within what they state", forward.len());
        assert!(forward.len() >= 50 && found * 1000 >= forward.len() * 999);
        // What came there and went back took as long as both wires, by the probe's card alone, and no less.
        let back =
            received.iter().filter_map(|sample| Some((stamp(sample, "A1", "nic")?, stamp(sample, "A4", "nic")?)));
        assert!(back.clone().count() >= 100 && back.clone().all(|((a1, _), (a4, _))| a4 - a1 >= THERE + BACK - 1_000));
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn no_more_stamps_are_asked_for_than_a_card_has_registers() {
    let mut asked_of = BTreeMap::new();
    for (card, slots) in [("ixgbe-x550", 1), ("bnxt", 4), ("mlx5", 0)] {
        // Registers are taken for ten packets' time.
        let hosts = Hosts::joined(&[("slots", slots), ("kfunc", 0), ("stamp_latency_ns", 500_000_000)]);
        let reflector = Reflector::start(&hosts, card, "--datapath socket --timestamps nic --stateful");
        let counted =
            || [0, 1].map(|port| ["tx_hwtstamp", "tx_hwtstamp_skipped"].map(|name| hosts.counter(port, name)));
        let before = counted();
        let (report, _) = probe(&hosts, card, "--timestamps nic --interval 50ms --count 100");
        let account = reflector.stop();
        let after = counted();
        for (port, point, report) in [(0, "A1", &report), (1, "B3", &account)] {
            let [packets, asked, _] = coverage(report, point);
            let [taken, skipped] = [0, 1].map(|counter| after[port][counter] - before[port][counter]);
            eprintln!(
                "{card} {point}: {packets} packets, {asked} asked, {taken} registers taken, {skipped} times none free"
            );
            assert_eq!((taken, skipped), (asked, 0), "{card} {point}");
            assert_eq!(asked == packets, slots == 0, "{card} {point}");
            asked_of.insert((point, slots), asked);
        }
    }
    for point in ["A1", "B3"] {
        assert!(asked_of[&(point, 4)] > 2 * asked_of[&(point, 1)], "{asked_of:?}");
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn ptp4l_on_the_port_keeps_its_stamps() {
    for (card, knobs, ours_are_sent) in
        [("mlx5", &[][..], true), ("ixgbe-x550", &[("tail", 1), ("slots", 1), ("kfunc", 0)], false)]
    {
        let hosts = Hosts::joined(knobs);
        let mut ptp = Ptp::start(&hosts);
        let before = ptp.setting();
        let skipped = hosts.counter(1, "tx_hwtstamp_skipped");
        let ((account, setting), messages) = ptp.during(|| {
            let reflector = Reflector::start(&hosts, card, "--datapath socket --timestamps nic --stateful");
            probe(&hosts, card, &format!("{ALL} --interval 50ms --count 200"));
            let setting = hosts.settings()[1];
            (reflector.stop(), setting)
        });
        eprintln!("{card}: {messages:?}, ours {:#}", account["hw_coverage"]);
        assert_eq!(messages, Messages::all(messages.received), "{card}");
        assert_eq!([setting, ptp.setting()], [before; 2], "{card}: the setting is ptp4l's");
        assert_eq!(hosts.counter(1, "tx_hwtstamp_skipped"), skipped, "{card}: its register is never taken");
        let [packets, asked, stamped] = coverage(&account, "B2");
        assert!(asked == packets && stamped == packets && packets >= 50, "{card}: {account:#}");
        assert_eq!(account["hw_coverage"]["B3"].is_object(), ours_are_sent, "{card}: {account:#}");
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn a_register_that_the_stack_alone_empties_is_left_to_it() {
    let knobs = [("receive_all", 0), ("transmit_all", 0), ("latches", 1), ("slots", 1), ("kfunc", 0)];
    // The second is told that the same card has no such register, so that nothing is done about it: then ptp4l is robbed for good.
    for (card, is_left) in [("ixgbe-82599", true), ("bnxt-ptp", false)] {
        for timestamps in ["auto", "software"] {
            let hosts = Hosts::joined(&knobs);
            let mut ptp = Ptp::start(&hosts);
            assert_eq!(ptp.exchanges(3), Messages::all(3), "{card}: before");
            let args = format!("--datapath afxdp --xdp-mode native --timestamps {timestamps}");
            let reflector = Reflector::start_on(319, &hosts, card, &args);
            let during = ptp.exchanges(3);
            reflector.stop();
            let after = ptp.exchanges(3);
            eprintln!("{card}: {during:?}, then {after:?}");
            if is_left {
                assert_eq!([during, after], [Messages::all(3), Messages::all(3)], "{card}");
            } else {
                assert_eq!((during, after.received, after.receive_stamps), (Messages::default(), 3, 0), "{card}");
            }
        }
    }
}

#[test]
#[ignore = "needs the test NIC: scripts/vm-test 6.12 nic"]
fn the_stamp_behind_the_frame_is_read_and_cut() {
    // The last is told that the card appends nothing, so that nothing is done about it.
    for (card, datapath, is_known) in
        [("ixgbe-x550", "afxdp", true), ("ixgbe-x550", "xdp", true), ("bnxt", "xdp", false)]
    {
        let hosts = Hosts::joined(&[("tail", 1), ("slots", 1), ("kfunc", 0)]);
        let reflector =
            Reflector::start(&hosts, card, &format!("--datapath {datapath} --xdp-mode native --timestamps auto"));
        let (octets, turned) = (hosts.octets(), hosts.counter(1, "xdp_tx"));
        let (base, _) = probe(&hosts, card, "--timestamps nic --interval 50ms --count 100");
        let (after, turned) = (hosts.octets(), hosts.counter(1, "xdp_tx") - turned);
        let [sent, received] = [0, 1].map(|way| after[way] - octets[way]);
        let (longer, _) = probe(&hosts, card, "--timestamps nic --tlv stages --interval 50ms --count 100");
        let account = reflector.stop();
        // A reply that came after its time is one that was received by the reflector, and not by the probe.
        let [base, longer] = [base, longer].map(|report| {
            ["received", "sent"]
                .map(|count| report["total"]["counts"][count].as_u64().unwrap_or_else(|| panic!("{report:#}")))
        });
        let answered = account["received"].as_u64().expect("a count");
        eprintln!(
            "{card} {datapath}: sent {sent} octets, received {received}, {turned} in the driver, {} stamps of the card",
            account["nic_received"]
        );
        assert!(
            base[0] >= 50 && longer[0] >= 50 && (base[0] + longer[0]..=base[1] + longer[1]).contains(&answered),
            "{card} {datapath}: {base:?}, {longer:?}, {answered}"
        );
        // A reply is as long as its request; tails would be 8 octets more each. ARP goes both ways.
        assert!(received <= sent + 130, "{card} {datapath}: {received} of {sent}");
        let by_card = account["nic_received"].as_u64().expect("a count");
        match (is_known, datapath) {
            (true, "afxdp") => assert_eq!((turned, by_card), (0, answered)),
            (true, _) => {
                assert!((base[0]..=base[1]).contains(&turned), "{turned} of {base:?}");
                assert_eq!(by_card, answered - turned);
            }
            // Base packets are not base packets any more, and nobody knows when any came.
            (false, _) => assert_eq!((turned, by_card), (0, 0)),
        }
    }
}
