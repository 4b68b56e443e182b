//! The inner stages of a reflector whose driver answers base packets: longer ones go from the XDP program to user space and back, and every
//! stage of that way is told, to both families, with a delay where it was put.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/veth.rs"]
mod veth;

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::AtomicBool,
    time::Duration,
};

use namespace::in_private_namespace;
use pathlab_guard::privilege::root_or_skip;
use pathlab_record::{ClockId, Outcome, Plane, Sample, Stage, Stamp};
use pathlab_reflector::{
    datapath::{AfXdpConfig, AfXdpReflector},
    prober::{Fan, Kept, ProbeOptions, Question, Shape, probe},
    session::Rules,
};
use pathlab_xdp::{
    Counter, XdpMode,
    xsk::{CopyMode, XskOptions},
};
use veth::{ADDRESSES, serve_on_veth, with_client};

const PORT: u16 = 862;
const PROBES: u64 = 100;
/// Longer than a scheduler's whim, and than the round trip without it.
const DELAY: Duration = Duration::from_millis(20);

/// The samples of a probe that asks for `questions` in both families, how many packets came to user space, and how many departures became known too late
/// to be told by the next reply.
fn measured(mode: XdpMode, delay: Option<Duration>, questions: &[Question]) -> (Vec<Sample>, u64, u64) {
    in_private_namespace(|server| {
        serve_on_veth(1);
        let xsk = XskOptions { copy: CopyMode::Copy, ..XskOptions::default() };
        let rules = Rules { sessions: Some(8), ..Rules::default() };
        let config = AfXdpConfig { mode, hybrid: true, xsk, rules, delay_before_send: delay, ..AfXdpConfig::new(PORT) };
        let mut reflector = AfXdpReflector::attach("s0", &config).expect("attached");
        let samples = with_client(
            server,
            |stop| reflector.run(stop).expect("an interface that is up"),
            || {
                let mut kept = Kept::default();
                for address in ADDRESSES {
                    let target = SocketAddr::new(address.parse::<IpAddr>().expect("an address"), PORT);
                    let fan = Fan { targets: vec![target], count: 1, ..Fan::default() };
                    let options = ProbeOptions {
                        interval: delay.map_or(Duration::from_millis(2), |delay| delay * 2),
                        count: Some(PROBES / 2),
                        timeout: Duration::from_secs(2),
                        skip_after: Some(Duration::from_secs(10)),
                        shape: Shape { questions: questions.to_vec(), ..Shape::default() },
                        ..ProbeOptions::default()
                    };
                    let sessions = fan.sessions().expect("a session");
                    let report = probe(&sessions, &options, &AtomicBool::new(false), &mut kept).expect("it runs");
                    assert_eq!(report.total.counts.received, PROBES / 2, "{report:?}");
                }
                kept.samples
            },
        );
        let (report, counters) = (reflector.report().expect("statistics"), reflector.counters().expect("counters"));
        assert_eq!((report.datapath, report.replied, report.kernel_drops), ("xdp", PROBES, 0), "{report:?}");
        eprintln!("{mode:?}: {} replies, {:?} with a stamp, {:?}", report.replied, report.sent_on, report.follow_ups);
        let late = report.follow_ups.get(&Plane::Kernel).map_or(0, |departures| departures.late);
        (samples, counters[Counter::HandedToXsk], late)
    })
}

/// The samples whose session's next reply came while the probe waited for it: that tells when the reply before it left.
fn followed(samples: &[Sample]) -> Vec<&Sample> {
    // The probe waits for its interval, of two delays, and 100 ms more, by its own clock: on a busy machine it may look at it late.
    let waits_for = (DELAY * 2 + Duration::from_millis(50)).as_nanos() as i64;
    let came = |sample: &Sample| sample.stamps.a4.app.map(|stamp| stamp.nanos());
    let followed = |this: &&Sample| {
        let next = samples.iter().find(|next| next.session == this.session && next.seq == this.seq + 1);
        next.and_then(came).zip(came(this)).is_some_and(|(next, this)| next - this < waits_for)
    };
    samples.iter().filter(followed).collect()
}

