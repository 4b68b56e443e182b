//! Tells the card which packets to stamp, without taking anything away from whoever told it before, and puts it back.
//!
//! The setting belongs to the port, not to a socket: ptp4l depends on it. So it is read first, only ever widened, noted in an undo journal
//! before it is written, and restored exactly, by a guardian where this process is killed. Where ptp4l works on the port and the setting
//! would have to change, nothing is touched.

use std::{ffi::OsStr, io};

use pathlab_guard::{Guardian, Hwtstamp, HwtstampConfig, Journal};
use serde::Serialize;

use super::ptp4l::{self, Ptp4l};
use crate::Error;

/// Which incoming packets a measurement wants stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// All.
    AllPackets,
    /// PTPv2 event messages over UDP.
    PtpOverUdp,
}

// enum hwtstamp_rx_filters
const NONE: i32 = 0;
const ALL: i32 = 1;
const SOME: i32 = 2;
const PTP_V2_L4_EVENT: i32 = 6;
const PTP_V2_EVENT: i32 = 12;
// enum hwtstamp_tx_types
const TX_OFF: i32 = 0;
const TX_ON: i32 = 1;

/// Whether a receive filter stamps all that another does (`include/uapi/linux/net_tstamp.h`).
fn covers(filter: i32, other: i32) -> bool {
    match (filter, other) {
        (_, NONE) | (ALL, _) => true,
        // which packets SOME stamps beside those asked for, only the driver knows
        (SOME, _) | (_, SOME) => false,
        (3, 4 | 5) | (6, 7 | 8) | (9, 10 | 11) => true, // V1 L4, V2 L4, V2 L2 event: sync, delay request
        (12, 6..=14) | (13, 7 | 10) | (14, 8 | 11) => true, // V2 on any layer
        (filter, other) => filter == other,
    }
}

/// The name that `hwstamp_ctl` and `ethtool -T` use.
pub fn filter_name(filter: i32) -> &'static str {
    const NAMES: [&str; 16] = [
        "none",
        "all",
        "some",
        "ptpv1-l4-event",
        "ptpv1-l4-sync",
        "ptpv1-l4-delay-req",
        "ptpv2-l4-event",
        "ptpv2-l4-sync",
        "ptpv2-l4-delay-req",
        "ptpv2-l2-event",
        "ptpv2-l2-sync",
        "ptpv2-l2-delay-req",
        "ptpv2-event",
        "ptpv2-sync",
        "ptpv2-delay-req",
        "ntp-all",
    ];
    usize::try_from(filter).ok().and_then(|at| NAMES.get(at)).copied().unwrap_or("unknown")
}

/// The least setting that covers `now` and `need`, with transmit stamps on; `now` itself where nothing is missing.
///
/// One-step transmit types stamp what they stamp in the packet, and everything else as [on](https://docs.kernel.org/networking/timestamping.html)
/// does: they stay.
pub fn widened(now: HwtstampConfig, need: Need) -> HwtstampConfig {
    let fits = |filter: i32| match need {
        Need::AllPackets => filter == ALL,
        Need::PtpOverUdp => covers(filter, PTP_V2_L4_EVENT),
    };
    let candidates = match need {
        Need::AllPackets => [now.rx_filter, ALL, ALL],
        // V2 over UDP and Ethernet is what all PTP cards have
        Need::PtpOverUdp => [now.rx_filter, PTP_V2_EVENT, ALL],
    };
    let rx_filter =
        candidates.into_iter().find(|filter| fits(*filter) && covers(*filter, now.rx_filter)).unwrap_or(ALL);
    HwtstampConfig { tx_type: if now.tx_type == TX_OFF { TX_ON } else { now.tx_type }, rx_filter, ..now }
}

/// Whether `after` stamps everything that `before` did.
fn is_no_narrower(after: HwtstampConfig, before: HwtstampConfig) -> bool {
    covers(after.rx_filter, before.rx_filter) && (before.tx_type == TX_OFF || after.tx_type == before.tx_type)
}

/// The port's setting, as read and written; its in-memory twin plays drivers.
trait Port {
    fn read(&self) -> io::Result<HwtstampConfig>;
    fn write(&self, config: HwtstampConfig) -> io::Result<HwtstampConfig>;
}

struct KernelPort<'a>(&'a str);

impl Port for KernelPort<'_> {
    fn read(&self) -> io::Result<HwtstampConfig> {
        HwtstampConfig::read(self.0)
    }
    fn write(&self, config: HwtstampConfig) -> io::Result<HwtstampConfig> {
        config.write(self.0)
    }
}

