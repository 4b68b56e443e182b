//! Who reflects: each as a process of its own on the reflector's CPU, with the same receive buffer.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    sys,
    wire::{self, INTERFACE, PORT, REFLECTOR, REFLECTOR_CPU, Wire},
};

/// `pathlab reflect` asks for so much; the others get the same, so that no figure rests on a buffer.
pub const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `pathlab` itself.
    pub pathlab: PathBuf,
    /// The folder of this program: the recvmmsg echo lies beside it.
    pub own: PathBuf,
    /// Where `scripts/bench` put the peers.
    pub peers: PathBuf,
}

/// A reflector that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// Ours over a UDP socket.
    Socket,
    /// Ours over AF_XDP, sleeping when there is nothing.
    AfXdp,
    /// Ours over AF_XDP, never sleeping.
    AfXdpBusy,
    /// Ours in the driver.
    Xdp,
    /// Another STAMP reflector.
    StampSuite,
    /// An echo over a UDP socket.
    RecvmmsgEcho,
    /// An echo over AF_XDP.
    XskEcho,
}

/// All of them.
pub const ALL: [Contestant; 7] = [
    Contestant::Socket,
    Contestant::AfXdp,
    Contestant::AfXdpBusy,
    Contestant::Xdp,
    Contestant::StampSuite,
    Contestant::RecvmmsgEcho,
    Contestant::XskEcho,
];

impl Contestant {
    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "pathlab, socket",
            Self::AfXdp => "pathlab, AF_XDP",
            Self::AfXdpBusy => "pathlab, AF_XDP busy",
            Self::Xdp => "pathlab, XDP",
            Self::StampSuite => "stamp-suite",
            Self::RecvmmsgEcho => "recvmmsg echo",
            Self::XskEcho => "xsk-rs echo",
        }
    }

    /// The program and its arguments.
    pub fn command_line(self, programs: &Programs) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let listen = format!("{REFLECTOR}:{PORT}");
        let ours = |rest: &[&str]| {
            let mut line = vec![text(&programs.pathlab), "reflect".into(), "--listen".into(), listen.clone()];
            line.extend(rest.iter().map(|argument| (*argument).to_owned()));
            line
        };
        let past_the_stack = ["--iface", INTERFACE, "--xdp-mode", "native", "--copy", "copy"];
        match self {
            Self::Socket => ours(&["--datapath", "socket"]),
            Self::AfXdp => ours(&[&past_the_stack[..], &["--datapath", "afxdp"]].concat()),
            Self::AfXdpBusy => ours(&[&past_the_stack[..], &["--datapath", "afxdp", "--busy-poll"]].concat()),
            Self::Xdp => ours(&[&past_the_stack[..], &["--datapath", "xdp"]].concat()),
            Self::StampSuite => {
                let port = PORT.to_string();
                let arguments = ["--is-reflector", "--local-addr", REFLECTOR, "--local-port", port.as_str()];
                let mut line = vec![text(&programs.peers.join("stamp-suite"))];
                line.extend(arguments.map(str::to_owned));
                line
            }
            Self::RecvmmsgEcho => vec![text(&programs.own.join("recvmmsg-echo")), listen],
            Self::XskEcho => vec![text(&programs.peers.join("pathlab-xsk-echo")), INTERFACE.into()],
        }
    }

    /// Starts it; [`Running::ready`] says when it is heard.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start(self, wire: &Wire, programs: &Programs) -> Result<Running> {
        start(self.name(), wire, &self.command_line(programs))
    }
}

/// A process on the reflector's CPU.
///
/// # Errors
/// It is not installed.
pub fn start(name: &str, wire: &Wire, command_line: &[String]) -> Result<Running> {
    let mut command = wire::on_cpu(&wire.near, REFLECTOR_CPU, command_line)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env("RUST_LOG", "error");
    let child = command.spawn().with_context(|| format!("{name}: taskset (util-linux) does not start"))?;
    Ok(Running { name: name.to_owned(), child })
}

/// A reflector or server; ended when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// The program's own process: taskset has become it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns when `heard` says that it answers, with the receive buffers of all its UDP sockets as large as ours.
    ///
    /// # Errors
    /// It ended, or is not heard for ten seconds.
    pub fn ready(&mut self, mut heard: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !heard()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it answered: {status}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} does not answer", self.name);
            }
        }
        self.enlarge_receive_buffers().with_context(|| format!("{}: receive buffers", self.name))
    }

    /// Also those of programs that have no option for it: by a duplicate of their descriptor.
    fn enlarge_receive_buffers(&self) -> Result<()> {
        let process = sys::pidfd(self.child.id())?;
        for entry in fs::read_dir(format!("/proc/{}/fd", self.child.id()))? {
            let entry = entry?;
            if !fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")) {
                continue;
            }
            let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let socket = sys::descriptor_of(process.as_fd(), descriptor)?;
            // of an AF_XDP, netlink or Unix socket it means nothing or little
            sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // ours takes its programs off the interface by itself; what does not end in time is killed
        let _ = sys::terminate(&self.child);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
