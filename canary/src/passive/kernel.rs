//! What `bpf/passive.bpf.c` keeps of a session, read back: its layout, its buckets, and the difference of two readings.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Buckets of a histogram of times.
const TIME_BUCKETS: usize = 640;
/// The last of them.
pub(crate) const LAST: u16 = TIME_BUCKETS as u16 - 1;
const LINEAR: u32 = 64;
const STEPS: u32 = 32;
/// Nanoseconds of the kernel's unit of time.
const UNIT: u64 = 1 << 10;

/// `struct session` in words of 8 bytes, and the places in it.
pub(crate) const SESSION_WORDS: usize = AT_VARIATIONS / 8 + TIME_BUCKETS / 4;
const AT_ID: usize = 16;
const AT_COUNTS: usize = 48;
const AT_SENT: usize = 112;
const AT_TIMES: usize = AT_SENT + 128 * 8;
const AT_VARIATIONS: usize = AT_TIMES + TIME_BUCKETS * 2;

/// `struct flow`.
pub(crate) type RawFlow = [u8; 20];
/// `struct session`.
pub(crate) type RawSession = [u64; SESSION_WORDS];

/// Whose packets they are: a client and one server of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Address and port; an IPv4 client has an IPv4 address.
    pub client: SocketAddr,
    /// UDP port of the server.
    pub server_port: u16,
}

impl Flow {
    pub(crate) fn of(raw: &RawFlow) -> Self {
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(&raw[..16]).expect("sixteen bytes"));
        let port = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        let address = IpAddr::V6(address).to_canonical();
        Self { client: SocketAddr::new(address, port(16)), server_port: port(18) }
    }
}

/// What was counted, all in all or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets to the client by the control path's devices.
    pub by_control: u32,
    /// Packets to the client by the canary path's device.
    pub by_canary: u32,
    /// Packets of the client.
    pub received: u32,
    /// Acknowledgements of numbers that were not sent, or too long ago.
    pub unmatched: u32,
    /// Echoes that tell no round trip: of a number that was sent twice, or after a lost packet that may have echoed first.
    pub ambiguous: u32,
    /// Times the game began to count anew.
    pub restarted: u32,
}

impl Counts {
    /// Packets to the client.
    pub fn sent(&self) -> u64 {
        u64::from(self.by_control) + u64::from(self.by_canary)
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            by_control: self.by_control.wrapping_sub(earlier.by_control),
            by_canary: self.by_canary.wrapping_sub(earlier.by_canary),
            received: self.received.wrapping_sub(earlier.received),
            unmatched: self.unmatched.wrapping_sub(earlier.unmatched),
            ambiguous: self.ambiguous.wrapping_sub(earlier.ambiguous),
            restarted: self.restarted.wrapping_sub(earlier.restarted),
        }
    }
}

/// Occupied buckets and their counts.
pub(crate) type Buckets = Vec<(u16, u16)>;

/// A session as the kernel has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// CLOCK_MONOTONIC, in nanoseconds: tells it from another session of the same client.
    pub(crate) began: u64,
    pub(crate) cgroup: u64,
    /// The longest key, zero past its end.
    pub(crate) id: [u8; 32],
    pub(crate) bucket: u16,
    pub(crate) counts: Counts,
    times: Buckets,
    variations: Buckets,
}

impl Reading {
    pub(crate) fn of(raw: &RawSession) -> Self {
        let word = |at: usize| raw[at / 8];
        let number = |at: usize| {
            let bytes = word(at).to_ne_bytes();
            let within = at % 8;
            u32::from_ne_bytes([bytes[within], bytes[within + 1], bytes[within + 2], bytes[within + 3]])
        };
        let mut id = [0; 32];
        for (part, at) in id.chunks_exact_mut(8).zip((AT_ID..).step_by(8)) {
            part.copy_from_slice(&word(at).to_ne_bytes());
        }
        let buckets = |from: usize| -> Buckets {
            let words = raw[from / 8..].iter().take(TIME_BUCKETS / 4).enumerate().filter(|(_, word)| **word != 0);
            words
                .flat_map(|(at, word)| {
                    let bytes = word.to_ne_bytes();
                    (0..4).map(move |n| ((at * 4 + n) as u16, u16::from_ne_bytes([bytes[2 * n], bytes[2 * n + 1]])))
                })
                .filter(|(_, count)| *count != 0)
                .collect()
        };
        let count = |n: usize| number(AT_COUNTS + 4 * n);
        Self {
            began: word(0),
            cgroup: word(8),
            id,
            bucket: count(0) as u16, // below 10,000
            counts: Counts {
                by_control: count(1),
                by_canary: count(2),
                received: count(3),
                unmatched: count(4),
                ambiguous: count(5),
                restarted: count(6),
            },
            times: buckets(AT_TIMES),
            variations: buckets(AT_VARIATIONS),
        }
    }

    /// What came since an earlier reading of the same session, or all of it. Counts of 16 bits may have wrapped once.
    pub(crate) fn since(&self, earlier: Option<&Self>) -> Lately {
        let Some(earlier) = earlier.filter(|earlier| earlier.began == self.began) else {
            return Lately { counts: self.counts, times: self.times.clone(), variations: self.variations.clone() };
        };
        Lately {
            counts: self.counts.since(&earlier.counts),
            times: difference(&self.times, &earlier.times),
            variations: difference(&self.variations, &earlier.variations),
        }
    }
}

