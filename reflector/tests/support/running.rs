//! A reflector on a thread of its own.

use std::{net::SocketAddr, sync::Arc, thread};

use pathlab_reflector::{Reflector, ReflectorConfig, ReflectorReport, Stop};

/// A running reflector; dropping it stops it.
pub(crate) struct Running {
    stop: Arc<Stop>,
    thread: Option<thread::JoinHandle<ReflectorReport>>,
    /// Where it listens.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Running {
    /// Binds here, answers on another thread.
    pub(crate) fn start(config: ReflectorConfig) -> Self {
        let mut reflector = Reflector::new(config).expect("free ports");
        let addresses = reflector.local_addrs();
        let stop = Arc::new(Stop::new().expect("eventfd"));
        let flag = stop.clone();
        let thread = thread::spawn(move || {
            reflector.run(&flag).expect("a sound socket");
            reflector.report()
        });
        Self { stop, thread: Some(thread), addresses }
    }

    /// Stops it and takes its account.
    pub(crate) fn finish(mut self) -> ReflectorReport {
        self.stop.request();
        self.thread.take().expect("running").join().expect("no panic in the reflector")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
