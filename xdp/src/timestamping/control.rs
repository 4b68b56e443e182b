//! Reads a control buffer as filled by `recvmsg`, as a pure function over its bytes, so that it can be tested without a socket.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use pathlab_record::{Realtime, Time};

/// `linux/errqueue.h`: which of the places on the way out a transmit report speaks of.
const SCM_TSTAMP_SND: u32 = 0;
const SCM_TSTAMP_SCHED: u32 = 1;

/// Everything the kernel said beside one datagram. What it did not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `SCM_TIMESTAMPING`, software: of the receive, or of the send that [`Control::transmit`] names.
    pub software: Option<Time<Realtime>>,
    /// `SCM_TIMESTAMPING`, raw hardware: nanoseconds of the card's clock, whichever epoch that has.
    pub hardware: Option<i64>,
    /// Present on the error queue: the stamps above are of this send, not of a receive.
    pub transmit: Option<TransmitReport>,
    /// Present on the error queue where a datagram was not delivered (`IP_RECVERR`, `IPV6_RECVERR`).
    pub error: Option<DeliveryError>,
    /// The address the datagram was sent to, and the interface it came by.
    pub local: Option<LocalAddress>,
    /// IPv4 TTL or IPv6 hop limit as it arrived.
    pub hop_limit: Option<u8>,
    /// IPv4 TOS or IPv6 traffic class: six bits DSCP, two bits ECN.
    pub traffic_class: Option<u8>,
    /// Datagrams lost to a full receive buffer since the socket was made; wraps. The kernel says it from the first loss on.
    pub drops: Option<u32>,
}

/// Names the send that a stamp from the error queue belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmitReport {
    /// Sends on this socket since stamping was enabled, from 0; wraps (`SOF_TIMESTAMPING_OPT_ID`).
    pub id: u32,
    /// Where on the way out the stamp was taken.
    pub kind: TransmitKind,
}

/// The place of a transmit stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitKind {
    /// `SCM_TSTAMP_SCHED`: entry into the queueing discipline.
    Sched,
    /// `SCM_TSTAMP_SND`: hand-over to the driver when the stamp is software, the wire when it is hardware.
    Sent,
}

/// Why a datagram was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryError {
    /// `ECONNREFUSED`, `EHOSTUNREACH`, `EMSGSIZE`, …
    pub errno: i32,
    /// Who sent the ICMP message; absent where this host's own stack found out.
    pub reporter: Option<IpAddr>,
    /// Type of the ICMP or ICMPv6 message (`ee_type`), zero where there was none.
    pub kind: u8,
    /// Its code (`ee_code`).
    pub code: u8,
    /// `ee_info`: of a packet that was too big the MTU that it met, else zero.
    pub info: u32,
}

/// Where a datagram was addressed and where it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The destination in the IP header; it may be a multicast or broadcast address.
    pub destination: IpAddr,
    /// The local address to answer from. Differs from `destination` for IPv4 multicast and broadcast alone.
    pub source_for_reply: IpAddr,
    /// The interface.
    pub ifindex: u32,
}

impl Control {
    /// Reads `msg_control[..msg_controllen]`.
    ///
    /// Total: never panics, whatever the bytes. Messages of kinds that this crate does not ask for are skipped; reading stops
    /// at the first header whose length does not fit, as `CMSG_NXTHDR` does.
    pub fn parse(control: &[u8]) -> Self {
        let mut seen = Self::default();
        for message in Messages(control) {
            seen.take(message);
        }
        seen
    }

    fn take(&mut self, Message { level, kind, data }: Message<'_>) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
                // struct scm_timestamping: software, deprecated, raw hardware
                self.software = timespec(data, 0).map(Time::from_nanos);
                self.hardware = timespec(data, 2);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.drops = word(data, 0),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                self.transmit = transmit_report(data);
                self.error = delivery_error(data);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => self.local = packet_info_v4(data).or(self.local),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => self.local = self.local.or_else(|| packet_info_v6(data)),
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                self.hop_limit = small(data)
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => self.traffic_class = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => self.traffic_class = small(data),
            _ => {}
        }
    }
}

struct Message<'a> {
    level: libc::c_int,
    kind: libc::c_int,
    data: &'a [u8],
}

/// Walks `struct cmsghdr { size_t len; int level; int type; u8 data[]; }`, each aligned to a word.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 8;
        let length = usize::from_ne_bytes(*self.0.first_chunk()?);
        let level = word(self.0, WORD)?.cast_signed();
        let kind = word(self.0, WORD + 4)?.cast_signed();
        let data = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some(Message { level, kind, data })
    }
}

fn word(data: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*data.get(offset..)?.first_chunk()?))
}

/// An `int` that holds a byte.
fn small(data: &[u8]) -> Option<u8> {
    u8::try_from(word(data, 0)?).ok()
}

