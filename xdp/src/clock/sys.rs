//! The system calls of the clocks, one a function, so that every other file is safe code.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::cross_stamp::SAMPLES;

fn done(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `clock_gettime` in nanoseconds, of a clock that every Linux has.
pub(super) fn clock_nanos(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to `now`, which lives on this frame.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut now) };
    debug_assert_eq!(rc, 0, "a clock that every kernel has");
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// `adjtimex` without changing anything: all that the kernel says of its clock.
pub(super) fn read_timex() -> io::Result<libc::timex> {
    // SAFETY: `timex` is plain data for which all zeroes is a value, and `modes` zero means "read only".
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel reads and writes one `timex`, which lives on this frame.
    done(unsafe { libc::adjtimex(&raw mut timex) })?;
    Ok(timex)
}

/// `PTP_CLOCK_GETCAPS`.
pub(super) fn ptp_capabilities(device: BorrowedFd<'_>) -> io::Result<libc::ptp_clock_caps> {
    // SAFETY: plain integers, for which all zeroes is a value.
    let mut caps: libc::ptp_clock_caps = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one `ptp_clock_caps`, the size of which is part of the request's number, to this frame; the
    // descriptor is borrowed, hence open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_CLOCK_GETCAPS, &raw mut caps) })?;
    Ok(caps)
}

/// `PTP_SYS_OFFSET_PRECISE`.
pub(super) fn ptp_sys_offset_precise(device: BorrowedFd<'_>) -> io::Result<libc::ptp_sys_offset_precise> {
    // SAFETY: plain integers, for which all zeroes is a value.
    let mut answer: libc::ptp_sys_offset_precise = unsafe { mem::zeroed() };
    // SAFETY: the kernel reads and writes one `ptp_sys_offset_precise`, the size of which is part of the request's number, on this
    // frame; the descriptor is borrowed, hence open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET_PRECISE, &raw mut answer) })?;
    Ok(answer)
}

/// `PTP_SYS_OFFSET_EXTENDED` of as many samples as the kernel takes, against `CLOCK_REALTIME`.
pub(super) fn ptp_sys_offset_extended(device: BorrowedFd<'_>) -> io::Result<libc::ptp_sys_offset_extended> {
    // SAFETY: plain integers, for which all zeroes is a value; zero is `CLOCK_REALTIME`, too.
    let mut answer: libc::ptp_sys_offset_extended = unsafe { mem::zeroed() };
    answer.n_samples = SAMPLES as libc::c_uint;
    // SAFETY: the kernel reads and writes one `ptp_sys_offset_extended`, the size of which is part of the request's number, on this
    // frame; the descriptor is borrowed, hence open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET_EXTENDED, &raw mut answer) })?;
    Ok(answer)
}

/// `PTP_SYS_OFFSET` of as many samples as the kernel takes.
pub(super) fn ptp_sys_offset(device: BorrowedFd<'_>) -> io::Result<libc::ptp_sys_offset> {
    // SAFETY: plain integers, for which all zeroes is a value.
    let mut answer: libc::ptp_sys_offset = unsafe { mem::zeroed() };
    answer.n_samples = SAMPLES as libc::c_uint;
    // SAFETY: the kernel reads and writes one `ptp_sys_offset`, the size of which is part of the request's number, on this frame
    // (its number says "write only", yet it is copied back); the descriptor is borrowed, hence open.
    done(unsafe { libc::ioctl(device.as_raw_fd(), libc::PTP_SYS_OFFSET, &raw mut answer) })?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `linux/ptp_clock.h`: the numbers hold direction and size of each structure.
    #[test]
    fn structures_and_numbers_are_the_kernels() {
        assert_eq!(size_of::<libc::ptp_clock_time>(), 16);
        assert_eq!(size_of::<libc::ptp_clock_caps>(), 80);
        assert_eq!(size_of::<libc::ptp_sys_offset_precise>(), 64);
        assert_eq!(size_of::<libc::ptp_sys_offset_extended>(), 16 + 25 * 3 * 16);
        assert_eq!(size_of::<libc::ptp_sys_offset>(), 16 + 51 * 16);
        assert_eq!(mem::offset_of!(libc::ptp_clock_time, nsec), 8);
        assert_eq!(mem::offset_of!(libc::ptp_clock_caps, cross_timestamping), 24);
        assert_eq!(mem::offset_of!(libc::ptp_sys_offset_extended, ts), 16);
        assert_eq!(mem::offset_of!(libc::ptp_sys_offset, ts), 16);
        assert_eq!(mem::offset_of!(libc::ptp_sys_offset_precise, sys_realtime), 16);
        assert_eq!(libc::PTP_CLOCK_GETCAPS, 0x8050_3d01);
        assert_eq!(libc::PTP_SYS_OFFSET, 0x4340_3d05);
        assert_eq!(libc::PTP_SYS_OFFSET_PRECISE, 0xc040_3d08);
        assert_eq!(libc::PTP_SYS_OFFSET_EXTENDED, 0xc4c0_3d09);
    }

    #[test]
    fn what_is_no_clock_says_so() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        let errno = |error: io::Error| error.raw_os_error();
        assert_eq!(ptp_capabilities(file.as_fd()).map(drop).map_err(errno), Err(Some(libc::ENOTTY)));
        assert_eq!(ptp_sys_offset_precise(file.as_fd()).map(drop).map_err(errno), Err(Some(libc::ENOTTY)));
        assert_eq!(ptp_sys_offset_extended(file.as_fd()).map(drop).map_err(errno), Err(Some(libc::ENOTTY)));
        assert_eq!(ptp_sys_offset(file.as_fd()).map(drop).map_err(errno), Err(Some(libc::ENOTTY)));
    }
}