fn lengths(samples: &[Sample], stages: &[Stage]) -> Vec<i64> {
    let of = |sample: &Sample| {
        let inner = sample.ledger.as_ref()?.inner.as_ref()?;
        inner.parts.iter().find(|(part, _)| part == stages).map(|(_, length)| length.as_nanos())
    };
    samples.iter().filter_map(of).collect()
}

fn median(mut of: Vec<i64>) -> i64 {
    of.sort_unstable();
    of[of.len() / 2]
}

/// What the XDP program and the driver's queue took before user space, user space, and the way back to the driver.
const ARRIVE: &[Stage] = &[Stage::RxXdp, Stage::RxKernel];
const ANSWER: &[Stage] = &[Stage::App];
const LEAVE: &[Stage] = &[Stage::TxKernel];

#[test]
fn each_stage_of_the_hybrid_is_told_and_a_delay_is_in_its_own() {
    if !root_or_skip("each_stage_of_the_hybrid_is_told_and_a_delay_is_in_its_own") {
        return;
    }
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let (samples, over_af_xdp, late) = measured(mode, Some(DELAY), &[Question::Stages]);
        assert_eq!((samples.len() as u64, over_af_xdp), (PROBES, PROBES), "a packet with TLVs is not the driver's");
        for sample in &samples {
            assert_eq!(sample.outcome, Outcome::Received);
            let (b2, b3) = (&sample.stamps.b2, &sample.stamps.b3);
            let inner = [b2.xdp, b2.app, b3.app].map(|stamp| stamp.unwrap_or_else(|| panic!("{sample:?}")));
            assert!(inner.iter().all(|stamp| stamp.clock() == ClockId::Realtime), "{sample:?}");
            assert!(inner.is_sorted_by_key(|stamp: &Stamp| stamp.nanos()), "{sample:?}");
            assert_eq!((b2.nic, b2.kernel, b3.nic), (None, None, None), "no card, and not by the stack");
            let ledger = sample.ledger.as_ref().expect("a reply, a ledger");
            let told = ledger.inner.as_ref().expect("more than two stamps");
            assert_eq!(Some(told.total()), ledger.term(pathlab_record::Term::Residence), "an identity");
        }
        // Of the last packet of each session nobody tells when its reply left; what else is not told came too late, as the reflector counted.
        let followed = followed(&samples);
        let with_departure = followed.iter().filter(|sample| sample.stamps.b3.kernel.is_some()).count() as u64;
        let untold = followed.len() as u64 - with_departure;
        // Before Linux 6.8 AF_XDP does not say when a frame leaves.
        let departures = kernel::knows("xsk_tx_metadata");
        let told = if departures { untold <= late && with_departure >= PROBES / 2 } else { with_departure == 0 };
        assert!(told, "{with_departure} of {} told, {late} late", followed.len());
        let delay = DELAY.as_nanos() as i64;
        let answer = lengths(&samples, ANSWER);
        assert!(answer.len() as u64 == PROBES && answer.iter().all(|length| *length >= delay), "{answer:?}");
        for others in [ARRIVE, LEAVE].iter().take(if departures { 2 } else { 1 }) {
            let lengths = lengths(&samples, others);
            assert!(lengths.len() as u64 >= with_departure && lengths.iter().all(|length| *length >= 0), "{others:?}");
            assert!(median(lengths) < delay / 2, "{others:?} moved with the delay");
        }
    }
}

/// One reading is all that a program in the driver takes: no stages, and nothing that stands in for them.
#[test]
fn a_base_packet_in_the_driver_has_one_stamp_and_no_stages() {
    if !root_or_skip("a_base_packet_in_the_driver_has_one_stamp_and_no_stages") {
        return;
    }
    let (samples, over_af_xdp, _) = measured(XdpMode::Native, None, &[]);
    assert_eq!((samples.len() as u64, over_af_xdp), (PROBES, 0));
    for sample in &samples {
        let ledger = sample.ledger.as_ref().expect("a reply, a ledger");
        assert_eq!(
            (&ledger.inner, ledger.term(pathlab_record::Term::Residence).map(|span| span.as_nanos())),
            (&None, Some(0))
        );
    }
}