/// The `index`th `struct timespec` in nanoseconds; zero is absent, and so is a time that no clock can show.
fn timespec(data: &[u8], index: usize) -> Option<i64> {
    const { assert!(size_of::<libc::timespec>() == 16, "written for 64-bit time") };
    let (seconds, fraction) = data.get(index * 16..)?.first_chunk::<16>()?.split_at(8);
    let seconds = i64::from_ne_bytes(*seconds.first_chunk()?);
    let fraction = i64::from_ne_bytes(*fraction.first_chunk()?);
    let nanoseconds = seconds.checked_mul(1_000_000_000)?.checked_add(fraction)?;
    (nanoseconds != 0).then_some(nanoseconds)
}

/// `struct sock_extended_err { u32 errno; u8 origin, type, code, pad; u32 info, data; }`, when it reports a stamp and not an error.
fn transmit_report(data: &[u8]) -> Option<TransmitReport> {
    let errno = word(data, 0)?.cast_signed();
    let origin = *data.get(4)?;
    let kind = match word(data, 8)? {
        SCM_TSTAMP_SND => TransmitKind::Sent,
        SCM_TSTAMP_SCHED => TransmitKind::Sched,
        _ => return None,
    };
    let id = word(data, 12)?;
    (errno == libc::ENOMSG && origin == libc::SO_EE_ORIGIN_TIMESTAMPING).then_some(TransmitReport { id, kind })
}

/// Whether an errno may be the delayed error of an earlier datagram (`IP_RECVERR`, ip(7)) and not of the call that returned it.
pub fn is_delayed_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EMSGSIZE
                | libc::EACCES
                | libc::EOPNOTSUPP
                | libc::ENONET
        )
    )
}

/// The same structure when an ICMP message or the local stack filled it in; the reporter's socket address follows it.
fn delivery_error(data: &[u8]) -> Option<DeliveryError> {
    let errno = word(data, 0)?.cast_signed();
    let [origin, kind, code] = *data.get(4..)?.first_chunk()?;
    let info = word(data, 8)?;
    match origin {
        libc::SO_EE_ORIGIN_LOCAL => Some(DeliveryError { errno, reporter: None, kind, code, info }),
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            let offender = data.get(16..)?;
            let family = i32::from(u16::from_ne_bytes(*offender.first_chunk()?));
            let reporter = match family {
                libc::AF_INET => offender.get(4..)?.first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip).into()),
                libc::AF_INET6 => offender.get(8..)?.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).to_canonical()),
                _ => None,
            };
            Some(DeliveryError { errno, reporter, kind, code, info })
        }
        _ => None,
    }
}

/// `struct in_pktinfo { int ifindex; in_addr spec_dst; in_addr addr; }`
fn packet_info_v4(data: &[u8]) -> Option<LocalAddress> {
    let address =
        |offset: usize| -> Option<IpAddr> { Some(Ipv4Addr::from(*data.get(offset..)?.first_chunk::<4>()?).into()) };
    Some(LocalAddress { ifindex: word(data, 0)?, source_for_reply: address(4)?, destination: address(8)? })
}