/// What a session saw between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lately {
    pub(crate) counts: Counts,
    pub(crate) times: Buckets,
    pub(crate) variations: Buckets,
}

impl Lately {
    pub(crate) fn is_nothing(&self) -> bool {
        self.counts == Counts::default() && self.times.is_empty() && self.variations.is_empty()
    }
}

fn difference(now: &Buckets, earlier: &Buckets) -> Buckets {
    let before = |bucket: u16| earlier.binary_search_by_key(&bucket, |entry| entry.0).map_or(0, |at| earlier[at].1);
    let mut different: Buckets =
        now.iter().map(|(bucket, count)| (*bucket, count.wrapping_sub(before(*bucket)))).collect();
    // A count that wrapped to nothing is not among those of now.
    let gone = |entry: &&(u16, u16)| now.binary_search_by_key(&entry.0, |entry| entry.0).is_err();
    different.extend(earlier.iter().filter(gone).map(|(bucket, count)| (*bucket, 0_u16.wrapping_sub(*count))));
    different.retain(|(_, count)| *count != 0);
    different.sort_unstable();
    different
}

/// The times that fall into a bucket, in nanoseconds: the first, and the first past it. The last bucket has all beyond 17 s too.
pub(crate) fn bounds(bucket: u16) -> (u64, u64) {
    let bucket = u32::from(bucket);
    let (lower, width) = match bucket.checked_sub(LINEAR) {
        None => (u64::from(bucket), 1),
        Some(above) => {
            let shift = above / STEPS + 1;
            (u64::from(STEPS + above % STEPS) << shift, 1 << shift)
        }
    };
    (lower * UNIT, (lower + width) * UNIT)
}

/// The time that stands for a bucket, in nanoseconds: its middle, within 1.6 % or 0.5 µs of every time in it. Stamps are cut
/// to 1.024 µs, which adds as much again.
pub(crate) fn middle(bucket: u16) -> u64 {
    let (lower, past) = bounds(bucket);
    lower.midpoint(past)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_touch_and_are_narrow() {
        assert_eq!((bounds(0), bounds(63)), ((0, 1_024), (63 * 1_024, 64 * 1_024)));
        for bucket in 0..TIME_BUCKETS as u16 - 1 {
            let (lower, past) = bounds(bucket);
            assert_eq!(bounds(bucket + 1).0, past);
            let half = (past - lower) as f64 / 2.0;
            assert!(half <= 512.0 || half / lower as f64 <= 1.0 / 64.0, "{bucket}");
        }
        assert_eq!(bounds(TIME_BUCKETS as u16 - 1).1, 1 << 34);
    }

    #[test]
    fn a_reading_is_decoded_from_where_the_program_wrote() {
        let mut bytes = vec![0_u8; SESSION_WORDS * 8];
        assert_eq!(bytes.len(), 3_696);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &7_u64.to_ne_bytes());
        put(8, &9_u64.to_ne_bytes());
        put(16, b"session-id");
        for (n, count) in [1_234_u32, 10, 20, 30, 40, 50, 60].into_iter().enumerate() {
            put(48 + 4 * n, &count.to_ne_bytes());
        }
        put(AT_TIMES + 2 * 5, &3_u16.to_ne_bytes());
        put(AT_VARIATIONS + 2 * 639, &4_u16.to_ne_bytes());
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight"))).collect();
        let reading = Reading::of(words.as_slice().try_into().expect("as many"));
        assert_eq!((reading.began, reading.cgroup, reading.bucket), (7, 9, 1_234));
        assert_eq!(&reading.id[..11], b"session-id\0");
        let Counts { by_control, by_canary, received, unmatched, ambiguous, restarted } = reading.counts;
        assert_eq!([by_control, by_canary, received, unmatched, ambiguous, restarted], [10, 20, 30, 40, 50, 60]);
        assert_eq!((reading.times, reading.variations), (vec![(5, 3)], vec![(639, 4)]));
    }

    #[test]
    fn differences_survive_a_wrap_and_a_new_session() {
        let mut earlier = Reading {
            began: 1,
            cgroup: 0,
            id: [0; 32],
            bucket: 0,
            counts: Counts { received: u32::MAX, ..Counts::default() },
            times: vec![(3, 65_530), (4, 2)],
            variations: Vec::new(),
        };
        let now = Reading {
            counts: Counts { received: 1, ..Counts::default() },
            times: vec![(3, 5), (9, 1)],
            ..earlier.clone()
        };
        let lately = now.since(Some(&earlier));
        assert_eq!(lately.counts.received, 2);
        assert_eq!(lately.times, [(3, 11), (4, 65_534), (9, 1)]);
        assert!(now.since(Some(&now)).is_nothing());
        earlier.began = 0;
        assert_eq!(now.since(Some(&earlier)).times, now.times);
    }

    #[test]
    fn a_flow_of_ipv4_has_an_ipv4_address() {
        let mut raw = [0; 20];
        raw[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        raw[16..18].copy_from_slice(&7_000_u16.to_ne_bytes());
        raw[18..20].copy_from_slice(&30_000_u16.to_ne_bytes());
        assert_eq!(Flow::of(&raw), Flow { client: "192.0.2.1:7000".parse().unwrap(), server_port: 30_000 });
    }
}
