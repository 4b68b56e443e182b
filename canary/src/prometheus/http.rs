//! One GET over HTTP/1.1 without TLS: all that asking a Prometheus on the same network takes.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::Error;

/// How long a server may take to say something.
const PATIENCE: Duration = Duration::from_secs(120);
/// No answer is longer: 512 MiB.
const LONGEST: u64 = 512 << 20;

/// The body of the answer to `GET base/path?parameters`.
pub(super) fn get(base: &str, path: &str, parameters: &[(&str, String)]) -> Result<Vec<u8>, Error> {
    let wrong = || Error::Url { url: base.to_owned() };
    let (host, prefix) = match base.strip_prefix("http://").ok_or_else(wrong)?.split_once('/') {
        Some((host, prefix)) => (host, format!("/{}", prefix.trim_end_matches('/'))),
        None => (base.trim_start_matches("http://"), String::new()),
    };
    if host.is_empty() || host.contains(['@', ' ']) {
        return Err(wrong());
    }
    let prefix = if prefix == "/" { String::new() } else { prefix };
    let query: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    let failed = |source| Error::Io { url: base.to_owned(), source };
    let address = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = TcpStream::connect(&address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!(
        "GET {prefix}{path}?{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: application/json\r\n\r\n",
        query.join("&")
    );
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let (status, body) = answer(&mut BufReader::new(stream)).map_err(failed)?;
    if status != 200 {
        let why = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let why = why.and_then(|answer| Some(answer["error"].as_str()?.to_owned()));
        return Err(Error::Refused { url: base.to_owned(), status, why: why.unwrap_or_default() });
    }
    Ok(body)
}

/// Status and body, whole or in chunks.
fn answer(reader: &mut impl BufRead) -> std::io::Result<(u16, Vec<u8>)> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    let next = |reader: &mut dyn BufRead, line: &mut String| -> std::io::Result<()> {
        line.clear();
        reader.take(64 << 10).read_line(line).map(drop)
    };
    next(reader, &mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken("no HTTP answer"))?;
    let (mut chunked, mut length) = (false, None);
    loop {
        next(reader, &mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("transfer-encoding", "chunked") => chunked = true,
            ("content-length", text) => length = text.parse::<u64>().ok(),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if !chunked {
        reader.take(length.unwrap_or(LONGEST).min(LONGEST)).read_to_end(&mut body)?;
        if length.is_some_and(|length| length != body.len() as u64) {
            return Err(broken("the answer breaks off"));
        }
        return Ok((status, body));
    }
    loop {
        next(reader, &mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| broken("a chunk without a length"))?;
        if size == 0 {
            return Ok((status, body));
        }
        if body.len() as u64 + size > LONGEST {
            return Err(broken("an answer longer than 512 MiB"));
        }
        let before = body.len() as u64;
        reader.take(size).read_to_end(&mut body)?;
        if body.len() as u64 != before + size {
            return Err(broken("the answer breaks off"));
        }
        next(reader, &mut line)?;
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_chunks_and_never_half() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(answer(&mut whole.as_bytes()).unwrap(), (200, b"hello".to_vec()));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(answer(&mut chunked.as_bytes()).unwrap(), (200, b"hello".to_vec()));
        for text in [&whole[..whole.len() - 1], &chunked[..chunked.len() - 9], "nonsense"] {
            assert!(answer(&mut text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn only_plain_http_is_asked() {
        for url in ["https://example.org", "example.org:9090", "http://"] {
            assert!(matches!(get(url, "/", &[]), Err(Error::Url { .. })), "{url}");
        }
    }
}
