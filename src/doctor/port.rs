//! One port: its driver's row, what it could stamp and what it does, XDP and AF_XDP on it, its clock, and who else uses it.

use std::{net::SocketAddr, time::Duration};

use pathlab_guard::HwtstampConfig;
use pathlab_reflector::datapath::SocketOptions;
use pathlab_xdp::{
    Error, XdpMode, XdpPass,
    clock::{ClockFacts, Phc, PhcTracker},
    nic::{self, DriverRule, NicFacts, Plan, PlanOptions, Rings},
    timestamping::{hwtstamp::filter_name, ptp4l},
    xsk::{BindMode, CopyMode, XskOptions, XskSocket},
};
use serde::Serialize;

use super::{
    Check,
    proof::{self, stamps},
};
use crate::{
    report,
    timestamps::{Arranged, Timestamps},
};

/// What was found out about one port.
#[derive(Serialize)]
pub(crate) struct Port {
    /// Its name.
    pub(crate) interface: String,
    /// As `ethtool -i` has it.
    pub(crate) driver: Option<String>,
    /// The driver's row in the table.
    pub(crate) rule: Option<&'static DriverRule>,
    /// The card's clock, compared with this host's for some seconds; absent where there is none, or it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) card_clock: Option<ClockFacts>,
    /// What was asked, and the answers.
    pub(crate) checks: Vec<Check>,
}

/// The fit of a card's clock takes some two seconds.
const SETTLE: Duration = Duration::from_secs(3);

impl Port {
    /// Looks at a port; `closely` puts a program and a socket on it for a moment.
    pub(crate) fn examine(interface: &str, closely: bool, target: Option<SocketAddr>) -> Self {
        let facts = match NicFacts::read(interface) {
            Ok(facts) => facts,
            Err(error) => {
                let gone = Check::cannot_tell("driver", error.to_string(), "ip link");
                return Self {
                    interface: interface.to_owned(),
                    driver: None,
                    rule: None,
                    card_clock: None,
                    checks: vec![gone],
                };
            }
        };
        let daemon = ptp4l::on(interface);
        let plan = Plan::new(&facts, PlanOptions { ptp4l: daemon.is_some(), ..PlanOptions::default() });
        let mut checks = vec![driver(&facts, &plan)];
        checks.extend(planned(&plan, target.is_some()));
        checks.extend(plan.refusals.iter().map(|no| Check::no(no.what, no.because.clone(), no.remedy.clone())));
        if !plan.any_nic() {
            checks.push(without_card());
        }
        checks.push(match daemon {
            Some(daemon) => Check::no(
                "port free of ptp4l",
                format!("pid {}: what the card stamps stays as it has it", daemon.pid),
                "--timestamps software, or stop ptp4l",
            ),
            None => Check::yes("port free of ptp4l", "no ptp4l is seen on it"),
        });
        let mut card_clock = None;
        if closely || plan.any_nic() {
            let (clock, facts) = clock(interface);
            card_clock = facts;
            checks.extend([setting(interface, &plan), clock, queues(interface)]);
        }
        if closely {
            checks.extend([XdpMode::Native, XdpMode::Generic].map(|mode| xdp(interface, mode)));
            checks.extend([CopyMode::Copy, CopyMode::ZeroCopy].map(|copy| af_xdp(interface, copy)));
        }
        if let Some(target) = target {
            checks.extend(proven(interface, target));
        }
        Self { interface: interface.to_owned(), driver: facts.driver, rule: plan.rule, card_clock, checks }
    }
}

fn driver(facts: &NicFacts, plan: &Plan) -> Check {
    match (&facts.driver, plan.rule) {
        (Some(driver), Some(rule)) => {
            Check::yes("driver in the table", format!("{driver}, {}: {}", rule.cards, rule.source))
        }
        (Some(driver), None) => Check::no(
            "driver in the table",
            format!("nobody has read the source of {driver} for it yet"),
            "stamps on sockets are tried with care; tell us what `ethtool -T` says",
        ),
        (None, _) => Check::no("driver in the table", "the port has no driver to name", ""),
    }
}

