//! Ctrl-C and SIGTERM as something that the measuring loops look at between two batches.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use pathlab_guard::capabilities::{self, Keep};
use pathlab_reflector::Stop;
use tokio::signal::unix::{SignalKind, signal};

/// Raised once, by the first of the two signals; the second ends the process as if nobody listened.
#[derive(Clone)]
pub(crate) struct Interrupt {
    raised: Arc<AtomicBool>,
    wake: Arc<Stop>,
}

impl Interrupt {
    /// Takes over SIGINT and SIGTERM.
    pub(crate) fn on_signals() -> io::Result<Self> {
        let interrupt = Self { raised: Arc::default(), wake: Arc::new(Stop::new()?) };
        let theirs = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut ctrl_c, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        thread::Builder::new().name("signals".into()).spawn(move || {
            // It raises a flag and ends the process: whatever the others keep, it needs nothing.
            let _ = capabilities::drop_all_but(Keep::Nothing);
            runtime.block_on(async {
                let code = tokio::select! { _ = ctrl_c.recv() => 130, _ = terminate.recv() => 143 };
                theirs.raised.store(true, Ordering::Relaxed);
                theirs.wake.request();
                tokio::select! { _ = ctrl_c.recv() => {}, _ = terminate.recv() => {} }
                std::process::exit(code);
            });
        })?;
        Ok(interrupt)
    }

    /// For loops that look at a flag.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.raised
    }

    /// For loops that poll a descriptor.
    pub(crate) fn event(&self) -> &Stop {
        &self.wake
    }
}
