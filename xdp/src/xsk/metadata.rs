//! What travels beside a packet: the record that the XDP program writes on receive, and the stamp that the kernel returns on transmit.
//!
//! Both lie in the frame directly before the packet, and both are pure functions over those bytes here.

use pathlab_record::{Plane, Tai, Time};

/// `sizeof(struct xsk_record)` in `bpf/abi.h`. Kernels before 6.8 allow no more than 32 bytes of metadata.
pub(crate) const RECORD_LENGTH: usize = 24;

/// `tx_metadata_len` that we register: flags and completion. `struct xsk_tx_metadata` had 16 bytes in 6.8 and has grown at
/// its end since (launch time, 6.14), which we do not use; so 16 fits every kernel.
pub(crate) const TX_METADATA_LENGTH: usize = 16;

/// `XSK_RECORD_MAGIC` in `bpf/abi.h`.
pub(crate) const MAGIC: u16 = 0x7e5d;

/// `XSK_NIC_TAIL` in `bpf/abi.h`.
pub(crate) const NIC_TAIL: i16 = 1;

/// What the XDP program knew of a packet when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The card's receive stamp, nanoseconds of its own clock. `None` when the driver has none, whatever it calls the reason.
    pub nic: Option<i64>,
    /// The card's stamp from behind the frame ([`crate::XdpQuirks::read_tail`]), in cycles of its own counter, which is not the clock that
    /// `/dev/ptpN` shows: good for spans between two of them once the counter's rate is known.
    pub tail: Option<i64>,
    /// What `bpf_xdp_metadata_rx_timestamp` returned: 0, `-ENODATA` (not for this packet), `-EOPNOTSUPP` (driver cannot, or the
    /// plain program runs). 0 with [`Self::nic`] absent is a driver that says yes and gives nothing.
    pub nic_rc: i16,
    /// When the XDP program began, `bpf_ktime_get_tai_ns`.
    pub xdp: Option<Time<Tai>>,
    /// The receive queue, as the program saw it.
    pub queue: u16,
    /// The CPU that ran the program: the one that the queue's interrupt goes to.
    pub cpu: u16,
}

impl Record {
    /// Reads `struct xsk_record`, and marks it as read so that it is never taken for the next packet's.
    ///
    /// `None` when there is none: the driver leaves no room for metadata, or another program redirected the packet.
    pub(crate) fn take(bytes: &mut [u8; RECORD_LENGTH]) -> Option<Self> {
        let magic = u16::from_ne_bytes(field(bytes, 22));
        Self::erase(bytes);
        if magic != MAGIC {
            return None;
        }
        let (nic, xdp) = (u64::from_ne_bytes(field(bytes, 0)), u64::from_ne_bytes(field(bytes, 8)));
        let nic_rc = i16::from_ne_bytes(field(bytes, 18));
        Some(Self {
            nic: present(nic).filter(|_| nic_rc == 0),
            tail: present(nic).filter(|_| nic_rc == NIC_TAIL),
            nic_rc,
            xdp: present(xdp).map(Time::from_nanos),
            queue: u16::from_ne_bytes(field(bytes, 20)),
            cpu: u16::from_ne_bytes(field(bytes, 16)),
        })
    }

    /// Makes sure that what is here is not taken for a record: a program that finds no room writes none, and what a free frame holds
    /// there must not be read as its word.
    pub(crate) fn erase(bytes: &mut [u8; RECORD_LENGTH]) {
        bytes[22..].fill(0);
    }
}

/// When the kernel or the card says that a packet left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransmitStamp {
    /// Copy mode: the kernel's clock, read when the driver was done with the packet (`xsk_destruct_skb`). Software, whatever
    /// the card can do. A packet that the driver dropped is stamped too.
    Software(Time<Tai>),
    /// Zero-copy mode: nanoseconds of the card's own clock.
    Nic(i64),
}

impl TransmitStamp {
    /// Where in the host it was taken.
    pub fn plane(self) -> Plane {
        match self {
            Self::Software(_) => Plane::Kernel,
            Self::Nic(_) => Plane::Nic,
        }
    }
}

/// How the socket is bound, which decides who stamps a transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindMode {
    /// Packets are copied between the frames and the kernel's buffers.
    Copy,
    /// The card reads and writes the frames.
    ZeroCopy,
}

/// Writes a request for a transmit stamp, with the place of the answer cleared: what stays 0 is absent.
pub(crate) fn request_stamp(bytes: &mut [u8; TX_METADATA_LENGTH]) {
    let (flags, completion) = bytes.split_at_mut(8);
    flags.copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_TIMESTAMP).to_ne_bytes());
    completion.fill(0);
}

