//! One run of the probe on this host: checks what was asked for, opens the sockets, runs the loop, says what came of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use pathlab_record::Interval;
use pathlab_xdp::{
    NicClock,
    pacing::{Claim, Pace, Pacing, Spin},
};
use zerocopy::IntoBytes;

use super::{
    ProbeError,
    engine::{self, End, Engine, Terms},
    host::Host,
    matching::Patience,
    output::Output,
    pace::PacingReport,
    packet::{Question, Shape},
    recorder::{Recorder, Recording},
    schedule::{LONGEST_INTERVAL, MOST_SESSIONS, Schedule},
    sessions::{SessionSpec, SocketPlan},
    summary::{ProbeReport, Quantiles, SCHEMA, SilentTarget, rtt_between},
    sys,
};
use crate::{
    HwCoverage,
    clock::{ClockQuality, monotonic_now, realtime_now},
    datapath::{SocketOptions, StampedSocket},
    wire::{NtpTimestamp, SenderPacket, ptp_shape},
};

/// What to send, how, and what to keep.
#[derive(Clone)]
pub struct ProbeOptions {
    /// Between two packets of one session: 1 µs to 1 h.
    pub interval: Duration,
    /// Packets of each session; without a limit if absent.
    pub count: Option<u64>,
    /// How long to send; without a limit if absent.
    pub duration: Option<Duration>,
    /// A later reply is late, and late is lost.
    pub timeout: Duration,
    /// How long an answered packet waits for its transmit stamp.
    pub stamp_wait: Duration,
    /// Size, TLVs and keys of the test packets. A size of 0 is the least that the others take.
    pub shape: Shape,
    /// SSID of the first session, those after it count up; `None` for none.
    pub ssid: Option<NonZeroU16>,
    /// What to do for slots to be kept.
    pub pacing: Pacing,
    /// Send slots that lie closer together than this together, late by up to this: saves processor time where many sessions
    /// share a thread, at the price of the schedule's exactness. Zero in the default.
    pub coalesce: Duration,
    /// A slot later than this is skipped. `None`: one interval, at least 10 ms and at most 100 ms.
    pub skip_after: Option<Duration>,
    /// The sockets: stamps, DSCP, mark, device.
    pub socket: SocketOptions,
    /// Bins and names.
    pub recording: Recording,
    /// Sessions two by two in one slot, first and second by turns.
    pub paired: bool,
    /// How often to tell the output what happened since the last time.
    pub progress: Option<Duration>,
    /// Shape packets like PTP ([`ptp_shape`]): at most 65,536 a session, and a stateless reflector.
    pub ptp_shaped: bool,
    /// Tells the card's stamps in UTC; without it they are counted and stand in no sample.
    pub nic_clock: Option<Arc<dyn NicClock>>,
    /// For tests of the ledger's truth: read every datagram so much later than possible. Zero in any real run.
    pub delay_before_read: Duration,
}

impl Default for ProbeOptions {
    /// 10 ms, no end, 1 s timeout, base packets, kernel stamps, bins of 10 min.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(10),
            count: None,
            duration: None,
            timeout: Duration::from_secs(1),
            stamp_wait: Duration::from_millis(20),
            shape: Shape::default(),
            ssid: None,
            ptp_shaped: false,
            pacing: Pacing::default(),
            coalesce: Duration::ZERO,
            skip_after: None,
            socket: SocketOptions { receive_buffer: Some(4 << 20), ..SocketOptions::stamped() },
            recording: Recording { bin: Duration::from_secs(600), zone: "UTC".into(), salt: None },
            paired: false,
            progress: None,
            nic_clock: None,
            delay_before_read: Duration::ZERO,
        }
    }
}

/// The most packets that may be in flight at once, all sessions together; bounds memory to some 2 GB.
const MOST_IN_FLIGHT: u128 = 4_000_000;
/// How many silent targets are asked again why.
const MOST_QUESTIONS: usize = 8;
/// How long each of them has to answer.
const QUESTION: Duration = Duration::from_millis(250);