/// A port that stamps what we need. What was changed for that is taken back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// The setting that we found.
    pub found: HwtstampConfig,
    /// The setting now.
    pub now: HwtstampConfig,
    /// Only where something was changed; undone before the guardian is let go.
    _undo: Option<(Journal, Guardian)>,
}

/// Makes the port stamp what is needed. `guardian` are the arguments that make this program a guardian, `verb` is for the journal's name.
///
/// # Errors
/// [`Error::Hwtstamp`] with what the driver said, [`Error::Ptp4l`] where that daemon would be disturbed, [`Error::Guard`] where the way
/// back cannot be secured. Nothing has changed then.
pub fn claim(interface: &str, need: Need, verb: &str, guardian: &[&OsStr]) -> Result<Claim, Error> {
    let secure = || {
        let journal = Journal::create(verb, &format!("{interface}-{}", std::process::id()))?;
        let guardian = Guardian::spawn(&journal, guardian.iter().copied())?;
        Ok((journal, guardian))
    };
    let daemon = ptp4l::on(interface);
    let claimed = claim_by(&KernelPort(interface), interface, need, daemon, secure, |(journal, _), note, out| {
        journal.record(note)?;
        out.map_or(Ok(()), |out| journal.retract(out))
    })?;
    Ok(Claim { found: claimed.0, now: claimed.1, _undo: claimed.2 })
}

type Claimed<U> = (HwtstampConfig, HwtstampConfig, Option<U>);