/// `struct in6_pktinfo { in6_addr addr; int ifindex; }`
fn packet_info_v6(data: &[u8]) -> Option<LocalAddress> {
    let address = Ipv6Addr::from(*data.first_chunk::<16>()?).to_canonical();
    Some(LocalAddress { ifindex: word(data, 16)?, source_for_reply: address, destination: address })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One control message, padded as the kernel pads it.
    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (size_of::<usize>() + 8 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    fn stamps(software: (i64, i64), hardware: (i64, i64)) -> Vec<u8> {
        let words = [software.0, software.1, 0, 0, hardware.0, hardware.1];
        message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPING, &words.map(i64::to_ne_bytes).concat())
    }

    fn extended_error(errno: i32, origin: u8, info: u32, data: u32) -> Vec<u8> {
        let mut bytes = errno.to_ne_bytes().to_vec();
        bytes.extend([origin, 0, 0, 0]);
        bytes.extend(info.to_ne_bytes());
        bytes.extend(data.to_ne_bytes());
        bytes.extend([0; 16]); // the offender's address
        message(libc::IPPROTO_IP, libc::IP_RECVERR, &bytes)
    }

    #[test]
    fn datagram_over_ipv4() {
        let control = [
            stamps((1_792_000_000, 123_456_789), (0, 0)),
            message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes()),
            message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[3, 0, 0, 0, 192, 0, 2, 7, 192, 0, 2, 255]),
            message(libc::IPPROTO_IP, libc::IP_TTL, &61_i32.to_ne_bytes()),
            message(libc::IPPROTO_IP, libc::IP_TOS, &[0xb8]),
        ]
        .concat();
        assert_eq!(
            Control::parse(&control),
            Control {
                software: Some(Time::from_nanos(1_792_000_000_123_456_789)),
                hardware: None,
                transmit: None,
                error: None,
                local: Some(LocalAddress {
                    destination: [192, 0, 2, 255].into(),
                    source_for_reply: [192, 0, 2, 7].into(),
                    ifindex: u32::from_ne_bytes([3, 0, 0, 0]),
                }),
                hop_limit: Some(61),
                traffic_class: Some(0xb8),
                drops: Some(7),
            }
        );
    }

    #[test]
    fn datagram_over_ipv6_and_ipv4_mapped() {
        let mut info = Ipv6Addr::LOCALHOST.octets().to_vec();
        info.extend(9_u32.to_ne_bytes());
        let control = [
            message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info),
            message(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &255_i32.to_ne_bytes()),
            message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &4_i32.to_ne_bytes()),
        ]
        .concat();
        let seen = Control::parse(&control);
        let local = seen.local.expect("packet info");
        assert_eq!((local.destination, local.ifindex), (Ipv6Addr::LOCALHOST.into(), 9));
        assert_eq!((seen.hop_limit, seen.traffic_class), (Some(255), Some(4)));

        let mut mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets().to_vec();
        mapped.extend(9_u32.to_ne_bytes());
        let seen = Control::parse(&message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &mapped));
        assert_eq!(seen.local.expect("packet info").destination, IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn transmit_reports_name_their_send() {
        for (info, kind) in [(0, TransmitKind::Sent), (1, TransmitKind::Sched)] {
            let control =
                [stamps((5, 6), (0, 0)), extended_error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, info, 41)]
                    .concat();
            let seen = Control::parse(&control);
            assert_eq!(seen.transmit, Some(TransmitReport { id: 41, kind }));
            assert_eq!(seen.software, Some(Time::from_nanos(5_000_000_006)));
        }
    }

    /// With `OPT_TX_SWHW` a send has two reports of the same place, each with its own stamp.
    #[test]
    fn the_cards_report_of_a_send_is_told_from_the_drivers() {
        let report = extended_error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 0, 41);
        let driver = Control::parse(&[stamps((5, 6), (0, 0)), report.clone()].concat());
        assert_eq!((driver.software, driver.hardware), (Some(Time::from_nanos(5_000_000_006)), None));
        let card = Control::parse(&[stamps((0, 0), (7, 8)), report].concat());
        assert_eq!((card.software, card.hardware), (None, Some(7_000_000_008)));
        assert_eq!((driver.transmit, card.transmit), (card.transmit, driver.transmit));
    }

    #[test]
    fn real_errors_and_acknowledgements_are_no_transmit_reports() {
        let icmp = extended_error(libc::ECONNREFUSED, libc::SO_EE_ORIGIN_ICMP, 0, 0);
        assert_eq!(Control::parse(&icmp).transmit, None);
        let refused = Control::parse(&icmp).error.expect("an error");
        assert_eq!((refused.errno, refused.reporter, refused.info), (libc::ECONNREFUSED, None, 0));
        let acknowledged = extended_error(libc::ENOMSG, libc::SO_EE_ORIGIN_TIMESTAMPING, 2, 0);
        assert_eq!(Control::parse(&acknowledged).transmit, None);
    }

    #[test]
    fn zero_and_impossible_stamps_are_absent() {
        assert_eq!(Control::parse(&stamps((0, 0), (0, 17))).software, None);
        assert_eq!(Control::parse(&stamps((0, 0), (0, 17))).hardware, Some(17));
        assert_eq!(Control::parse(&stamps((i64::MAX, 0), (i64::MIN, 1))), Control::default());
    }

    #[test]
    fn unknown_messages_are_skipped_and_nonsense_lengths_end_the_walk() {
        let known = message(libc::IPPROTO_IP, libc::IP_TTL, &64_i32.to_ne_bytes());
        assert_eq!(Control::parse(&[message(99, 98, &[1; 13]), known.clone()].concat()).hop_limit, Some(64));
        for length in [0, 15, usize::MAX, usize::MAX - 7] {
            let mut bad = known.clone();
            bad[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Control::parse(&[bad, known.clone()].concat()), Control::default());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            Control::parse(&bytes);
        }

        #[test]
        fn any_messages_cut_anywhere_are_read_without_panic(
            parts in proptest::collection::vec((0..60_i32, 0..80_i32, proptest::collection::vec(0..=255_u8, 0..64)), 0..6),
            cut in 0..400_usize,
        ) {
            let control: Vec<u8> = parts.iter().flat_map(|(level, kind, data)| message(*level, *kind, data)).collect();
            Control::parse(&control[..cut.min(control.len())]);
        }
    }
}
