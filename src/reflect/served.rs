//! The metrics of a reflector, served while it runs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread,
};

use anyhow::Result;
use pathlab_reflector::{Error, Metrics, MetricsServer, Stop};
use tracing::{info, warn};

use crate::exit::Misuse;

/// `127.0.0.1:9862`, `[::1]:9862`, or a port alone, which is one on loopback.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let port = || text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    text.parse().ok().or_else(port).ok_or_else(|| format!("`{text}` is no address with a port, and no port"))
}

/// Metrics with their server, or neither.
pub(super) struct Served(Option<(Arc<Metrics>, MetricsServer)>);

impl Served {
    /// Binds to the address, where there is one.
    pub(super) fn bind(address: Option<SocketAddr>) -> Result<Self> {
        let Some(address) = address else { return Ok(Self(None)) };
        let server = MetricsServer::bind(address).map_err(Misuse::of)?;
        let local = server.local_addr();
        if local.ip().is_loopback() {
            info!("metrics on http://{local}/metrics");
        } else {
            warn!("metrics on http://{local}/metrics: whoever reaches this address can read them");
        }
        Ok(Self(Some((Metrics::new(), server))))
    }

    /// Where the reflector is to publish.
    pub(super) fn metrics(&self) -> Option<Arc<Metrics>> {
        self.0.as_ref().map(|(metrics, _)| metrics.clone())
    }

    /// Serves until `run` has returned.
    pub(super) fn during(&self, run: impl FnOnce() -> Result<(), Error>) -> Result<()> {
        let Some((metrics, server)) = &self.0 else { return Ok(run()?) };
        let over = Stop::new()?;
        thread::scope(|scope| {
            let serving = scope.spawn(|| server.run(|| metrics.text(), &over));
            let ran = run();
            over.request();
            let served = serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok(ran.and(served)?)
        })
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
}
