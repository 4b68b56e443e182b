//! Which sessions a probe drives: each a source address and port, a target, and labels, from a file or from a few options.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use pathlab_record::{Arm, Labels};
use serde::Deserialize;

use super::{ProbeError, schedule::MOST_SESSIONS};

/// One session of the probe.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSpec {
    /// Where its packets come from. `None`, an unspecified address or port 0: the kernel chooses what is left open.
    pub source: Option<SocketAddr>,
    /// The Session-Reflector.
    pub target: SocketAddr,
    /// fwmark of its packets, where it is not that of the run.
    pub mark: Option<u32>,
    /// The arm that it is on, where somebody knows.
    pub arm: Option<Arm>,
    /// Labels of all its samples.
    pub labels: Labels,
}

impl SessionSpec {
    /// A session to `target` whose source the kernel chooses.
    pub fn new(target: SocketAddr) -> Self {
        Self { source: None, target, mark: None, arm: None, labels: Labels::new() }
    }

    /// The source address, unless the kernel is to choose it.
    pub fn source_address(&self) -> Option<IpAddr> {
        self.source.map(|source| source.ip()).filter(|address| !address.is_unspecified())
    }

    /// The source port, unless the kernel is to choose it.
    pub fn source_port(&self) -> Option<u16> {
        self.source.map(|source| source.port()).filter(|&port| port != 0)
    }

    /// Its labels with `family` (4 or 6) added, which every session has.
    pub fn labels_with_family(&self) -> Labels {
        let mut labels = self.labels.clone();
        labels.insert("family".into(), if self.target.is_ipv4() { 4.into() } else { 6.into() });
        labels
    }
}

/// Reads a sessions file: one JSON object a line, empty lines and lines that start with `#` left out.
///
/// ```json
/// {"source":"10.1.0.5:40001","target":"10.9.0.2:862","labels":{"isp":"NTT"}}
/// ```
/// `source`, `mark`, `arm` and `labels` may be absent.
///
/// # Errors
/// The file cannot be read; or a line is wrong, named by file, line and field.
pub fn read_sessions(path: &Path) -> Result<Vec<SessionSpec>, ProbeError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ProbeError::SessionsUnreadable { path: path.to_owned(), source })?;
    parse_sessions(&path.display().to_string(), &text)
}

/// The text of a sessions file as sessions; `name` is what errors call the file.
///
/// # Errors
/// A line is wrong, or there is none.
pub fn parse_sessions(name: &str, text: &str) -> Result<Vec<SessionSpec>, ProbeError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        source: Option<String>,
        target: String,
        mark: Option<u32>,
        arm: Option<Arm>,
        #[serde(default)]
        labels: Labels,
    }
    let wrong = |line: usize, what: String| ProbeError::SessionLine { file: name.to_owned(), line, what };
    let mut sessions = Vec::new();
    let mut seen = HashMap::new();
    for (line, text) in text.lines().enumerate().map(|(index, text)| (index + 1, text.trim())) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let parsed: Line = serde_json::from_str(text).map_err(|error| wrong(line, json_error(&error)))?;
        let address = |field: &str, value: &str| {
            let error =
                || wrong(line, format!("field `{field}`: `{value}` is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)"));
            value.parse::<SocketAddr>().map_err(|_| error())
        };
        let target = address("target", &parsed.target)?;
        let source = parsed.source.as_deref().map(|value| address("source", value)).transpose()?;
        if let Some(label) = parsed.labels.iter().find(|(_, value)| value.is_object() || value.is_array()) {
            return Err(wrong(line, format!("field `labels`: `{}` must be a string, a number or a boolean", label.0)));
        }
        let session = SessionSpec { source, target, mark: parsed.mark, arm: parsed.arm, labels: parsed.labels };
        if let Some(what) = session.fault() {
            return Err(wrong(line, what));
        }
        if session.source_port().is_some()
            && let Some(first) = seen.insert((session.source, target), line)
        {
            return Err(wrong(line, format!("field `source`: the same source and target as in line {first}")));
        }
        sessions.push(session);
    }
    match sessions.len() {
        0 => Err(wrong(1, "the file names no session".into())),
        1..=MOST_SESSIONS => Ok(sessions),
        more => Err(wrong(more, format!("{more} sessions, the limit is {MOST_SESSIONS}"))),
    }
}

