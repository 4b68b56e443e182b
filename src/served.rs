//! What a verb tells a monitoring system while it works: one way to serve `/metrics` for all of them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
};

use anyhow::Result;
use pathlab_guard::capabilities::{self, Keep};
use pathlab_reflector::{MetricsServer, Stop};
use tracing::{info, warn};

use crate::exit::Misuse;

/// `127.0.0.1:9862`, `[::1]:9862`, or a port alone, which is one on loopback.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let port = || text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    text.parse().ok().or_else(port).ok_or_else(|| format!("`{text}` is no address with a port, and no port"))
}

/// A server of metrics that is bound, or none.
pub(crate) struct Served(Option<MetricsServer>);

impl Served {
    /// Binds to the address, where there is one.
    pub(crate) fn bind(address: Option<SocketAddr>) -> Result<Self> {
        let Some(address) = address else { return Ok(Self(None)) };
        let server = MetricsServer::bind(address).map_err(Misuse::of)?;
        let local = server.local_addr();
        if local.ip().is_loopback() {
            info!("metrics on http://{local}/metrics");
        } else {
            warn!("metrics on http://{local}/metrics: whoever reaches this address can read them");
        }
        Ok(Self(Some(server)))
    }

    /// Serves what `text` says at the time until `run` has returned.
    pub(crate) fn during<T>(&self, text: impl Fn() -> String + Sync, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(server) = &self.0 else { return run() };
        let over = Stop::new()?;
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                // It answers strangers: whatever the others keep, it needs nothing.
                let _ = capabilities::drop_all_but(Keep::Nothing);
                server.run(&text, &over)
            });
            // also when it panics: the scope waits for the server
            let end = RequestWhenDropped(&over);
            let ran = run();
            drop(end);
            let served = serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let ran = ran?;
            served?;
            Ok(ran)
        })
    }
}

struct RequestWhenDropped<'a>(&'a Stop);

impl Drop for RequestWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_on_loopback() {
        assert_eq!(address("9862").map(|address| address.to_string()), Ok("127.0.0.1:9862".into()));
        assert_eq!(address("[::1]:9862").map(|address| address.to_string()), Ok("[::1]:9862".into()));
        assert_eq!(address("0.0.0.0:1").map(|address| address.to_string()), Ok("0.0.0.0:1".into()));
        assert_eq!(address("localhost").unwrap_err(), "`localhost` is no address with a port, and no port");
        assert!(address("70000").is_err());
    }

    #[test]
    fn what_panics_ends_its_server() {
        let served = Served::bind(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            served.during(String::new, || -> Result<()> { panic!("as a test") })
        }));
        assert!(panicked.is_err());
    }
}