/// Reads the answer once the frame has come back by the completion ring, and clears it: it lies where a record has its mark.
pub(crate) fn take_stamp(bytes: &mut [u8; TX_METADATA_LENGTH], mode: BindMode) -> Option<TransmitStamp> {
    let nanoseconds = present(u64::from_ne_bytes(field(bytes, 8)));
    bytes[8..].fill(0);
    let nanoseconds = nanoseconds?;
    Some(match mode {
        BindMode::Copy => TransmitStamp::Software(Time::from_nanos(nanoseconds)),
        BindMode::ZeroCopy => TransmitStamp::Nic(nanoseconds),
    })
}

/// Zero from a driver is absent, and so is what no clock of ours can show.
fn present(nanoseconds: u64) -> Option<i64> {
    i64::try_from(nanoseconds).ok().filter(|nanoseconds| *nanoseconds != 0)
}

/// The `N` bytes at `offset`, which is a constant inside the array.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    *bytes[offset..].first_chunk().expect("a constant inside the array")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(nic: u64, xdp: u64, nic_rc: i16, magic: u16) -> [u8; RECORD_LENGTH] {
        let mut bytes = Vec::new();
        bytes.extend(nic.to_ne_bytes());
        bytes.extend(xdp.to_ne_bytes());
        bytes.extend(3_u16.to_ne_bytes());
        bytes.extend(nic_rc.to_ne_bytes());
        bytes.extend(7_u16.to_ne_bytes());
        bytes.extend(magic.to_ne_bytes());
        bytes.try_into().unwrap()
    }

    #[test]
    fn a_record_of_a_card_that_stamps() {
        let seen = Record::take(&mut record(1_000, 2_000, 0, MAGIC));
        assert_eq!(
            seen,
            Some(Record {
                nic: Some(1_000),
                tail: None,
                nic_rc: 0,
                xdp: Some(Time::from_nanos(2_000)),
                queue: 7,
                cpu: 3,
            })
        );
    }

    #[test]
    fn success_with_zero_is_absent() {
        let seen = Record::take(&mut record(0, 0, 0, MAGIC)).unwrap();
        assert_eq!((seen.nic, seen.nic_rc, seen.xdp), (None, 0, None));
    }

    #[test]
    fn a_value_beside_an_error_is_absent() {
        let seen = Record::take(&mut record(5, 5, -95, MAGIC)).unwrap();
        assert_eq!((seen.nic, seen.tail, seen.nic_rc), (None, None, -95));
        let seen = Record::take(&mut record(1_000, 5, NIC_TAIL, MAGIC)).expect("a record");
        assert_eq!((seen.nic, seen.tail), (None, Some(1_000)), "cycles are no nanoseconds of the card's clock");
    }

    #[test]
    fn a_record_is_read_once() {
        let mut bytes = record(1, 1, 0, MAGIC);
        assert!(Record::take(&mut bytes).is_some());
        assert_eq!(Record::take(&mut bytes), None);
    }

    #[test]
    fn an_unanswered_request_is_absent_and_an_answer_is_labelled_by_mode_and_taken_once() {
        let mut bytes = [0xaa; TX_METADATA_LENGTH];
        request_stamp(&mut bytes);
        assert_eq!(take_stamp(&mut bytes, BindMode::Copy), None);
        let answer = Time::from_nanos(9);
        for (mode, stamp, plane) in [
            (BindMode::Copy, TransmitStamp::Software(answer), Plane::Kernel),
            (BindMode::ZeroCopy, TransmitStamp::Nic(9), Plane::Nic),
        ] {
            bytes[8..].copy_from_slice(&9_u64.to_ne_bytes());
            assert_eq!(take_stamp(&mut bytes, mode), Some(stamp));
            assert_eq!(stamp.plane(), plane);
            assert_eq!(take_stamp(&mut bytes, mode), None);
        }
    }

    #[test]
    fn the_metadata_is_laid_out_as_the_kernel_has_it() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(libc::xsk_tx_metadata, flags), 0);
        assert_eq!(offset_of!(libc::xsk_tx_metadata, xsk_tx_metadata_union), 8);
        assert_eq!(offset_of!(libc::xsk_tx_metadata_completion, tx_timestamp), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_stamp_of_zero(bytes: [u8; RECORD_LENGTH]) {
            let mut bytes = bytes;
            bytes[22..].copy_from_slice(&MAGIC.to_ne_bytes());
            let seen = Record::take(&mut bytes).unwrap();
            prop_assert!(seen.nic.is_none_or(|nic| nic > 0 && seen.nic_rc == 0));
        }
    }
}
