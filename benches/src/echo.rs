//! The plain baseline over sockets: whatever comes goes back as it is, a batch a system call. No stamps, no rules.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::UdpSocket,
    os::fd::AsRawFd,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

const BATCH: usize = 64;
const LENGTH: usize = 2048;

/// Echoes until `stop`, which is looked at ten times a second or after each batch; how many datagrams it sent back.
///
/// # Errors
/// `recvmmsg` or `sendmmsg`, other than for want of datagrams.
pub fn recvmmsg_echo(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<u64> {
    socket.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
    let mut payloads = vec![[0_u8; LENGTH]; BATCH];
    // SAFETY: plain data for which all zeroes is a value.
    let mut names: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { mem::zeroed() };
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for (((payload, name), part), header) in payloads.iter_mut().zip(&mut names).zip(&mut parts).zip(&mut headers) {
            *part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: LENGTH };
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: every header points to a name, a part and by it a payload of this frame, with their true lengths.
        let came = unsafe {
            let fd = socket.as_raw_fd();
            libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as u32, libc::MSG_WAITFORONE as _, ptr::null_mut())
        };
        if came < 0 {
            match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
                error => return Err(error),
            }
        }
        let came = came as usize;
        for (part, header) in parts.iter_mut().zip(&headers).take(came) {
            part.iov_len = header.msg_len as usize;
        }
        let mut done = 0;
        while done < came {
            // SAFETY: as above; the headers from `done` on have been filled in by the kernel.
            let went =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), headers[done..].as_mut_ptr(), (came - done) as u32, 0) };
            // what cannot be sent is skipped, as a reflector does
            done += if went < 0 { 1 } else { went as usize };
            sent += u64::try_from(went).unwrap_or(0);
        }
    }
    Ok(sent)
}
