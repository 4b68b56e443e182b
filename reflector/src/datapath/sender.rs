//! The sending half of a [`StampedSocket`](super::StampedSocket): datagrams out, and later the stamps of when they left.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use pathlab_record::{Realtime, Time};
use pathlab_xdp::timestamping::{self, Control, TransmitKind, is_delayed_error};

use super::{
    name::{SendControl, SocketName, socket_address},
    slots::TransmitSlots,
};
use crate::{clock::monotonic_now, sys};

/// Messages of one read of the error queue.
const BATCH: usize = 64;

/// Octets that are kept of a payload that could not be delivered.
const QUOTED: usize = 32;

/// How many [`Undelivered`] wait to be taken; what comes beyond is counted alone.
const MOST_UNDELIVERED: usize = 256;

/// The number of one send on its socket, from 0; wraps. Stamps name their send by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u32);

/// A transmit stamp, by where on the way out it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentStamp {
    /// Entry into the queueing discipline.
    Sched(Time<Realtime>),
    /// Hand-over to the driver.
    Kernel(Time<Realtime>),
    /// The wire, in nanoseconds of the card's own clock.
    Nic(i64),
}

/// A datagram that could not be delivered, as an ICMP message or this host's own stack said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Where the datagram was sent.
    pub peer: SocketAddr,
    /// The kernel's errno for it: `ECONNREFUSED`, `EHOSTUNREACH`, …
    pub errno: i32,
    /// Who said so; absent where this host did.
    pub reporter: Option<IpAddr>,
    /// Type and code of the ICMP or ICMPv6 message; zeroes where there was none.
    pub kind: (u8, u8),
    /// When the stack took that message from the driver; absent where arrivals are not stamped.
    pub at: Option<Time<Realtime>>,
    quoted: [u8; QUOTED],
    quoted_len: u8,
}

impl Undelivered {
    /// What is quoted of the datagram's payload, at most its first 32 octets.
    pub fn quoted(&self) -> &[u8] {
        &self.quoted[..usize::from(self.quoted_len)]
    }
}

/// One datagram of [`Sender::send_all`].
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub to: SocketAddr,
    /// The address that it leaves from; the routing table's choice if absent.
    pub from: Option<IpAddr>,
    /// Its DSCP, 0 to 63; the socket's if absent.
    pub dscp: Option<u8>,
    /// Its TTL or Hop Limit, 1 to 255; the socket's if absent.
    pub hop_limit: Option<u8>,
    /// UDP payload.
    pub payload: &'a [u8],
}

/// How sends are matched with their stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// Each send carries its number (`SCM_TS_OPT_ID`, Linux 6.13): nothing can slip.
    Ours,
    /// The kernel counts and we count along. Its counter moves when a packet is built, whatever happens to the packet then.
    /// What else might move it or not, by kernel version, is kept from happening: sends wait for buffer space instead of failing
    /// with `EAGAIN`, and `IP_RECVERR` stays off so that no ICMP error is left on the socket for the next send to return.
    Kernels,
}

/// The sending half.
pub struct Sender {
    fd: Arc<OwnedFd>,
    next: u32,
    /// `None` where transmit stamps are off.
    numbering: Option<Numbering>,
    /// Where the card is to stamp: what to ask for with each send, and the card's registers.
    nic: Option<(timestamping::Options, TransmitSlots)>,
    reports: sys::Batch,
    undelivered: VecDeque<Undelivered>,
    undelivered_total: u64,
}

impl Sender {
    pub(super) fn new(
        fd: Arc<OwnedFd>,
        numbering: Option<Numbering>,
        nic: Option<(timestamping::Options, TransmitSlots)>,
    ) -> Self {
        Self {
            fd,
            next: 0,
            numbering,
            nic,
            reports: sys::Batch::new(BATCH, QUOTED),
            undelivered: VecDeque::with_capacity(MOST_UNDELIVERED),
            undelivered_total: 0,
        }
    }

