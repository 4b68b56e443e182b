//! What the programs in `bpf/` and this crate must agree on: `bpf/abi.h`, said in Rust and compared with it by a test.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::{Index, IndexMut},
};

use pathlab_record::Interval;

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What became of a packet. Every packet bumps exactly one of these besides [`Counter::Received`], which counts those that
        /// the driver decided itself: answered, or refused by one reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// All of them, in the order of `enum reflector_counter`.
            pub const ALL: [Self; COUNTERS] = [$(Self::$variant,)*];

            /// The name for reports and metrics: lower case, underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

/// `REFLECTOR_COUNTERS`.
pub(crate) const COUNTERS: usize = 19;

counters! {
    /// Not ours: left to the stack as it was.
    Passed = "passed",
    /// Ours, and given to the AF_XDP socket of its queue ([`crate::HandOver`]).
    HandedToXsk = "handed_to_xsk",
    /// Ours, and left to the stack's UDP sockets for want of an AF_XDP socket.
    HandedToStack = "handed_to_stack",
    /// To one of our addresses and our port, and not handed over.
    Received = "received",
    /// Answered.
    Replied = "replied",
    /// Under 44 octets: no STAMP test packet.
    Short = "short",
    /// From our own port number: another reflector, and replies would circle.
    SourcePortOurs = "source_port_ours",
    /// From port 0: no reply wanted (RFC 768).
    SourcePortZero = "source_port_zero",
    /// From a group Ethernet address: the reply would go to a whole segment.
    SourceMacGroup = "source_mac_group",
    /// From one of our own addresses.
    SourceOurs = "source_ours",
    /// From 255.255.255.255 or a broadcast address of one of the interface's networks.
    SourceBroadcast = "source_broadcast",
    /// From 224.0.0.0/4 or `ff00::/8`.
    SourceMulticast = "source_multicast",
    /// From 0.0.0.0/8 or `::`.
    SourceUnspecified = "source_unspecified",
    /// From 127.0.0.0/8 or `::1`.
    SourceLoopback = "source_loopback",
    /// In no prefix of the allowlist.
    NotAllowed = "not_allowed",
    /// Shorter than an authenticated base packet, where nothing else is answered ([`crate::XdpReflectorConfig::authenticated`]).
    Unauthenticated = "unauthenticated",
    /// The source has had its share for now ([`crate::Limits`]).
    RateLimited = "rate_limited",
    /// Its network has had its share for now.
    PrefixRateLimited = "prefix_rate_limited",
    /// All sources together have had what there is for now.
    TotalRateLimited = "total_rate_limited",
}

impl Counter {
    /// Whether this is a reason for no reply to a packet that was received.
    pub const fn is_reason(self) -> bool {
        !matches!(self, Self::Passed | Self::HandedToXsk | Self::HandedToStack | Self::Received | Self::Replied)
    }
}

/// The counters of one reflector since it was loaded, summed over all processors.
///
/// `received = replied + every reason` holds exactly whenever no packet is being worked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; COUNTERS]);

impl Counters {
    /// Every counter with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.into_iter().map(|counter| (counter, self[counter]))
    }

    /// Packets that were received and not answered, over all reasons.
    pub fn refused(&self) -> u64 {
        self.iter().filter(|(counter, _)| counter.is_reason()).map(|(_, count)| count).sum()
    }

    pub(crate) fn sum<'a>(processors: impl IntoIterator<Item = &'a [u64; COUNTERS]>) -> Self {
        let mut total = Self::default();
        for processor in processors {
            for counter in Counter::ALL {
                total[counter] = total[counter].wrapping_add(processor[counter as usize]);
            }
        }
        total
    }
}

impl Index<Counter> for Counters {
    type Output = u64;
    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl IndexMut<Counter> for Counters {
    fn index_mut(&mut self, counter: Counter) -> &mut u64 {
        &mut self.0[counter as usize]
    }
}

impl fmt::Display for Counters {
    /// `received 10, replied 9, short 1, passed 3`: what is zero is left out, but the first two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "received {}, replied {}", self[Counter::Received], self[Counter::Replied])?;
        for (counter, count) in self.iter().filter(|(counter, count)| counter.is_reason() && *count > 0) {
            write!(f, ", {} {count}", counter.name())?;
        }
        write!(f, ", passed {}", self[Counter::Passed])
    }
}

/// `struct reflector_clock`: the map [`CLOCK`].
pub(crate) type ClockRecord = [u8; 16];

/// `SEC(".data.clock")`: maps that a program reads in place have their section's name.
pub(crate) const CLOCK: &str = ".data.clock";

pub(crate) fn clock_record(tai_minus_utc: Interval, error_estimate: u16) -> ClockRecord {
    let mut record = [0; 16];
    record[..8].copy_from_slice(&tai_minus_utc.as_nanos().to_ne_bytes());
    record[8..10].copy_from_slice(&error_estimate.to_be_bytes());
    record
}