/// serde_json's message, with the column only: a line of ours is always its line 1.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("column {}: {what}", error.column()),
        None => text,
    }
}

impl SessionSpec {
    /// What is wrong with the session in itself.
    pub(super) fn fault(&self) -> Option<String> {
        let target = self.target.ip();
        if self.target.port() == 0 {
            return Some("field `target`: port 0 cannot be sent to".into());
        }
        if target.is_unspecified() || target.is_multicast() || target == IpAddr::from([255; 4]) {
            return Some(format!("field `target`: {target} is not the address of one host"));
        }
        let source = self.source?;
        (source.is_ipv4() != self.target.is_ipv4())
            .then(|| format!("field `source`: {source} and target {} are of different families", self.target))
    }
}

/// Which socket each session sends through: sockets are bound to a wildcard address and shared by all sessions of one
/// (family, source port, mark), so that thousands of sessions need a handful of sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlan {
    /// The address each socket is bound to.
    pub bind: Vec<SocketAddr>,
    /// The fwmark of each socket, where it is not that of the run.
    pub marks: Vec<Option<u32>>,
    /// For each session, its socket's index in `bind`.
    pub socket_of: Vec<usize>,
}

impl SocketPlan {
    /// Groups the sessions. Sessions that leave the port open share a socket as far as addresses tell them apart.
    pub fn new(sessions: &[SessionSpec]) -> Self {
        let mut plan = Self { bind: Vec::new(), marks: Vec::new(), socket_of: Vec::with_capacity(sessions.len()) };
        let mut by_port: HashMap<(bool, u16, Option<u32>), usize> = HashMap::new();
        // For open ports: how many sessions already have this (address, target, mark), and the sockets of each family and mark.
        let mut laps: HashMap<(Option<IpAddr>, SocketAddr, Option<u32>), usize> = HashMap::new();
        let mut open: HashMap<(bool, Option<u32>), Vec<usize>> = HashMap::new();
        for session in sessions {
            let v4 = session.target.is_ipv4();
            let wildcard = |port: u16| {
                if v4 { SocketAddr::from(([0; 4], port)) } else { SocketAddr::from(([0_u16; 8], port)) }
            };
            let mut add = |port: u16| {
                plan.bind.push(wildcard(port));
                plan.marks.push(session.mark);
                plan.bind.len() - 1
            };
            let socket = match session.source_port() {
                Some(port) => *by_port.entry((v4, port, session.mark)).or_insert_with(|| add(port)),
                None => {
                    let lap = laps.entry((session.source_address(), session.target, session.mark)).or_insert(0);
                    let sockets = open.entry((v4, session.mark)).or_default();
                    if *lap == sockets.len() {
                        sockets.push(add(0));
                    }
                    *lap += 1;
                    sockets[*lap - 1]
                }
            };
            plan.socket_of.push(socket);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Vec<SessionSpec>, String> {
        parse_sessions("s.jsonl", text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let text = concat!(
            "# clients of the evening\n\n",
            r#"{"source":"10.1.0.5:40001","target":"10.9.0.2:862","labels":{"isp":"NTT","asn":2914}}"#,
            "\n",
            r#"{"source":"[2001:db8::5]:40001","target":"[2001:db8:9::2]:862","arm":"canary"}"#,
            "\n",
            r#"{"target":"10.9.0.2:862"}"#,
        );
        let sessions = parse(text).unwrap();
        assert_eq!(sessions.len(), 3);
        assert_eq!(sessions[0].source, Some("10.1.0.5:40001".parse().unwrap()));
        assert_eq!(
            serde_json::to_string(&sessions[0].labels_with_family()).unwrap(),
            r#"{"asn":2914,"family":4,"isp":"NTT"}"#
        );
        assert_eq!(sessions[1].arm, Some(Arm::Canary));
        assert_eq!(sessions[1].labels_with_family()["family"], 6);
        assert_eq!(sessions[2].source_port(), None);
    }

    #[test]
    fn a_wrong_line_is_named_by_file_line_and_field() {
        let good = r#"{"source":"10.1.0.5:40001","target":"10.9.0.2:862"}"#;
        for (line, expected) in [
            (r#"{"source":"10.1.0.5","target":"10.9.0.2:862"}"#, "s.jsonl:2: field `source`: `10.1.0.5` is not"),
            (r#"{"target":"host:862"}"#, "s.jsonl:2: field `target`: `host:862` is not"),
            (r#"{"source":"10.1.0.5:1"}"#, "missing field `target`"),
            (r#"{"target":"10.9.0.2:862","isp":"NTT"}"#, "unknown field `isp`"),
            (r#"{"target":"10.9.0.2:0"}"#, "port 0"),
            (r#"{"target":"224.0.0.1:862"}"#, "not the address of one host"),
            (r#"{"source":"[::1]:5","target":"10.9.0.2:862"}"#, "different families"),
            (r#"{"target":"10.9.0.2:862","labels":{"isp":["a"]}}"#, "field `labels`: `isp` must be"),
            (good, "same source and target as in line 1"),
            ("nonsense", "s.jsonl:2: column"),
        ] {
            let error = parse(&format!("{good}\n{line}\n")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse("\n# nothing\n").unwrap_err().contains("names no session"));
    }

    #[test]
    fn sockets_are_shared_by_family_and_port() {
        let line = |source: &str, target: &str| SessionSpec {
            source: Some(source.parse().unwrap()),
            ..SessionSpec::new(target.parse().unwrap())
        };
        let sessions = [
            line("10.1.0.1:40000", "10.9.0.2:862"),
            line("10.1.0.2:40000", "10.9.0.2:862"),
            line("10.1.0.2:40001", "10.9.0.2:862"),
            line("[2001:db8::1]:40000", "[2001:db8::2]:862"),
            line("10.1.0.1:0", "10.9.0.2:862"),
            line("10.1.0.2:0", "10.9.0.2:862"),
            line("10.1.0.1:0", "10.9.0.2:862"),
        ];
        let plan = SocketPlan::new(&sessions);
        assert_eq!(plan.socket_of, [0, 0, 1, 2, 3, 3, 4]);
        let bind: Vec<String> = plan.bind.iter().map(SocketAddr::to_string).collect();
        assert_eq!(bind, ["0.0.0.0:40000", "0.0.0.0:40001", "[::]:40000", "0.0.0.0:0", "0.0.0.0:0"]);
        let marked = [Some(1), Some(2), None, Some(1)].map(|mark| SessionSpec { mark, ..sessions[4].clone() });
        let plan = SocketPlan::new(&marked);
        assert_eq!(plan.marks, [Some(1), Some(2), None, Some(1)], "a mark is the socket's");
    }

    proptest! {
        #[test]
        fn no_two_sessions_of_a_socket_look_alike(
            picks in prop::collection::vec((0u8..4, 0u16..3, 0u8..3), 1..60),
        ) {
            let mut sessions: Vec<SessionSpec> = Vec::new();
            for (host, port, target) in picks {
                let session = SessionSpec {
                    source: Some(SocketAddr::from(([10, 1, 0, host], port))),
                    ..SessionSpec::new(SocketAddr::from(([10, 9, 0, target], 862)))
                };
                if port == 0 || !sessions.contains(&session) {
                    sessions.push(session);
                }
            }
            let plan = SocketPlan::new(&sessions);
            let mut seen = std::collections::HashSet::new();
            for (session, &socket) in sessions.iter().zip(&plan.socket_of) {
                prop_assert!(seen.insert((socket, session.source_address(), session.target)));
                prop_assert_eq!(plan.bind[socket].port(), session.source.unwrap().port());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = parse_sessions("x", &text);
        }
    }
}