    /// Sends one datagram, from the address `from` if given, else from the one that the routing table picks.
    ///
    /// # Errors
    /// The kernel's answer to `sendmsg`: no route, refused by a filter (`EPERM`), larger than 65,507 bytes, buffer full
    /// (`EAGAIN`; kernels before 6.13 wait instead when transmit stamps are on). The datagram has not left then.
    pub fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, payload: &[u8]) -> io::Result<SendId> {
        self.send_one(&Outgoing { to, from, dscp: None, hop_limit: None, payload })
    }

    fn send_one(&mut self, one: &Outgoing<'_>) -> io::Result<SendId> {
        let id = SendId(self.next);
        let control = self.control(id, one);
        let counting_along = self.numbering == Some(Numbering::Kernels);
        let flags = if counting_along { 0 } else { libc::MSG_DONTWAIT };
        let name = SocketName::from(one.to);
        let attempt = || sys::send_message(self.fd.as_fd(), name.as_bytes(), control.as_bytes(), one.payload, flags);
        let result = match attempt() {
            // The error of an earlier datagram, left on the socket; this one has not been tried.
            Err(error) if !counting_along && is_delayed_error(&error) => attempt(),
            other => other,
        };
        let built = match &result {
            Ok(()) => true,
            Err(error) => matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOBUFS)),
        };
        if built || !counting_along {
            self.next = self.next.wrapping_add(1);
        }
        if result.is_err() {
            self.give_back(id);
        }
        result.map(|()| id)
    }

    /// Sends datagrams as [`Self::send`] does, so many with one call as the kernel takes; `each` is told what became of which, in order.
    pub fn send_all(&mut self, batch: &[Outgoing<'_>], mut each: impl FnMut(usize, io::Result<SendId>)) {
        if self.numbering == Some(Numbering::Kernels) {
            // Which numbers they get is known only one after the other.
            for (place, one) in batch.iter().enumerate() {
                each(place, self.send_one(one));
            }
            return;
        }
        for (chunk, first) in batch.chunks(sys::SEND_MOST).zip((0..).step_by(sys::SEND_MOST)) {
            let id = |place: usize| SendId(self.next.wrapping_add(place as u32));
            let names: Vec<_> = chunk.iter().map(|one| SocketName::from(one.to)).collect();
            let controls: Vec<_> = chunk.iter().enumerate().map(|(place, one)| self.control(id(place), one)).collect();
            let messages: Vec<_> = chunk
                .iter()
                .zip(names.iter().zip(&controls))
                .map(|(one, (name, control))| sys::Outgoing {
                    name: name.as_bytes(),
                    control: control.as_bytes(),
                    payload: one.payload,
                })
                .collect();
            let mut place = 0;
            let mut delayed = false;
            while place < chunk.len() {
                match sys::send_messages(self.fd.as_fd(), &messages[place..]) {
                    Ok(sent) => {
                        (place..place + sent).for_each(|place| each(first + place, Ok(id(place))));
                        place += sent;
                        delayed = false;
                    }
                    // The error of an earlier datagram, left on the socket; this one has not been tried.
                    Err(error) if !delayed && is_delayed_error(&error) => delayed = true,
                    Err(error) => {
                        self.give_back(id(place));
                        each(first + place, Err(error));
                        place += 1;
                        delayed = false;
                    }
                }
            }
            self.next = self.next.wrapping_add(chunk.len() as u32);
        }
    }

    /// The control messages of a send; takes a register of the card for it where one is free.
    fn control(&self, id: SendId, one: &Outgoing<'_>) -> SendControl {
        let mut control = SendControl::new();
        if let Some(from) = one.from {
            control.source(from);
        }
        if let Some(dscp) = one.dscp {
            control.dscp(one.to.is_ipv6(), dscp);
        }
        if let Some(hops) = one.hop_limit {
            control.hop_limit(one.to.is_ipv6(), hops);
        }
        if self.numbering == Some(Numbering::Ours) {
            control.stamp_id(id.0);
        }
        if let Some((options, slots)) = &self.nic
            && slots.take(self.slot(id), monotonic_now())
        {
            control.stamps(timestamping::transmit_request(*options, true));
        }
        control
    }

    /// What did not leave needs no register of the card.
    fn give_back(&self, id: SendId) {
        if let Some((_, slots)) = &self.nic {
            slots.give_back(self.slot(id));
        }
    }

    /// The name of a send among all sockets that share a card.
    fn slot(&self, id: SendId) -> (i32, u32) {
        (self.fd.as_raw_fd(), id.0)
    }

    /// Takes the transmit stamps that have arrived, in batches until the error queue is empty or `each` has had 4096; returns how
    /// many. `poll` reports `POLLERR` while there are some.
    ///
    /// # Errors
    /// The kernel's answer to `recvmmsg(MSG_ERRQUEUE)`.
    pub fn sent_stamps(&mut self, mut each: impl FnMut(SendId, SentStamp)) -> io::Result<usize> {
        let mut stamps = 0;
        for _ in 0..4096 / BATCH {
            let count = match self.reports.receive(self.fd.as_fd(), libc::MSG_ERRQUEUE) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for message in self.reports.messages(count) {
                let control = Control::parse(message.control);
                if let Some(report) = control.transmit {
                    let id = SendId(report.id);
                    let software = control.software.map(|time| match report.kind {
                        TransmitKind::Sched => SentStamp::Sched(time),
                        TransmitKind::Sent => SentStamp::Kernel(time),
                    });
                    if let (Some(_), Some((_, slots))) = (control.hardware, &self.nic) {
                        slots.arrived((self.fd.as_raw_fd(), id.0));
                    }
                    for stamp in software.into_iter().chain(control.hardware.map(SentStamp::Nic)) {
                        each(id, stamp);
                        stamps += 1;
                    }
                } else if let Some((error, peer)) = control.error.zip(socket_address(message.name)) {
                    self.undelivered_total += 1;
                    if self.undelivered.len() < MOST_UNDELIVERED {
                        let mut quoted = [0; QUOTED];
                        let length = message.payload.len().min(QUOTED);
                        quoted[..length].copy_from_slice(&message.payload[..length]);
                        self.undelivered.push_back(Undelivered {
                            peer,
                            errno: error.errno,
                            reporter: error.reporter,
                            kind: (error.kind, error.code),
                            at: control.software,
                            quoted,
                            quoted_len: length as u8,
                        });
                    }
                }
            }
            if count < BATCH {
                break;
            }
        }
        Ok(stamps)
    }

    /// Takes the reports on datagrams that could not be delivered, as far as [`Sender::sent_stamps`] has read them. On kernels before
    /// 6.13 there are none while transmit stamps are on.
    pub fn undelivered(&mut self) -> impl Iterator<Item = Undelivered> {
        self.undelivered.drain(..)
    }

    /// How many such reports there have been.
    pub fn undelivered_total(&self) -> u64 {
        self.undelivered_total
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
