//! A blocking rtnetlink socket: the way back runs in `Drop`, in a guardian and in async code alike, so it needs no
//! runtime.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{Error, Result, in_netns};

/// The kernel packs a dump into parts of at most 32 KiB; twice that leaves no part cut.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// One socket to the kernel's links, addresses, neighbours, rules and routes, in the network namespace in which it was
/// opened.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: Socket,
    sequence: u32,
}

impl Rtnetlink {
    /// Opens a socket in the named network namespace, or in the calling thread's own.
    ///
    /// # Errors
    /// [`Error::NoNetns`]; [`Error::Call`] when the kernel gives no socket.
    pub fn open(netns: Option<&str>) -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Lets the kernel filter dumps by table. Kernels before 4.20 cannot, and send more than was asked for.
            drop(socket.set_netlink_get_strict_chk(true));
            Ok(socket)
        };
        let socket = in_netns(netns, || open().map_err(Error::call("open an rtnetlink socket")))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request that changes something and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// The kernel's answer as an operating system error.
    pub fn change(&mut self, request: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Like [`Rtnetlink::change`] for what must not exist yet.
    ///
    /// # Errors
    /// The kernel's answer as an operating system error, `EEXIST` when it exists.
    pub fn create(&mut self, request: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Like [`Rtnetlink::change`], creating what does not exist yet.
    ///
    /// # Errors
    /// The kernel's answer as an operating system error.
    pub fn replace(&mut self, request: RouteNetlinkMessage) -> io::Result<()> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel's answer as an operating system error.
    pub fn query(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Asks for all objects of a kind.
    ///
    /// # Errors
    /// The kernel's answer as an operating system error.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.exchange(request, NLM_F_REQUEST | NLM_F_DUMP)
    }

    fn exchange(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut objects = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            // The kernel answers inside send(2), and continues a dump inside recv(2): not waiting loses nothing and can
            // never hang.
            self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
            if take(&buffer, self.sequence, &mut objects)? {
                return Ok(objects);
            }
        }
    }
}

/// Adds what one datagram says in answer to the request of that number; whether that was all of it.
fn take(datagram: &[u8], sequence: u32, objects: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::InnerMessage(object) => objects.push(object),
            NetlinkPayload::Error(error) => match error.code {
                None => return Ok(true),
                Some(code) => return Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
            },
            NetlinkPayload::Done(_) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// For the fuzz target: an answer of any octets gives no more objects than it has headers.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_octets(octets: &[u8]) {
    let mut objects = Vec::new();
    let sequence = octets.get(8..12).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let _ = take(octets, sequence, &mut objects);
    assert!(objects.len() <= octets.len() / 16, "{} objects of {} octets", objects.len(), octets.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Messages whose lengths fit, of types that rtnetlink has: random octets are hardly ever one.
    fn datagram() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![Just(2_u16), Just(3), 16..40_u16, any::<u16>()];
        let message = (kind, proptest::collection::vec(any::<u8>(), 0..120)).prop_map(|(kind, payload)| {
            let mut octets = (16 + payload.len() as u32).to_ne_bytes().to_vec();
            octets.extend(kind.to_ne_bytes());
            octets.extend([0; 10]);
            octets.extend(payload);
            octets.resize(octets.len().next_multiple_of(4), 0);
            octets
        });
        proptest::collection::vec(message, 0..4).prop_map(|messages| messages.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn no_answer_makes_it_panic(octets in prop_oneof![datagram(), any::<Vec<u8>>()]) {
            any_octets(&octets);
        }
    }
}
