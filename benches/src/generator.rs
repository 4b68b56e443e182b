//! Sends STAMP base packets at an exact rate by AF_XDP and counts, by sequence number, which came back: the same for every contestant.

use std::{
    hint,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use pathlab_xdp::xsk::{Completed, CopyMode, XskOptions, XskSocket};

use crate::{
    counting::{ReplyCounter, wait_until},
    wire::{CLIENT, INTERFACE, MACS, PORT, REFLECTOR},
};

/// What the kernel sends with one call in copy mode.
const BATCH: u64 = 32;
/// Packets due within this time leave together: a call a packet would be the generator's own limit.
const TOGETHER: Duration = Duration::from_micros(20);
/// A generator that was stopped for longer forgets what it owes, instead of making a burst of it.
const OWED: Duration = Duration::from_millis(1);
/// Replies are waited for so long after the last that came.
const QUIET: Duration = Duration::from_millis(100);
/// The most packets of a trial: the reply counter tells so many apart.
const PACKETS_MAX: f64 = (1 << 22) as f64;

/// Ethernet, IPv4, UDP, STAMP (RFC 8762, section 4.2.1): 44 octets of payload.
const FRAME: usize = 14 + 20 + 8 + 44;
const UDP_CHECKSUM: usize = 40;
const SEQUENCE: usize = 42;

/// What one trial was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Packets that left.
    pub sent: u64,
    /// Of them, those that came back, all waited for.
    pub replied: u64,
    /// Replies to a sequence number that had one.
    pub duplicates: u64,
    /// Packets a second that left.
    pub offered: f64,
    /// Replies a second that came while sending.
    pub reply_rate: f64,
}

impl Trial {
    /// Share of the sent that did not come back, 0 to 1.
    pub fn lost(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { 1.0 - self.replied as f64 / self.sent as f64 }
    }
}

/// The client's end of the wire.
pub struct Generator {
    socket: XskSocket,
    counter: ReplyCounter,
    template: [u8; FRAME],
    /// Of what the UDP checksum covers, without the sequence number.
    sum: u32,
    next: u32,
    completed: Vec<Completed>,
}

impl Generator {
    /// Takes the interface of this thread's namespace.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn new() -> Result<Self> {
        let options = XskOptions { copy: CopyMode::Copy, tx_metadata: false, ..XskOptions::default() };
        Ok(Self {
            counter: ReplyCounter::attach()?,
            socket: XskSocket::bind(INTERFACE, 0, &options)?,
            sum: checksummed(&template()),
            template: template(),
            next: 1,
            completed: Vec::new(),
        })
    }

    /// Offers `rate` packets a second for `span`, or as many as can be made where `rate` is infinite.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn trial(&mut self, rate: f64, span: Duration) -> Result<Trial> {
        let most = (rate * span.as_secs_f64()).clamp(1.0, PACKETS_MAX) as u64;
        self.counter.begin(self.next, most as u32)?;
        let together = (rate * TOGETHER.as_secs_f64()).clamp(1.0, BATCH as f64) as u64;
        let begun = Instant::now();
        // moves when something is forgotten
        let mut start = begun;
        let mut forgotten = 0_u64;
        let mut sent = 0_u64;
        while sent + forgotten < most && begun.elapsed() < span {
            let mut due = ((start.elapsed().as_secs_f64() * rate) as u64).saturating_add(1).min(most) - sent;
            if rate.is_finite() && due as f64 > (rate * OWED.as_secs_f64()).max(BATCH as f64) {
                let owed = due - together;
                start += Duration::from_secs_f64(owed as f64 / rate);
                forgotten += owed;
                due = together;
            }
            if due < together && sent + due + forgotten < most {
                hint::spin_loop();
                continue;
            }
            sent += self.send(self.next.wrapping_add(sent as u32), due.min(BATCH))?;
        }
        let took = begun.elapsed().as_secs_f64();
        let came = self.counter.read()?;
        let mut last = (came.replies, Instant::now());
        wait_until(Duration::from_secs(5), || {
            let now = self.counter.read()?.replies;
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok(now >= sent || last.1.elapsed() > QUIET)
        })?;
        self.next = self.next.wrapping_add(most as u32);
        let all = self.counter.read()?;
        Ok(Trial {
            sent,
            replied: all.replies,
            duplicates: all.duplicates,
            offered: sent as f64 / took,
            reply_rate: came.replies as f64 / took,
        })
    }

    /// Sends one packet at a time until one is answered: whether one was.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn answered_within(&mut self, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.trial(1.0, Duration::from_millis(1))?.replied > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends so many from that sequence number on, or as many as there are free frames for; how many the kernel took.
    fn send(&mut self, first: u32, count: u64) -> Result<u64> {
        self.socket.complete(&mut self.completed, usize::MAX);
        self.completed.clear();
        let mut sent = 0;
        while sent < count {
            let Some(mut frame) = self.socket.frame() else { break };
            frame.copy_from(&self.template);
            number(frame.packet_mut(), self.sum, first.wrapping_add(sent as u32));
            if let Err(frame) = self.socket.send(frame, 0, false) {
                self.socket.recycle(frame);
                break;
            }
            sent += 1;
        }
        while self.socket.flush()? > 0 {
            self.socket.complete(&mut self.completed, usize::MAX);
            self.completed.clear();
        }
        Ok(sent)
    }
}

/// A base packet without sequence number and UDP checksum.
fn template() -> [u8; FRAME] {
    const CLIENT_PORT: u16 = 40_000;
    let mut frame = [0; FRAME];
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("a constant").octets();
    frame[..6].copy_from_slice(&MACS[0]);
    frame[6..12].copy_from_slice(&MACS[1]);
    frame[12..24].copy_from_slice(&[0x08, 0, 0x45, 0, 0, 72, 0, 0, 0x40, 0, 255, 17]);
    frame[26..30].copy_from_slice(&address(CLIENT));
    frame[30..34].copy_from_slice(&address(REFLECTOR));
    let header = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[34..36].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..40].copy_from_slice(&52_u16.to_be_bytes());
    // T1: any time will do, as nobody measures with this packet; the Error Estimate must not be zero (RFC 8762, section 4.2.1)
    frame[46..54].copy_from_slice(&[0xec, 0, 0, 0, 0, 0, 0, 0]);
    frame[54..56].copy_from_slice(&[0x00, 0x01]);
    frame
}

/// The pseudo header and the datagram.
fn checksummed(frame: &[u8; FRAME]) -> u32 {
    sum(&frame[26..]) + 17 + 52
}

fn number(frame: &mut [u8], covered: u32, sequence: u32) {
    frame[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
    let checksum = !fold(covered + (sequence >> 16) + (sequence & 0xffff));
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The one's complement sum of 16-bit words, not folded.
pub(crate) fn sum(octets: &[u8]) -> u32 {
    octets.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_right_for_every_number() {
        let base = template();
        assert_eq!(fold(sum(&base[14..34])), 0xffff);
        for sequence in [0, 1, 0xffff, 0x10000, 0xdead_beef, u32::MAX] {
            let mut frame = base;
            number(&mut frame, checksummed(&base), sequence);
            assert_eq!(fold(checksummed(&frame)), 0xffff, "{sequence:#x}");
            assert_eq!(frame[SEQUENCE..SEQUENCE + 4], sequence.to_be_bytes());
        }
    }
}
