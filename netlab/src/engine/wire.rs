//! The wire engine: real packets between namespaces through a router of ours, for queues, delays and faults that this machine's kernel does not have.
//!
//! ```text
//!  node A ── veth ── [ ring ─► queue ─► rate ─► way ─► heap by due time ─► send ] ── veth ── node B
//!                      kernel's receive stamp                     sleep, then look at the clock
//! ```
//!
//! A link that it plays is two veth pairs that meet in a namespace of the lab's own, and one thread copies frames from one to the other, both directions
//! of all links. A frame is due at its kernel receive stamp plus what queue, rate and way take; queues are served in logical time ([`super::line`]), so
//! that a router that wakes late sends late and does not serve late. The queues are the very ones of the virtual engine.
//!
//! What it cannot keep it says: [`WireGrade`].

mod direction;
mod frame;
mod grade;
mod port;
mod router;
mod sys;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use grade::{DirectionGrade, Tolerance, WireGrade};

use self::{
    direction::Direction,
    port::Port,
    router::{PACING, Path, Router},
};
use crate::{
    engine::line::Line,
    error::{Error, Result},
    impairment::{Fate, Impairment},
    netlink::Netlink,
    netns::Namespace,
    scenario::LinkEnd,
};

/// A link to play: both ends as the scenario has them, and the interface in the router's namespace at which each is heard.
pub(crate) struct Spliced<'a> {
    pub(crate) mtu: u32,
    pub(crate) ends: [(&'a LinkEnd, String); 2],
    /// What each end's packets of IPv4 and IPv6 meet once they are sent.
    pub(crate) impairments: [[Impairment; 2]; 2],
}

/// When the scenario's time begins, as a span since the epoch; until then it stands at zero.
pub(crate) type Zero = Arc<OnceLock<Duration>>;

/// A running router; dropping it ends it.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<WireGrade>>>,
}

impl Wire {
    /// Starts to play `links` in `namespace`.
    ///
    /// # Errors
    /// No packet socket to be had, or missing privilege.
    pub(crate) fn start(namespace: &Namespace, links: &[Spliced<'_>], zero: &Zero) -> Result<Self> {
        let mut netlink = Netlink::open(namespace)?;
        let mut router = Router { ports: Vec::new(), paths: Vec::new() };
        for Spliced { mtu, ends, impairments } in links {
            let first = router.ports.len();
            for (_, interface) in ends {
                let index = netlink.index(interface)?;
                let failed = |source| Error::Wire { interface: interface.clone(), source };
                router.ports.push(namespace.run(|| Port::open(index, *mtu))?.map_err(failed)?);
            }
            for (own, (end, _)) in ends.iter().enumerate() {
                let (mut impairments, zero) = (impairments[own].clone(), Arc::clone(zero));
                let way = move |sent: Duration, is_ipv6: bool| {
                    let at = sent.saturating_sub(zero.get().copied().unwrap_or(sent));
                    match impairments[usize::from(is_ipv6)].meet(at) {
                        Fate::Delivered(delay) => Some(sent + delay),
                        Fate::Lost => None,
                    }
                };
                let direction = Direction::new(Line::of(end, *mtu), Box::new(way));
                router.paths.push(Path {
                    node: end.node.clone(),
                    dev: end.dev.clone(),
                    direction,
                    from: first + own,
                    to: first + 1 - own,
                    grade: DirectionGrade::default(),
                });
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || router.run(PACING, &stopped))
            .map_err(|source| Error::Wire { interface: "all".into(), source })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and says how well it kept its times.
    ///
    /// # Errors
    /// What ended it before: an interface that went, or the kernel's refusal.
    pub fn stop(mut self) -> Result<WireGrade> {
        let ended = self.join().unwrap_or_else(|| Err(io::Error::other("the router's thread panicked")));
        ended.map_err(|source| Error::Wire { interface: "all".into(), source })
    }

    fn join(&mut self) -> Option<io::Result<WireGrade>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.join();
    }
}