/// What the table promises and only packets can prove.
fn planned(plan: &Plan, to_be_proven: bool) -> Vec<Check> {
    let promised = plan.stampings.iter().filter(|stamping| stamping.nic.is_some() && !to_be_proven);
    promised
        .map(|stamping| {
            let what = format!("{:?} by the card", stamping.point);
            let because = format!("the table says {}, and no packet was sent", stamping.why);
            Check::cannot_tell(what, because, "--target ADDR, a reflector behind this port")
        })
        .collect()
}

/// On a virtual port nobody would else say what is missing.
fn without_card() -> Check {
    Check::no(
        "what a NIC would add",
        "A1, B2, B3 and A4 on the wire itself: without them the driver's and the hypervisor's queues count as wire",
        "measure from a host with a card of the table of drivers, at one end at least",
    )
}

fn setting(interface: &str, plan: &Plan) -> Check {
    let what = "the card stamps now";
    match HwtstampConfig::read(interface) {
        Ok(config) if config.rx_filter == 0 && config.tx_type == 0 => Check::no(
            what,
            "receive filter none, transmit off",
            if plan.any_nic() { "--timestamps nic turns it on, and back at the end" } else { "" },
        ),
        Ok(config) => {
            let sent = if config.tx_type == 0 { "off" } else { "on" };
            Check::yes(what, format!("receive filter {}, transmit {sent}", filter_name(config.rx_filter)))
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Check::no(what, "the driver has no such setting (EOPNOTSUPP)", "a card whose driver stamps")
        }
        Err(error) => Check::cannot_tell(what, error.to_string(), "run as root"),
    }
}

fn clock(interface: &str) -> (Check, Option<ClockFacts>) {
    const WHAT: &str = "clock of the card";
    let started = Phc::of(interface).and_then(|phc| phc.map(PhcTracker::start).transpose());
    match started {
        Ok(None) => (Check::no(WHAT, "none (`ethtool -T`: PTP Hardware Clock: none)", "a card with a clock"), None),
        Ok(Some(tracker)) => {
            tracker.wait(SETTLE);
            let facts = tracker.facts();
            (compared(&facts), Some(facts))
        }
        Err(error) => (Check::cannot_tell(WHAT, full(&error), "run as root, or let this user read /dev/ptp*"), None),
    }
}

/// What came of comparing a card's clock with this host's.
fn compared(facts: &ClockFacts) -> Check {
    const WHAT: &str = "clock of the card";
    let words = report::card_clock(facts);
    match (&facts.fit, &facts.failure) {
        (Some(_), _) => Check::yes(WHAT, words),
        (None, Some(_)) => Check::no(WHAT, words, "see dmesg: the card may reset"),
        (None, None) => Check::cannot_tell(WHAT, words, "look again: a fit takes some seconds"),
    }
}

fn queues(interface: &str) -> Check {
    let rings = nic::rings(interface)
        .map(|Rings { rx, rx_max, tx, tx_max }| format!(", rings rx {rx} of {rx_max}, tx {tx} of {tx_max}"));
    match nic::queues(interface) {
        Ok(count) => Check::yes("queues", format!("{count}{}", rings.unwrap_or_default())),
        Err(error) => {
            let seen = format!("{}{}", full(&error), rings.unwrap_or_default());
            Check::cannot_tell("queues", seen, "name them with --queue")
        }
    }
}

fn xdp(interface: &str, mode: XdpMode) -> Check {
    let native = mode == XdpMode::Native;
    let what = if native { "native XDP" } else { "generic XDP" };
    match XdpPass::attach(interface, mode) {
        Ok(_) => Check::yes(what, "a program that passes everything was attached and taken off again"),
        Err(error @ Error::NotPermitted { .. }) => Check::cannot_tell(what, full(&error), "sudo pathlab doctor"),
        Err(error @ Error::AlreadyAttached { .. }) => {
            Check::cannot_tell(what, full(&error), "stop what has put it there")
        }
        Err(error) => {
            let remedy = if native { "--xdp-mode generic, or another driver" } else { "--datapath socket" };
            Check::no(what, full(&error), remedy)
        }
    }
}

