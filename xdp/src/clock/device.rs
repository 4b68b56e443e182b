//! A card's clock as a device: where it is, how it can be compared with the system's, and the comparison itself.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use pathlab_record::Time;

use super::{
    cross_stamp::{self, CrossStamp, CrossStampMethod},
    sys,
};
use crate::{Error, nic::TsInfo};

/// A clock that can be compared with `CLOCK_REALTIME`; its twins are made up, or play recorded answers.
pub trait ClockDevice: Send {
    /// N of `/dev/ptpN`.
    fn index(&self) -> u32;

    /// How it is compared.
    fn method(&self) -> CrossStampMethod;

    /// Compares the clocks once, by the narrowest of what one call gives.
    ///
    /// # Errors
    /// As the kernel gave it: `ENODEV` where the card is gone, `EBUSY` or `EIO` while it resets.
    fn cross_stamp(&mut self) -> io::Result<CrossStamp>;
}

/// A clock behind `/dev/ptpN`.
#[derive(Debug)]
pub struct Phc {
    file: File,
    index: u32,
    method: CrossStampMethod,
    name: Option<String>,
    max_adjustment: u32,
}

impl Phc {
    /// The clock of `interface`; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::NoInterface`], and those of [`Phc::open`].
    pub fn of(interface: &str) -> Result<Option<Self>, Error> {
        match TsInfo::read(interface) {
            Ok(info) => info.phc.map(Self::open).transpose(),
            Err(source) => match source.raw_os_error() {
                Some(libc::ENODEV) => Err(Error::NoInterface { interface: interface.to_owned() }),
                // a driver without the call has no clock
                Some(libc::EOPNOTSUPP) => Ok(None),
                _ => Err(Error::Phc { clock: interface.to_owned(), call: "ETHTOOL_GET_TS_INFO", source }),
            },
        }
    }

    /// Opens `/dev/ptpN` and finds the best way to compare it.
    ///
    /// # Errors
    /// [`Error::Phc`]: the device is not there or not ours to read, or does not answer to any of the three calls.
    pub fn open(index: u32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/dev/ptp{index}"));
        let clock = path.display().to_string();
        let failed = |call| {
            let clock = clock.clone();
            move |source| Error::Phc { clock, call, source }
        };
        let file = File::open(&path).map_err(failed("open"))?;
        let caps = sys::ptp_capabilities(file.as_fd()).map_err(failed("PTP_CLOCK_GETCAPS"))?;
        let name = sysfs_name(Path::new("/sys/class/ptp"), index);
        let max_adjustment = u32::try_from(caps.max_adj).unwrap_or(0);
        let mut phc = Self { file, index, method: CrossStampMethod::Basic, name, max_adjustment };
        // A driver may have the call and yet no hardware for it, or none at the moment: what works is what counts.
        let precise = (caps.cross_timestamping != 0).then_some(CrossStampMethod::Precise);
        for method in precise.into_iter().chain([CrossStampMethod::Extended, CrossStampMethod::Basic]) {
            phc.method = method;
            match phc.cross_stamp() {
                Ok(_) => return Ok(phc),
                Err(source) if method == CrossStampMethod::Basic => return Err(failed("PTP_SYS_OFFSET")(source)),
                Err(_) => {}
            }
        }
        Ok(phc)
    }

    /// The name that the driver gives it; `None` where sysfs is not mounted.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// By how much its rate can be corrected, in parts per billion; 0 where it runs free.
    pub fn max_adjustment(&self) -> u32 {
        self.max_adjustment
    }
}

impl ClockDevice for Phc {
    fn index(&self) -> u32 {
        self.index
    }

    fn method(&self) -> CrossStampMethod {
        self.method
    }

    fn cross_stamp(&mut self) -> io::Result<CrossStamp> {
        let file = self.file.as_fd();
        let now = || Time::from_nanos(sys::clock_nanos(libc::CLOCK_MONOTONIC));
        let began = now();
        let stamp = match self.method {
            CrossStampMethod::Precise => {
                let answer = sys::ptp_sys_offset_precise(file)?;
                Some(cross_stamp::from_precise(&answer, (began, now())))
            }
            CrossStampMethod::Extended => {
                let answer = sys::ptp_sys_offset_extended(file)?;
                cross_stamp::from_extended(&answer, (began, now()))
            }
            CrossStampMethod::Basic => {
                let answer = sys::ptp_sys_offset(file)?;
                cross_stamp::from_basic(&answer, (began, now()))
            }
        };
        stamp.ok_or_else(|| io::Error::other("the system clock went backwards while it was compared"))
    }
}

/// `clock_name` of a clock under `/sys/class/ptp`.
fn sysfs_name(class: &Path, index: u32) -> Option<String> {
    let text = std::fs::read_to_string(class.join(format!("ptp{index}/clock_name"))).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_a_clock_is_no_error() {
        assert!(Phc::of("lo").expect("ETHTOOL_GET_TS_INFO").is_none());
        for name in ["nowhere0", "a-name-longer-than-the-kernel-takes"] {
            assert!(matches!(Phc::of(name), Err(Error::NoInterface { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_clock_that_is_not_there_is_one_clear_sentence() {
        let error = Phc::open(987_654).expect_err("not there");
        assert_eq!(error.to_string(), "/dev/ptp987654: open; see `ethtool -T` and `ls -l /dev/ptp*`");
    }
}
