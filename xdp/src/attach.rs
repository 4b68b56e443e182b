//! Puts a loaded program on an interface by a BPF link, which the kernel takes back with the process, even after kill -9.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::programs::loaded_programs;

use crate::{Error, interface::Interface, sys};

/// Which mode to ask the kernel for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native where the driver can, otherwise generic; what it became is told.
    #[default]
    Auto,
    /// In the driver, before a socket buffer exists. Refused where the driver cannot.
    Native,
    /// In the stack, on socket buffers: works on every interface, saves less.
    Generic,
}

/// Which mode a program runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver (`xdpdrv`).
    Native,
    /// In the stack (`xdpgeneric`).
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

pub(crate) fn mode_name(mode: Option<AttachedMode>) -> String {
    mode.map_or_else(|| "hardware or several modes".to_owned(), |mode| mode.to_string())
}

/// A program on an interface; dropping it takes the program off.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) mode: AttachedMode,
    /// Why `Auto` became generic.
    pub(crate) native_refused: Option<Error>,
    /// The kernel detaches when the last descriptor of the link is closed, by us or for us.
    link: OwnedFd,
}

impl Drop for Attachment {
    /// At once: a process that another thread has just forked holds the descriptor too, until it executes.
    fn drop(&mut self) {
        // If this fails, the descriptor's close does it.
        let _ = sys::bpf_link_detach(self.link.as_fd());
    }
}

impl Attachment {
    /// Attaches unless there is a program already.
    pub(crate) fn new(interface: &Interface, program: BorrowedFd<'_>, mode: XdpMode) -> Result<Self, Error> {
        refuse_occupied(interface)?;
        let attach = |mode| {
            sys::bpf_link_create_xdp(program, interface.index, mode)
                .map(|link| Self { mode, native_refused: None, link })
                .map_err(|source| explain(interface, mode, source))
        };
        match mode {
            XdpMode::Native => attach(AttachedMode::Native),
            XdpMode::Generic => attach(AttachedMode::Generic),
            XdpMode::Auto => attach(AttachedMode::Native).or_else(|error| match error {
                Error::NativeRefused { .. } => {
                    let mut attachment = attach(AttachedMode::Generic)?;
                    attachment.native_refused = Some(error);
                    Ok(attachment)
                }
                error => Err(error),
            }),
        }
    }
}

/// Fails when the interface has an XDP program, naming it.
pub(crate) fn refuse_occupied(interface: &Interface) -> Result<(), Error> {
    let Some(attached) = interface.program else { return Ok(()) };
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == attached.id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_default();
    Err(Error::AlreadyAttached { interface: interface.name.clone(), program, id: attached.id, mode: attached.mode })
}

/// What an error number of `BPF_LINK_CREATE` means for an XDP program (`net/core/dev.c`, `dev_xdp_attach`).
fn explain(interface: &Interface, mode: AttachedMode, source: io::Error) -> Error {
    let name = interface.name.clone();
    let errno = source.raw_os_error();
    match errno {
        Some(libc::EPERM | libc::EACCES) => return Error::NotPermitted { action: "attach an XDP program" },
        Some(libc::ENODEV) => return Error::NoInterface { interface: name },
        // Somebody was faster, or holds the other mode.
        Some(libc::EBUSY | libc::EEXIST) => {
            let occupied = Interface::find(&name).and_then(|interface| refuse_occupied(&interface));
            return occupied.err().unwrap_or(Error::Attach { interface: name, source });
        }
        _ => {}
    }
    let why = match errno {
        Some(libc::EOPNOTSUPP) => "its driver has no XDP",
        Some(libc::EINVAL | libc::ERANGE) => {
            "its driver refuses with these settings, often an MTU above one page or LRO"
        }
        Some(libc::ENOMEM | libc::ENOSPC) => "its driver has too few queues or too little memory for it",
        _ => return Error::Attach { interface: name, source },
    };
    match mode {
        AttachedMode::Native => Error::NativeRefused { interface: name, why, source },
        AttachedMode::Generic => Error::Attach { interface: name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_by_the_driver_lets_auto_go_on() {
        let interface = Interface { name: "nowhere0".into(), index: 9, ethernet: true, veth: false, program: None };
        let explained = |errno| explain(&interface, AttachedMode::Native, io::Error::from_raw_os_error(errno));
        assert!(matches!(explained(libc::EOPNOTSUPP), Error::NativeRefused { .. }));
        assert!(matches!(explained(libc::EINVAL), Error::NativeRefused { .. }));
        assert!(matches!(explained(libc::EPERM), Error::NotPermitted { .. }));
        assert!(matches!(explained(libc::ENODEV), Error::NoInterface { .. }));
        assert!(matches!(explained(libc::EFAULT), Error::Attach { .. }));
    }
}