fn af_xdp(interface: &str, copy: CopyMode) -> Check {
    let what = if copy == CopyMode::Copy { "AF_XDP, copy" } else { "AF_XDP, zero-copy" };
    match XskSocket::bind(interface, 0, &XskOptions { copy, ..XskOptions::default() }) {
        Ok(socket) => {
            let mode = if socket.mode() == BindMode::Copy { "copy" } else { "zero-copy" };
            let metadata = if socket.tx_metadata() { "with" } else { "without (Linux 6.8)" };
            Check::yes(what, format!("bound to queue 0 in {mode} mode, {metadata} transmit metadata"))
        }
        Err(error @ Error::NotPermitted { .. }) => Check::cannot_tell(what, full(&error), "sudo pathlab doctor"),
        Err(error @ Error::QueueTaken { .. }) => Check::cannot_tell(what, full(&error), "stop what has the queue"),
        Err(error @ Error::ZeroCopyRefused { .. }) => Check::no(what, full(&error), "--copy copy"),
        Err(error) => Check::no(what, full(&error), "--datapath socket"),
    }
}

/// Test packets through the port, stamped by whatever it has.
fn proven(interface: &str, target: SocketAddr) -> Vec<Check> {
    let stamped = Arranged::new(Timestamps::Auto, Some(interface), PlanOptions::default(), "doctor");
    let arranged = stamped.unwrap_or_default();
    let options = SocketOptions { device: Some(interface.to_owned()), sched_stamps: true, ..SocketOptions::stamped() };
    let seen = match proof::conversation(target, &arranged.apply(options)) {
        Ok(seen) => seen,
        Err(error) => {
            return vec![Check::cannot_tell(format!("packets to {target}"), error.to_string(), "run as root")];
        }
    };
    if seen.received == 0 {
        let remedy = format!("pathlab reflect on {}, a route to it, UDP port {} open", target.ip(), target.port());
        return vec![Check::no(format!("replies from {target}"), format!("0 of {}", seen.sent), remedy)];
    }
    let mut checks = vec![
        Check::yes(format!("replies from {target}"), format!("{} of {}", seen.received, seen.sent)),
        stamps("A1, plane sched", seen.sched, seen.sent, proof::SCHED),
        stamps("A1, plane kernel", seen.kernel, seen.sent, proof::SENT),
        stamps("B2 and B3 in the replies", seen.reflected, seen.received, "a reflector that follows RFC 8762"),
        stamps("A4, plane kernel", seen.received_kernel, seen.received, proof::RECEIVED),
    ];
    for (what, stamped, of) in
        [("A1, plane nic", seen.nic, seen.sent), ("A4, plane nic", seen.received_nic, seen.received)]
    {
        checks.push(stamps(what, stamped, of, "what the table of drivers says above"));
    }
    checks
}

/// An error with its cause.
fn full(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use pathlab_record::Interval;
    use pathlab_xdp::clock::{CrossStampMethod, FitFacts};

    use super::{super::Answer, *};

    #[test]
    fn a_clock_is_told_with_its_fit_or_with_why_there_is_none() {
        let nanos = Interval::from_nanos;
        let fit = FitFacts {
            offset: nanos(37_000_001_500),
            rate_ppm: -1.25,
            uncertainty: 60,
            residual: 8,
            half_width: 45,
            cross_stamps: 32,
        };
        let method = CrossStampMethod::Extended;
        let good = ClockFacts { phc: 2, method, fit: Some(fit), steps: 1, cost: nanos(40_000), failure: None };
        let check = compared(&good);
        assert_eq!(check.answer, Answer::Yes);
        for part in
            ["/dev/ptp2", "PTP_SYS_OFFSET_EXTENDED", "60 ns", "-1.250 ppm", "32 cross-stamps", "stepped 1 times"]
        {
            assert!(check.because.contains(part), "{part}: {}", check.because);
        }
        let failed = ClockFacts { fit: None, failure: Some("EIO".into()), ..good.clone() };
        assert_eq!(compared(&failed).answer, Answer::No);
        assert!(compared(&failed).because.ends_with("EIO"), "{:?}", compared(&failed));
        let young = ClockFacts { fit: None, ..good };
        assert_eq!(compared(&young).answer, Answer::CannotTell);
    }
}
