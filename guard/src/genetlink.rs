//! A family of generic netlink on one blocking socket, found by its name: requests and answers as attributes.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// linux/netlink.h, linux/genetlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NLA_TYPE: u16 = (1 << 14) - 1;

/// A socket that speaks to one family.
#[derive(Debug)]
pub struct Genetlink {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Genetlink {
    /// Opens the socket in the calling thread's network namespace, and looks for the family.
    ///
    /// # Errors
    /// `ENOENT` where the kernel does not have it; a socket that the kernel does not give.
    pub fn open(family: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Why a request is refused, in words, and not the request itself again. Kernels before 4.12 cannot.
        drop(socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)));
        let mut this = Self { socket, family: GENL_ID_CTRL, sequence: 0 };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, &[family.as_bytes(), &[0]].concat());
        let answer = this.ask(CTRL_CMD_GETFAMILY, &name)?;
        this.family = attributes(&answer)
            .find_map(|(kind, payload)| (kind == CTRL_ATTR_FAMILY_ID).then(|| payload.try_into().ok()))
            .flatten()
            .map(u16::from_ne_bytes)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(this)
    }

    /// One request; the attributes of its answer.
    ///
    /// # Errors
    /// As the kernel gave it.
    pub fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let answers = self.exchange(command, NLM_F_ACK, attributes)?;
        Ok(answers.into_iter().last().unwrap_or_default())
    }

    /// All objects of a kind: the attributes of each.
    ///
    /// # Errors
    /// As the kernel gave it.
    pub fn dump(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(command, NLM_F_DUMP, attributes)
    }

    fn exchange(&mut self, command: u8, flags: u16, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::with_capacity(20 + attributes.len());
        request.extend(u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX).to_ne_bytes());
        request.extend(self.family.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        self.socket.send(&request, 0)?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            // The kernel answers inside send(2), and continues a dump inside recv(2).
            self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
            for message in messages(&buffer) {
                match message {
                    (_, _, sequence) if sequence != self.sequence => {}
                    (NLMSG_ERROR, payload, _) => {
                        let code = payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
                        return if code == 0 { Ok(answers) } else { Err(refusal(code.saturating_neg(), payload)) };
                    }
                    (NLMSG_DONE, ..) => return Ok(answers),
                    (_, payload, _) => answers.push(payload.get(4..).unwrap_or_default().to_vec()),
                }
            }
        }
    }
}

/// What the kernel says to a wrong wish, in its own words where it has some (`NLMSGERR_ATTR_MSG`). Of what is not there or not allowed, the code
/// is the answer, and is kept.
fn refusal(code: i32, payload: &[u8]) -> io::Error {
    let error = io::Error::from_raw_os_error(code);
    if !matches!(code, libc::EINVAL | libc::ERANGE | libc::EBUSY) {
        return error;
    }
    // struct nlmsgerr, capped: the code and the header of the request; then attributes.
    let words = attributes(payload.get(20..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
    match words {
        None => error,
        Some((_, words)) => {
            let words = String::from_utf8_lossy(words.strip_suffix(&[0]).unwrap_or(words)).into_owned();
            io::Error::new(error.kind(), words)
        }
    }
}

/// Whole messages of a datagram: type, payload, sequence. A length that does not fit ends them.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8], u32)> {
    std::iter::from_fn(move || {
        let header: &[u8; 16] = rest.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = rest.get(16..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        Some((kind, payload, u32::from_ne_bytes([header[8], header[9], header[10], header[11]])))
    })
}

/// Attributes: type without its flags, payload. A length that does not fit ends them.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE, payload))
    })
}

/// One attribute, padded.
pub(crate) fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
    let mut octets = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    octets.extend(payload);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        let payload =
            [(-libc::EINVAL).to_ne_bytes().to_vec(), vec![0; 16], attribute(1, b"ring size too large\0")].concat();
        assert_eq!(refusal(libc::EINVAL, &payload).to_string(), "ring size too large");
        assert_eq!(refusal(libc::EINVAL, &payload[..20]).raw_os_error(), Some(libc::EINVAL));
        assert_eq!(refusal(libc::EOPNOTSUPP, &payload).raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_family_that_is_not_there_is_said_to_be_absent() {
        let error = Genetlink::open("pathlab-none").expect_err("no such family");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