/// Drives `sessions` until count, duration or `stop` end the run. Results go to `output` as they settle; the sum is returned.
///
/// # Errors
/// An option out of range, a source address that is not of this host, a socket that cannot be opened; or
/// [`ProbeError::Unreachable`] if not one reply came back.
pub fn probe(
    sessions: &[SessionSpec],
    options: &ProbeOptions,
    stop: &AtomicBool,
    output: &mut impl Output,
) -> Result<ProbeReport, ProbeError> {
    options.check(sessions)?;
    let plan = SocketPlan::new(sessions);
    check_sources(sessions)?;
    let sockets = plan.bind.iter().zip(&plan.marks).map(|(&address, mark)| {
        let options = SocketOptions { mark: mark.or(options.socket.mark), ..options.socket.clone() };
        StampedSocket::bind(address, &options)
    });
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    let ports: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().port()).collect();
    let keys = source_keys(sessions, &plan, &ports);

    let at_once = if options.paired { 2 } else { 1 };
    let spacing = options.interval / u32::try_from(sessions.len() / at_once).unwrap_or(u32::MAX);
    let pace = if options.coalesce.is_zero() { options.pacing.pace } else { Pace::Sleep };
    let spin = Spin::new(pace, Interval::from_nanos(spacing.as_nanos() as i64));
    let claim = Claim::take(options.pacing, (!options.coalesce.is_zero()).then_some("slots are sent together"))?;
    let skip_after =
        options.skip_after.unwrap_or(options.interval.clamp(Duration::from_millis(10), Duration::from_millis(100)));
    let patience = options.patience();
    let terms = Terms {
        patience,
        shape: options.shape.clone(),
        ssid: options.ssid,
        first_sequence: if options.ptp_shaped { ptp_shape::FIRST } else { 0 },
        coalesce: Interval::from_nanos(options.coalesce.as_nanos() as i64),
        give_up_on_silence: true,
    };
    let system = |call| move |source| ProbeError::System { call, source };
    let world = Host::new(sockets, spin, claim, options.delay_before_read, stop).map_err(system("epoll"))?;
    let mut recorder = Recorder::new(sessions, &keys, patience, options.recording.clone(), output);

    let (started, cpu) = (utc_now(), sys::thread_cpu_time());
    let mut schedule = Schedule::new(monotonic_now() + HEAD_START, options.interval, sessions.len(), skip_after);
    if options.paired {
        schedule = schedule.paired();
        recorder.pair(options.interval);
    }
    if let Some(every) = options.progress {
        recorder.tell_progress(every);
    }
    if let Some(count) = options.count {
        schedule = schedule.until_count(count);
    }
    if let Some(duration) = options.duration {
        schedule = schedule.until_duration(duration);
    }
    let mut engine = Engine::new(world, sessions, &plan, schedule, terms).with_nic_clock(options.nic_clock.clone());
    let end = engine.run(&mut recorder).map_err(|(call, source)| ProbeError::System { call, source })?;
    recorder.close();

    let one_way = recorder.one_way();
    let pairs = recorder.pairs();
    let (total, groups, rows) = recorder.rows(engine.matching());
    let heard: HashSet<SocketAddr> =
        rows.iter().filter(|row| row.counts.received + row.counts.late > 0).map(|row| row.target).collect();
    let mut silent: BTreeMap<SocketAddr, (usize, Option<IpAddr>)> = BTreeMap::new();
    for session in sessions.iter().filter(|session| !heard.contains(&session.target)) {
        silent.entry(session.target).or_insert((0, session.source_address())).0 += 1;
    }
    let slots_left = engine.slots_left();
    let (strays, steps, services) = (engine.strays(), engine.steps(), engine.services());
    let cpu_time = sys::thread_cpu_time() - cpu;
    let world = engine.into_world();
    let silent: Vec<SilentTarget> = silent
        .into_iter()
        .enumerate()
        .map(|(index, (target, (sessions, source)))| {
            let why = match world.undelivered(target) {
                Some(report) => undelivered(report.errno, report.reporter),
                None if index < MOST_QUESTIONS => ask_again(target, source),
                None => "silence".to_owned(),
            };
            SilentTarget { target, sessions, why }
        })
        .collect();
    if end == End::Silence && total.counts.sent + total.schedule.refused > 0 {
        let first = &silent[0];
        let more = match silent.len() - 1 {
            0 => String::new(),
            1 => " and 1 other target".to_owned(),
            others => format!(" and {others} other targets"),
        };
        return Err(ProbeError::Unreachable { target: first.target, more, why: first.why.clone() });
    }
    let (scheduler, scheduler_why) = world.claim().scheduler();
    let pacing = PacingReport {
        pace,
        spin_ns: world.spin().reported(),
        overslept: Quantiles::of(world.spin().overslept_all()),
        scheduler,
        scheduler_why,
        cpu: options.pacing.cpu,
        memory_locked: world.claim().memory_locked(),
    };
    Ok(ProbeReport {
        schema: SCHEMA.to_owned(),
        interval_ns: options.interval.as_nanos() as u64,
        started,
        ended: utc_now(),
        cpu_time_ns: cpu_time.as_nanos() as u64,
        pacing,
        rtt_between: rtt_between(&total),
        total,
        groups,
        sessions: rows,
        one_way,
        pairs,
        strays,
        steps,
        services,
        kernel_drops: world.kernel_drops(),
        hw_coverage: hw_coverage(options, &world),
        silent,
        interrupted: slots_left && stop.load(Ordering::Relaxed),
    })
}