/// The order of things: read, plan, ask whether it may be, secure the way back, note, write, check, note what became of it.
fn claim_by<U>(
    port: &impl Port,
    interface: &str,
    need: Need,
    daemon: Option<Ptp4l>,
    secure: impl FnOnce() -> pathlab_guard::Result<U>,
    mut note: impl FnMut(&mut U, Hwtstamp, Option<Hwtstamp>) -> pathlab_guard::Result<()>,
) -> Result<Claimed<U>, Error> {
    let failed = |action| move |source| Error::Hwtstamp { interface: interface.to_owned(), action, source };
    let found = port.read().map_err(failed("read"))?;
    let wanted = widened(found, need);
    if wanted == found {
        return Ok((found, found, None));
    }
    if let Some(Ptp4l { pid }) = daemon {
        return Err(Error::Ptp4l { interface: interface.to_owned(), pid, filter: filter_name(found.rx_filter) });
    }
    let mut undo = secure()?;
    let attempt = Hwtstamp { netns: None, interface: interface.to_owned(), was: found, set: None };
    note(&mut undo, attempt.clone(), None)?;
    let now = port.write(wanted).map_err(failed("set"))?;
    if !is_no_narrower(now, found) || widened(now, need) != now {
        // What the driver made of it is no use to us, or takes something away: back at once.
        port.write(found).map_err(failed("restore"))?;
        return Err(failed("widen")(io::Error::from_raw_os_error(libc::ERANGE)));
    }
    note(&mut undo, Hwtstamp { set: Some(now), ..attempt.clone() }, Some(attempt))?;
    Ok((found, now, Some(undo)))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const NTP_ALL: i32 = 15;

    fn config(tx_type: i32, rx_filter: i32) -> HwtstampConfig {
        HwtstampConfig { flags: 0, tx_type, rx_filter }
    }

    #[test]
    fn a_setting_is_only_ever_widened() {
        for tx_type in 0..4 {
            for filter in 0..16 {
                for need in [Need::AllPackets, Need::PtpOverUdp] {
                    let now = config(tx_type, filter);
                    let wide = widened(now, need);
                    assert!(is_no_narrower(wide, now), "{} to {}", filter_name(filter), filter_name(wide.rx_filter));
                    assert_ne!(wide.tx_type, TX_OFF);
                    assert_eq!(widened(wide, need), wide, "once is enough");
                }
            }
        }
        assert_eq!(widened(config(0, NONE), Need::AllPackets), config(1, ALL));
        assert_eq!(widened(config(0, NONE), Need::PtpOverUdp), config(1, PTP_V2_EVENT));
        assert_eq!(
            widened(config(1, PTP_V2_L4_EVENT), Need::PtpOverUdp),
            config(1, PTP_V2_L4_EVENT),
            "ptp4l's own is enough"
        );
        assert_eq!(widened(config(2, NTP_ALL), Need::PtpOverUdp), config(2, ALL), "both, and one-step stays");
    }

    #[test]
    fn filters_cover_as_the_kernel_has_them() {
        assert_eq!(
            [NONE, ALL, SOME, PTP_V2_L4_EVENT, PTP_V2_EVENT, NTP_ALL].map(filter_name),
            ["none", "all", "some", "ptpv2-l4-event", "ptpv2-event", "ntp-all"]
        );
        assert!(covers(PTP_V2_EVENT, PTP_V2_L4_EVENT) && !covers(PTP_V2_L4_EVENT, PTP_V2_EVENT));
        assert!(!covers(PTP_V2_EVENT, 3) && !covers(3, PTP_V2_EVENT) && !covers(SOME, NTP_ALL));
    }

    /// A driver: `rounds` is what it makes of a request.
    struct Driver<F> {
        setting: Cell<HwtstampConfig>,
        rounds: F,
        written: RefCell<Vec<HwtstampConfig>>,
    }

    impl<F: Fn(HwtstampConfig) -> io::Result<HwtstampConfig>> Port for Driver<F> {
        fn read(&self) -> io::Result<HwtstampConfig> {
            Ok(self.setting.get())
        }
        fn write(&self, config: HwtstampConfig) -> io::Result<HwtstampConfig> {
            self.written.borrow_mut().push(config);
            let made = (self.rounds)(config)?;
            self.setting.set(made);
            Ok(made)
        }
    }

    fn driver<F: Fn(HwtstampConfig) -> io::Result<HwtstampConfig>>(found: HwtstampConfig, rounds: F) -> Driver<F> {
        Driver { setting: Cell::new(found), rounds, written: RefCell::default() }
    }

    /// Claims on a driver; the notes that stood in the journal when each write came, and those at the end.
    fn claimed(port: &impl Port, need: Need, daemon: Option<Ptp4l>) -> (Result<Claimed<Vec<Hwtstamp>>, Error>, bool) {
        let secured = Cell::new(false);
        let secure = || {
            secured.set(true);
            Ok(Vec::new())
        };
        let result = claim_by(port, "eth0", need, daemon, secure, |notes, note, out| {
            notes.push(note);
            notes.retain(|note| Some(note) != out.as_ref());
            Ok(())
        });
        (result, secured.get())
    }

    #[test]
    fn what_was_changed_is_noted_with_what_the_driver_made_of_it() {
        // ixgbe X550: any filter becomes ALL
        let port = driver(config(0, NONE), |config| Ok(HwtstampConfig { rx_filter: ALL, ..config }));
        let (found, now, notes) = claimed(&port, Need::PtpOverUdp, None).0.expect("claims");
        assert_eq!((found, now), (config(0, NONE), config(1, ALL)));
        let note = Hwtstamp { netns: None, interface: "eth0".into(), was: found, set: Some(now) };
        assert_eq!(notes, Some(vec![note]));
    }

    #[test]
    fn nothing_is_secured_noted_or_written_where_nothing_is_missing() {
        let port = driver(config(1, ALL), |_| panic!("must not write"));
        let daemon = Some(Ptp4l { pid: 7 });
        let (result, secured) = claimed(&port, Need::AllPackets, daemon);
        let (found, now, notes) = result.expect("with ptp4l on the port as well");
        assert_eq!((found, now, notes.is_none(), secured), (config(1, ALL), config(1, ALL), true, false));
    }

    #[test]
    fn ptp4l_on_the_port_is_not_disturbed() {
        let port = driver(config(1, PTP_V2_EVENT), |_| panic!("must not write"));
        let (result, secured) = claimed(&port, Need::AllPackets, Some(Ptp4l { pid: 4711 }));
        let error = result.expect_err("the filter would have to change").to_string();
        assert!(error.contains("ptp4l (pid 4711)") && error.contains("ptpv2-event"), "{error}");
        assert!(!secured);
    }

    #[test]
    fn a_driver_that_narrows_or_refuses_leaves_the_setting_as_it_was() {
        // i40e: ALL is out of range
        let refuses = driver(config(1, PTP_V2_EVENT), |config| match config.rx_filter {
            ALL => Err(io::Error::from_raw_os_error(libc::ERANGE)),
            _ => Ok(config),
        });
        let error = claimed(&refuses, Need::AllPackets, None).0.expect_err("refused").to_string();
        assert!(error.contains("eth0") && error.contains("--timestamps software"), "{error}");
        assert_eq!(refuses.setting.get(), config(1, PTP_V2_EVENT));

        let found = config(1, 3);
        let narrows =
            driver(found, |config| if config.rx_filter == ALL { Ok(self::config(1, 12)) } else { Ok(config) });
        claimed(&narrows, Need::PtpOverUdp, None).0.expect_err("V1 would be lost");
        assert_eq!((narrows.setting.get(), narrows.written.borrow().len()), (found, 2));
    }

    #[test]
    fn a_port_without_a_card_says_so_before_anything_is_secured() {
        let error = claim("lo", Need::AllPackets, "test", &[]).expect_err("loopback stamps nothing");
        let Error::Hwtstamp { action: "read", source, .. } = error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}
