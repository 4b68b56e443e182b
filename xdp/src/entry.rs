//! Puts one of a program's two entries on an interface: the one that is bound to the device and asks the card, where it is wanted
//! and to be had, else the plain one.

use std::os::fd::{AsFd, OwnedFd};

use aya::{
    Ebpf,
    programs::{ProgramError, Xdp},
};

use crate::{Error, XdpMode, attach::Attachment, device_bound, interface::Interface, xsk::NicStamps};

/// The two entries of an object.
pub(crate) struct Entries {
    pub(crate) object: &'static [u8],
    pub(crate) plain: &'static str,
    pub(crate) bound: &'static str,
}

/// A program on its interface.
pub(crate) struct Put {
    pub(crate) program: OwnedFd,
    pub(crate) attachment: Attachment,
    /// Whether the card is asked, or why not; `Err(None)` where nobody wanted it.
    pub(crate) nic_stamps: Result<(), Option<Error>>,
}

/// Attaches the bound entry where it is wanted and to be had, else the plain one. `ebpf` must still hold the object's maps.
pub(crate) fn put(
    ebpf: &mut Ebpf,
    entries: &Entries,
    interface: &Interface,
    mode: XdpMode,
    nic_stamps: NicStamps,
) -> Result<Put, Error> {
    let not_asked =
        match put_bound(ebpf, entries, interface, mode, nic_stamps) {
            Some(Ok(put)) => return Ok(put),
            // A fault of the bound program's own costs the card's stamps, not the datapath.
            Some(Err(
                error @ (Error::DeviceBoundRefused { .. } | Error::NativeRefused { .. } | Error::Load { .. }),
            )) if nic_stamps == NicStamps::Auto => Some(error),
            Some(Err(error)) => return Err(error),
            None => None,
        };
    let program = plain(ebpf, entries.plain)?;
    let attachment = Attachment::new(interface, program.as_fd(), mode)?;
    Ok(Put { program, attachment, nic_stamps: Err(not_asked) })
}

/// `None` where nobody wants it.
fn put_bound(
    ebpf: &Ebpf,
    entries: &Entries,
    interface: &Interface,
    mode: XdpMode,
    nic_stamps: NicStamps,
) -> Option<Result<Put, Error>> {
    if nic_stamps == NicStamps::Off {
        return None;
    }
    if mode == XdpMode::Generic {
        let why = "generic XDP sees no card";
        return Some(Err(Error::DeviceBoundRefused { interface: interface.name.clone(), why, source: None }));
    }
    Some(device_bound::load(ebpf, entries.object, entries.bound, interface).and_then(|program| {
        // The kernel refuses a bound program in generic mode.
        let attachment = Attachment::new(interface, program.as_fd(), XdpMode::Native)?;
        Ok(Put { program, attachment, nic_stamps: Ok(()) })
    }))
}

fn plain(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    let program: Result<&mut Xdp, ProgramError> =
        ebpf.program_mut(name).ok_or(ProgramError::NotLoaded).and_then(TryInto::try_into);
    let program = program.map_err(|error| refused(name, error))?;
    // aya refuses to load twice
    if program.fd().is_err() {
        program.load().map_err(|error| refused(name, error))?;
    }
    let fd = program.fd().map_err(|error| refused(name, error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused(name, error))
}

pub(crate) fn refused<E: std::error::Error + Send + Sync + 'static>(program: &'static str, error: E) -> Error {
    Error::loading("load a BPF program", error, |source| Error::Load { program, source })
}
