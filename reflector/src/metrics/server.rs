//! A server for one page, `GET /metrics`, that cannot be made to hold more than a few connections, a small request and a short time
//! each.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Stop, sys};

/// Connections at once; one more is closed unheard.
const CONNECTIONS: usize = 4;

/// The longest request, headers included.
const REQUEST: usize = 8192;

/// From the acceptance of a connection to its end.
const PATIENCE: Duration = Duration::from_secs(5);

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The server, bound and not yet serving.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
    local: SocketAddr,
    busy: AtomicUsize,
    served: AtomicU64,
    refused: AtomicU64,
}

/// What became of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrapes {
    /// Answered with the metrics.
    pub served: u64,
    /// Anything else: another path or method, too long, too slow, too many at once.
    pub refused: u64,
}

impl MetricsServer {
    /// Binds to `address`. Whoever can reach it can read the account: loopback, unless the network around is trusted.
    ///
    /// # Errors
    /// [`Error::Metrics`]: the port is in use or privileged, or the address is not of this host.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Metrics { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local, busy: AtomicUsize::new(0), served: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// Where it listens, with the port that the kernel chose where 0 was asked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Hands out what `text` says at the time, such as [`Metrics::text`](super::Metrics::text), until `stop` is raised, and then ends
    /// within the time of one connection.
    ///
    /// # Errors
    /// [`Error::Wait`]; nothing that a client does makes it fail.
    pub fn run(&self, text: impl Fn() -> String + Sync, stop: &Stop) -> Result<(), Error> {
        let text = &text;
        thread::scope(|scope| {
            loop {
                let mut polled = [sys::Polled::readable(&self.listener), sys::Polled::readable(stop)];
                sys::poll(&mut polled, -1).map_err(Error::Wait)?;
                if polled[1].is_ready() {
                    return Ok(());
                }
                let mut connection = match self.listener.accept() {
                    Ok((connection, _)) => connection,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    // Out of descriptors, or a client that left at once: a pause keeps the former from spinning.
                    Err(_) => {
                        sys::poll(&mut [sys::Polled::readable(stop)], 100).map_err(Error::Wait)?;
                        continue;
                    }
                };
                if self.busy.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                    self.busy.fetch_sub(1, Ordering::Relaxed);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let serve = move || {
                    let served = serve(&mut connection, text).unwrap_or(false);
                    let count = if served { &self.served } else { &self.refused };
                    count.fetch_add(1, Ordering::Relaxed);
                    // Before the client sees the end: it may come back at once.
                    self.busy.fetch_sub(1, Ordering::Relaxed);
                    drop(connection);
                };
                if thread::Builder::new().name("metrics".into()).spawn_scoped(scope, serve).is_err() {
                    self.busy.fetch_sub(1, Ordering::Relaxed);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    }

    /// What became of the connections so far.
    pub fn scrapes(&self) -> Scrapes {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Scrapes { served: count(&self.served), refused: count(&self.refused) }
    }
}

/// One connection, one answer; true where that was the metrics.
fn serve(connection: &mut TcpStream, text: impl Fn() -> String) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    connection.set_nonblocking(false)?;
    let mut request = Vec::new();
    let status = loop {
        if let Some(head) = head(&request) {
            break judge(head);
        }
        if request.len() >= REQUEST {
            break Err("431 Request Header Fields Too Large");
        }
        connection.set_read_timeout(Some(left(deadline)?))?;
        let mut part = [0; 1024];
        let room = part.len().min(REQUEST - request.len());
        match connection.read(&mut part[..room])? {
            0 => return Ok(false),
            read => request.extend_from_slice(&part[..read]),
        }
    };
    let (status, kind, body) = match status {
        Ok(()) => ("200 OK", TEXT, text()),
        Err(status) => (status, "text/plain; charset=utf-8", format!("{status}; there is GET /metrics\n")),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        connection.set_write_timeout(Some(left(deadline)?))?;
        let written = connection.write(rest)?;
        rest = &rest[written..];
    }
    let served = status == "200 OK";
    if !served {
        // Closing over octets that were not read would be a reset, and could take the answer with it (RFC 9112, section 9.6).
        connection.shutdown(Shutdown::Write)?;
        while connection.read(&mut [0; 1024])? > 0 {
            connection.set_read_timeout(Some(left(deadline)?))?;
        }
    }
    Ok(served)
}

/// What is left of the time; none is an error.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The request up to the empty line that ends its headers, once that has come.
fn head(request: &[u8]) -> Option<&[u8]> {
    request.windows(4).position(|four| four == b"\r\n\r\n").map(|end| &request[..end])
}

/// RFC 9112, section 3: method, target, version. The answer to what is not `GET /metrics`.
fn judge(head: &[u8]) -> Result<(), &'static str> {
    let line = head.split(|octet| *octet == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|octet| *octet == b' ').collect();
    let &[method, target, version] = words.as_slice() else { return Err("400 Bad Request") };
    if !version.starts_with(b"HTTP/1.") {
        return Err("400 Bad Request");
    }
    let path = target.split(|octet| *octet == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET", b"/metrics") => Ok(()),
        (_, b"/metrics") => Err("405 Method Not Allowed"),
        _ => Err("404 Not Found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_by_one_method() {
        for (head, answer) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: a"[..], Ok(())),
            (b"GET /metrics?name=x HTTP/1.0", Ok(())),
            (b"POST /metrics HTTP/1.1", Err("405 Method Not Allowed")),
            (b"GET / HTTP/1.1", Err("404 Not Found")),
            (b"GET /metrics/../etc/passwd HTTP/1.1", Err("404 Not Found")),
            (b"GET /metrics", Err("400 Bad Request")),
            (b"GET  /metrics HTTP/1.1", Err("400 Bad Request")),
            (b"GET /metrics SSH-2.0", Err("400 Bad Request")),
            (b"\xff\0", Err("400 Bad Request")),
            (b"", Err("400 Bad Request")),
        ] {
            assert_eq!(judge(head), answer, "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(head(b"GET / HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(head(b"GET / HTTP/1.1\r\n\r\nbody"), Some(&b"GET / HTTP/1.1"[..]));
    }
}
