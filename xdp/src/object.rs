//! One compiled object with its one XDP program, loaded, and run on a frame without an interface.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, TestRun, TestRunOptions, Xdp},
};

use crate::{Error, entry::refused, xsk::metadata::RECORD_LENGTH};

/// Room for the metadata of any program here.
const METADATA_MAX: usize = 256;

/// A program in the kernel, with its maps.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) ebpf: Ebpf,
    name: &'static str,
}

impl Object {
    /// Loads `bytes` and in it the XDP program `name`.
    pub(crate) fn load(loader: &mut EbpfLoader<'_>, bytes: &[u8], name: &'static str) -> Result<Self, Error> {
        let mut ebpf = loader.load(bytes).map_err(|error| refused(name, error))?;
        let program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded);
        let program: Result<&mut Xdp, ProgramError> = program.and_then(TryInto::try_into);
        program.and_then(Xdp::load).map_err(|error| refused(name, error))?;
        Ok(Self { ebpf, name })
    }

    /// The program's descriptor.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        let fd = self.program().and_then(Xdp::fd).map_err(|error| refused(self.name, error))?;
        Ok(fd.as_fd())
    }

    /// `BPF_PROG_TEST_RUN`, once.
    pub(crate) fn test_run(&self, frame: &[u8]) -> Result<TestRunOutcome, Error> {
        // the kernel gives back what a program has put before the packet, too
        let mut out = vec![0; METADATA_MAX + frame.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self
            .program()
            .and_then(|program| program.test_run(options))
            .map_err(|source| Error::TestRun { length: frame.len(), source: Box::new(source) })?;
        out.truncate(result.data_size_out as usize);
        let action = Action::from(result.return_value);
        // a record is put before what goes to a socket, and nothing else
        let metadata = if action == Action::Redirect { RECORD_LENGTH.min(out.len()) } else { 0 };
        let frame = out.split_off(metadata);
        Ok(TestRunOutcome { action, metadata: out, frame })
    }

    fn program(&self) -> Result<&Xdp, ProgramError> {
        self.ebpf.program(self.name).ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

/// What the program did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRunOutcome {
    /// What the driver would do now.
    pub action: Action,
    /// What the program has put before the frame: the record of a packet that is redirected to an AF_XDP socket.
    pub metadata: Vec<u8>,
    /// The frame as the program left it; shorter by a card's stamp that was cut off ([`crate::XdpQuirks`]).
    pub frame: Vec<u8>,
}

/// `enum xdp_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's names
pub enum Action {
    Aborted,
    Drop,
    Pass,
    Tx,
    Redirect,
    /// A number without a name.
    Unknown(u32),
}

impl From<u32> for Action {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}
