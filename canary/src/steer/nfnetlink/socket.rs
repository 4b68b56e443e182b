//! The one socket that owns the table: while it is open the table stands, when the process dies the kernel takes the
//! table away.

use std::{io, os::fd::AsRawFd, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    attributes::{find, parse},
    batch::{ACK, Batch, Kind, every_rule, question},
    foreign::{MarkUse, mark_use},
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const DUMP: u16 = 0x300;
const RECEIVE_BUFFER: usize = 64 * 1024;

/// A socket to nf_tables of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct NftSocket {
    socket: Socket,
    sequence: u32,
}

/// The kernel refused a transaction or a question.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(crate) struct Refused {
    /// The object that it refused.
    pub(crate) what: String,
    pub(crate) source: io::Error,
}

impl Refused {
    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// One element as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: Vec<u8>,
    pub(crate) ends: bool,
    /// Time left, of an element that has a lease.
    pub(crate) expires: Option<Duration>,
}

impl NftSocket {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Number of its descriptor.
    pub(crate) fn descriptor(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Sends a transaction. When this returns without error it is in effect.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), Refused> {
        let first = self.sequence.wrapping_add(1);
        let last = batch.last(first);
        self.sequence = last.wrapping_add(1);
        let refused = |what: &str, source| Refused { what: what.to_owned(), source };
        self.socket.send(&batch.encode(first), 0).map_err(|source| refused("send to nf_tables", source))?;
        let mut acknowledged = false;
        let mut failure = None;
        // The kernel reports every message that it refused, then acknowledges the last: the whole answer is there when
        // send(2) returns.
        let answer = self.receive(|message| {
            if message.kind == NLMSG_ERROR && (first..=last).contains(&message.sequence) {
                match error_code(message.body) {
                    0 => acknowledged |= message.sequence == last,
                    code => {
                        failure.get_or_insert((message.sequence, code));
                    }
                }
            }
            true
        });
        match (answer, failure) {
            (_, Some((sequence, code))) => {
                Err(refused(batch.what(first, sequence), io::Error::from_raw_os_error(code)))
            }
            (Err(source), None) => Err(refused("answer of nf_tables", source)),
            (Ok(()), None) if acknowledged => Ok(()),
            (Ok(()), None) => Err(refused("answer of nf_tables", io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// The comment of a table, empty when it has none; `None` when there is no such table.
    pub(crate) fn table_comment(&mut self, table: &str) -> Result<Option<String>, Refused> {
        let mut comment = String::new();
        let answer = self.ask(
            Kind::GetTable,
            ACK,
            table,
            "table",
            |_| {},
            |attributes| {
                let user_data = find(attributes, 6).unwrap_or_default();
                if let [0, _, text @ .., 0] = user_data {
                    comment = String::from_utf8_lossy(text).into_owned();
                }
            },
        );
        match answer {
            Ok(()) => Ok(Some(comment)),
            Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// Packets that a named counter has seen.
    pub(crate) fn counter(&mut self, table: &str, name: &str) -> Result<u64, Refused> {
        let mut packets = 0;
        self.ask(
            Kind::GetObject,
            ACK,
            table,
            &format!("counter {name}"),
            |to| {
                to.text(2, name).be32(3, 1);
            },
            |attributes| packets = find(attributes, 4).and_then(|data| be64(find(data, 2)?)).unwrap_or(0),
        )?;
        Ok(packets)
    }

    /// All elements of a set or map. Those whose lease has run out are not among them.
    pub(crate) fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Listed>, Refused> {
        let mut listed = Vec::new();
        self.ask(
            Kind::GetElement,
            DUMP,
            table,
            &format!("elements of {set}"),
            |to| {
                to.text(2, set);
            },
            |attributes| {
                let elements = parse(find(attributes, 3).unwrap_or_default());
                listed.extend(elements.filter_map(|(_, element)| listed_element(element)));
            },
        )?;
        Ok(listed)
    }

    fn ask(
        &mut self,
        kind: Kind,
        flags: u16,
        table: &str,
        what: &str,
        fill: impl FnOnce(&mut super::attributes::Attributes),
        take: impl FnMut(&[u8]),
    ) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = question(kind, flags, self.sequence, table, fill);
        self.exchange(&request, what, take)
    }

    /// What the rules of all tables but `table` do to the packet mark.
    pub(crate) fn mark_uses_beside(&mut self, table: &str) -> Result<Vec<MarkUse>, Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut uses = Vec::new();
        self.exchange(&every_rule(DUMP, self.sequence), "list the rules", |rule| uses.extend(mark_use(rule)))?;
        uses.retain(|found| found.table != table);
        Ok(uses)
    }

    fn exchange(&mut self, request: &[u8], what: &str, mut take: impl FnMut(&[u8])) -> Result<(), Refused> {
        let sequence = self.sequence;
        let refused = |source| Refused { what: what.to_owned(), source };
        self.socket.send(request, 0).map_err(refused)?;
        let mut failure = 0;
        self.receive(|message| {
            if message.sequence != sequence {
                return true;
            }
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    failure = error_code(message.body);
                    return false;
                }
                // After `struct nfgenmsg`.
                _ => take(message.body.get(4..).unwrap_or_default()),
            }
            true
        })
        .map_err(refused)?;
        if failure == 0 { Ok(()) } else { Err(refused(io::Error::from_raw_os_error(failure))) }
    }

    /// Hands over what the kernel has answered, until `take` has enough or nothing is left.
    fn receive(&self, mut take: impl FnMut(Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            // Never waits: the kernel answers inside send(2) and continues a dump inside recv(2).
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let mut rest = &buffer[..];
            while let Some((message, next)) = Message::split(rest) {
                if !take(message) {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = word(0)? as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let message = Self { kind, sequence: word(8)?, body: bytes.get(16..length)? };
        Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }
}

/// The positive error number of an error or done message; 0 is an acknowledgement.
fn error_code(body: &[u8]) -> i32 {
    body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
}

fn listed_element(bytes: &[u8]) -> Option<Listed> {
    let flags = find(bytes, 3).and_then(|flags| Some(u32::from_be_bytes(flags.try_into().ok()?))).unwrap_or(0);
    Some(Listed {
        key: find(find(bytes, 1)?, 1)?.to_vec(),
        ends: flags & 1 != 0,
        expires: find(bytes, 5).and_then(be64).map(Duration::from_millis),
    })
}

fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// For the fuzz target: whatever nf_tables answers is read, and no more elements than it has octets for come out.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_octets(octets: &[u8]) {
    let (mut rest, mut read) = (octets, 0);
    while let Some((message, next)) = Message::split(rest) {
        assert!(next.len() + 16 <= rest.len(), "a message is no shorter than its header");
        let _ = (error_code(message.body), message.kind, message.sequence);
        let attributes = message.body.get(4..).unwrap_or_default();
        let _ = mark_use(attributes);
        let _ = find(attributes, 4).and_then(|data| be64(find(data, 2)?));
        read +=
            parse(find(attributes, 3).unwrap_or_default()).filter_map(|(_, element)| listed_element(element)).count();
        rest = next;
    }
    assert!(read <= octets.len() / 4, "{read} elements of {} octets", octets.len());
}

#[cfg(test)]
mod tests {
    use pathlab_guard::privilege::root_or_skip;
    use proptest::prelude::*;

    use super::super::attributes::Attributes;

    use super::*;

    /// Messages whose lengths fit, with attributes of the types that are looked for, three deep.
    fn answer() -> impl Strategy<Value = Vec<u8>> {
        let leaf = proptest::collection::vec(any::<u8>(), 0..24);
        let message = (any::<u16>(), proptest::collection::vec((0..8_u16, 0..8_u16, 0..8_u16, leaf), 0..5)).prop_map(
            |(kind, attributes)| {
                let mut body = Attributes::default();
                for (a, b, c, value) in attributes {
                    body.nest(a, |outer| {
                        outer.nest(b, |inner| {
                            inner.bytes(c, &value);
                        });
                    });
                }
                let mut octets = (20 + body.as_bytes().len() as u32).to_ne_bytes().to_vec();
                octets.extend(kind.to_ne_bytes());
                octets.extend([0; 14]);
                octets.extend(body.as_bytes());
                octets
            },
        );
        proptest::collection::vec(message, 0..4).prop_map(|messages| messages.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_answer_makes_it_panic(octets in prop_oneof![answer(), any::<Vec<u8>>()]) {
            any_octets(&octets);
        }
    }

    #[test]
    fn a_refusal_names_the_object() {
        if !root_or_skip("a_refusal_names_the_object") {
            return;
        }
        // Nothing of it takes effect: there is no such table.
        let mut batch = Batch::new("pathlab_absent");
        batch.add_counter("packets");
        batch.flush_set("clients");
        let mut socket = NftSocket::open().unwrap();
        let refused = socket.commit(&batch).unwrap_err();
        assert_eq!((refused.what.as_str(), refused.errno()), ("counter packets", Some(libc::ENOENT)));
        assert_eq!(socket.table_comment("pathlab_absent").unwrap(), None);
        let refused = socket.counter("pathlab_absent", "packets").unwrap_err();
        assert_eq!((refused.what.as_str(), refused.errno()), ("counter packets", Some(libc::ENOENT)));
    }
}