/// How many packets the card stamped, where it was asked.
fn hw_coverage(options: &ProbeOptions, world: &Host<'_>) -> BTreeMap<String, HwCoverage> {
    let sent = options.socket.nic_transmit_stamps.as_ref().map(|slots| ("A1".to_owned(), slots.counts().into()));
    let received = options.socket.nic_receive_stamps.then(|| ("A4".to_owned(), world.nic_received()));
    sent.into_iter().chain(received).collect()
}

/// By how much later than its turn a reply may come and still be waited for by the one before.
const FOLLOW_UP_WAIT: Duration = Duration::from_millis(100);
/// From the last preparation to the first slot.
const HEAD_START: Interval = Interval::from_nanos(5_000_000);

/// How long stamps of the card wait for the comparison of its clock that confirms them: that comes four times a second.
const CONFIRM: Duration = Duration::from_secs(2);
/// The longest that a sample waits for the next reply of its session, whatever the timeout.
const LONGEST_FOLLOW_UP: Duration = Duration::from_secs(10);

impl ProbeOptions {
    fn patience(&self) -> Patience {
        Patience {
            timeout: self.timeout,
            stamp: self.stamp_wait,
            nic: self.nic_clock.is_some() && self.socket.nic_transmit_stamps.is_some(),
            follow_up: self.follow_up_wait(),
            confirm: if self.nic_clock.is_some() { CONFIRM } else { Duration::ZERO },
        }
    }

    /// How long to wait for the reply that tells when the one before left: that comes an interval later, give or take its own delay.
    fn follow_up_wait(&self) -> Duration {
        let asks = self.shape.questions.iter().any(|asked| matches!(asked, Question::Stages | Question::FollowUp));
        if asks { (self.interval + FOLLOW_UP_WAIT).min(self.timeout.max(LONGEST_FOLLOW_UP)) } else { Duration::ZERO }
    }

    fn check(&self, sessions: &[SessionSpec]) -> Result<(), ProbeError> {
        let wrong =
            |option, value: String, limit: &str| Err(ProbeError::Option { option, value, limit: limit.to_owned() });
        if !(1..=MOST_SESSIONS).contains(&sessions.len()) {
            return Err(ProbeError::SessionCount { sessions: sessions.len(), limit: MOST_SESSIONS });
        }
        if self.interval < Duration::from_micros(1) || self.interval > LONGEST_INTERVAL {
            return wrong("--interval", format!("{:?}", self.interval), "possible are 1 µs to 1 h");
        }
        if self.timeout < Duration::from_millis(1) || self.timeout > LONGEST_INTERVAL {
            return wrong("--timeout", format!("{:?}", self.timeout), "possible are 1 ms to 1 h");
        }
        if self.coalesce > Duration::from_secs(1) {
            return wrong("--coalesce", format!("{:?}", self.coalesce), "possible are 0 to 1 s");
        }
        if self.paired && !sessions.len().is_multiple_of(2) {
            return wrong("--pair", format!("with {} sessions", sessions.len()), "possible is an even number");
        }
        let (size, least) = (self.shape.size, self.shape.least());
        if !self.shape.fits() || size > 65_000 {
            let limit = format!("possible are {least}, which these packets take, and {} to 65000 octets", least + 4);
            return wrong("--size", size.to_string(), &limit);
        }
        if let Some(keys) = &self.shape.keys {
            let ssids = (0..sessions.len()).map(|session| engine::ssid(self.ssid, session));
            if let Some(ssid) = ssids.into_iter().find(|ssid| keys.find(*ssid).is_none()) {
                let limit = "the key file has no key for this SSID, and no default";
                return wrong("--ssid", ssid.to_string(), limit);
            }
        }
        if self.recording.bin < Duration::from_millis(1) || self.recording.bin > Duration::from_secs(86_400) {
            return wrong("--bin", format!("{:?}", self.recording.bin), "possible are 1 ms to 1 day");
        }
        let in_flight = self.patience().keep().as_nanos() * sessions.len() as u128 / self.interval.as_nanos();
        if in_flight > MOST_IN_FLIGHT {
            let limit =
                format!("{in_flight} packets would be in flight, at most {MOST_IN_FLIGHT} may; shorten the timeout");
            return wrong("--timeout", format!("{:?}", self.timeout), &limit);
        }
        Ok(())
    }
}