/// `struct address`.
pub(crate) type AddressKey = [u8; 16];

pub(crate) fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}

/// `SEC(".data.slots")`.
pub(crate) const SLOTS: &str = ".data.slots";

/// The one entry of the map [`SLOTS`].
pub(crate) type SlotsRecord = [SlotRecord; ADDRESS_SLOTS];

/// `struct address_slot`.
pub(crate) type SlotRecord = [u8; 32];

pub(crate) fn slot_record(address: AddressKey, role: u32) -> SlotRecord {
    let mut record = [0; 32];
    record[..16].copy_from_slice(&address);
    record[16..20].copy_from_slice(&role.to_ne_bytes());
    record
}

/// The place of an address among them: `role()` in `bpf/addresses.h`.
pub(crate) fn slot_of(address: AddressKey) -> usize {
    let word = |at: usize| u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
    ((word(0) ^ word(4) ^ word(8) ^ word(12)).wrapping_mul(ADDRESS_HASH) >> 24) as usize
}

/// `ADDRESS_SLOTS`.
pub(crate) const ADDRESS_SLOTS: usize = 256;
/// `ADDRESS_HASH`.
const ADDRESS_HASH: u32 = 0x9e37_79b1;
/// `ADDRESS_CROWDED`.
pub(crate) const ADDRESS_CROWDED: u32 = 3;

/// `ADDRESS_OURS`.
pub(crate) const ADDRESS_OURS: u32 = 1;
/// `ADDRESS_BROADCAST`.
pub(crate) const ADDRESS_BROADCAST: u32 = 2;
/// `ADDRESSES_MAX`.
pub(crate) const ADDRESSES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const ABI_H: &str = include_str!("../bpf/abi.h");

    /// The enumerators of an `enum` in the header, in order.
    fn enumerators(name: &str) -> Vec<&'static str> {
        let (_, rest) = ABI_H.split_once(&format!("enum {name} {{")).expect("the enum");
        let (body, _) = rest.split_once('}').expect("its end");
        body.lines().filter_map(|line| line.trim().split([',', ' ']).next().filter(|word| !word.is_empty())).collect()
    }

    #[test]
    fn counters_are_those_of_the_header_in_its_order() {
        let mut ours: Vec<String> =
            Counter::ALL.iter().map(|counter| format!("REFLECTOR_{}", counter.name().to_uppercase())).collect();
        ours.push("REFLECTOR_COUNTERS".into());
        assert_eq!(ours, enumerators("reflector_counter"));
        assert!(ABI_H.contains(&format!("sizeof(struct reflector_counters) == {}", size_of::<Counters>())));
    }

    #[test]
    fn records_are_those_of_the_header() {
        assert!(ABI_H.contains(&format!("sizeof(struct reflector_clock) == {}", size_of::<ClockRecord>())));
        assert!(ABI_H.contains(&format!("sizeof(struct address) == {}", size_of::<AddressKey>())));
        assert!(ABI_H.contains(&format!("ADDRESS_OURS = {ADDRESS_OURS},")));
        assert!(ABI_H.contains(&format!("ADDRESS_BROADCAST = {ADDRESS_BROADCAST},")));
        assert!(ABI_H.contains(&format!("#define ADDRESSES_MAX {ADDRESSES_MAX}\n")));
        assert!(ABI_H.contains(&format!("sizeof(struct address_slot) == {}", size_of::<SlotRecord>())));
        assert!(ABI_H.contains(&format!("#define ADDRESS_SLOTS {ADDRESS_SLOTS}\n")));
        assert!(ABI_H.contains(&format!("#define ADDRESS_HASH {ADDRESS_HASH:#x}\n")));
        assert!(ABI_H.contains(&format!("#define ADDRESS_CROWDED {ADDRESS_CROWDED}\n")));
        assert_eq!(ADDRESS_SLOTS, 1 << 8, "the hash's upper 8 bits");
        assert!(include_str!("../bpf/addresses.h").contains(&format!("SLOTS[ADDRESS_SLOTS] SEC(\"{SLOTS}\");")));
        assert!(include_str!("../bpf/reflect.h").contains(&format!("CLOCK SEC(\"{CLOCK}\")")));
    }

    #[test]
    fn processors_are_summed_and_zeros_left_out() {
        let mut processor = [0; COUNTERS];
        processor[Counter::Received as usize] = 3;
        processor[Counter::Replied as usize] = 2;
        processor[Counter::Short as usize] = 1;
        let total = Counters::sum([&processor, &processor]);
        assert_eq!(total.to_string(), "received 6, replied 4, short 2, passed 0");
        assert_eq!(total[Counter::Received], total[Counter::Replied] + total.refused());
    }
}