fn utc_now() -> Timestamp {
    Timestamp::from_nanosecond(i128::from(realtime_now().as_nanos())).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Refuses sources that are not addresses of this host, before thousands of sends fail one by one.
fn check_sources(sessions: &[SessionSpec]) -> Result<(), ProbeError> {
    let addresses: HashSet<IpAddr> = sessions.iter().filter_map(SessionSpec::source_address).collect();
    for address in addresses {
        match UdpSocket::bind((address, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(ProbeError::NoSuchSource { address });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Each session's source as the reflector will see it (NAT aside): what was asked for, completed with what the kernel chose.
fn source_keys(sessions: &[SessionSpec], plan: &SocketPlan, ports: &[u16]) -> Vec<Option<SocketAddr>> {
    let mut chosen: HashMap<IpAddr, Option<IpAddr>> = HashMap::new();
    let key = |(spec, &socket): (&SessionSpec, &usize)| {
        let address = spec
            .source_address()
            .or_else(|| *chosen.entry(spec.target.ip()).or_insert_with(|| routed_source(spec.target).ok()))?;
        Some(SocketAddr::new(address, ports[socket]))
    };
    sessions.iter().zip(&plan.socket_of).map(key).collect()
}

/// The source address that the routing table picks for `target`; sends nothing.
fn routed_source(target: SocketAddr) -> io::Result<IpAddr> {
    let socket = connected(target, None)?;
    Ok(socket.local_addr()?.ip())
}

fn connected(target: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u16; 8]) };
    let socket = UdpSocket::bind((source.unwrap_or(any), 0))?;
    socket.connect(target)?;
    Ok(socket)
}

/// Why a target may be silent: one more test packet, from a connected socket, to which the kernel reports ICMP errors.
fn ask_again(target: SocketAddr, source: Option<IpAddr>) -> String {
    let ask = || {
        let socket = connected(target, source)?;
        socket.set_read_timeout(Some(QUESTION))?;
        let timestamp = NtpTimestamp::from(realtime_now());
        let packet = SenderPacket::new(0, timestamp, ClockQuality::UNKNOWN.error_estimate());
        socket.send(packet.as_bytes())?;
        socket.recv(&mut [0; 2048])
    };
    match ask() {
        Ok(_) => "it answered when asked once more from another port; look for a filter or a path that drops these sessions"
            .to_owned(),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            "neither a reply nor an ICMP error came; check that a STAMP reflector listens there, that it has the same key or neither has one, and that no filter drops UDP to its port"
                .to_owned()
        }
        Err(error) => undelivered(error.raw_os_error().unwrap_or(0), None),
    }
}

/// An ICMP error or a refusal of our own stack, in words.
fn undelivered(errno: i32, reporter: Option<IpAddr>) -> String {
    let by = reporter.map_or_else(String::new, |reporter| format!(", says {reporter}"));
    match errno {
        libc::ECONNREFUSED => {
            format!("port unreachable{by}: the host is there, but nothing listens; start the reflector")
        }
        libc::EHOSTUNREACH => format!("host unreachable{by}; check the address and that the host is up"),
        libc::ENETUNREACH => format!("network unreachable{by}; check this host's routes with `ip route get`"),
        libc::EACCES | libc::EPERM => format!("sending is forbidden{by}; look at this host's packet filter and routes"),
        // What a blackhole route answers, fib_props in net/ipv4/fib_semantics.c.
        libc::EINVAL => format!(
            "this host has no way to send there{by}, as with a blackhole route; check its routes with `ip route get`"
        ),
        errno => format!("{}{by}", io::Error::from_raw_os_error(errno)),
    }
}
