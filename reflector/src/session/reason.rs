//! Why a datagram gets no reply, and the count of each reason, so that nothing that arrives goes uncounted.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a datagram got no reply. Each datagram is counted under one. Names are those of the in-driver reflector's counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the checks.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in reports, metrics and test vectors.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Under 44 octets: no test packet (RFC 8762 §4.2.1).
    Short = "short",
    /// It comes from a reflector's port: two reflectors would answer each other for ever.
    SourcePortOurs = "source_port_ours",
    /// Source port 0: no reply wanted (RFC 768).
    SourcePortZero = "source_port_zero",
    /// The source is a multicast address.
    SourceMulticast = "source_multicast",
    /// The source is a broadcast address.
    SourceBroadcast = "source_broadcast",
    /// The source is in 0.0.0.0/8 or `::`.
    SourceUnspecified = "source_unspecified",
    /// In the driver: the source is a loopback address.
    SourceLoopback = "source_loopback",
    /// In the driver: the source is an address of this host.
    SourceOurs = "source_ours",
    /// In the driver: the source MAC address is a group's.
    SourceMacGroup = "source_mac_group",
    /// It was sent to a broadcast or multicast address.
    DestinationGroup = "destination_group",
    /// No prefix of the allowlist holds the source.
    NotAllowed = "not_allowed",
    /// Longer than the datapath can send.
    TooLong = "too_long",
    /// Keys are given, and it is an unauthenticated packet: under 112 octets.
    Unauthenticated = "unauthenticated",
    /// Keys are given, and none for its SSID.
    NoKey = "no_key",
    /// Its HMAC is not that of its key.
    BadHmac = "bad_hmac",
    /// The source has had its share for now.
    RateLimited = "rate_limited",
    /// Its network, an IPv4 /24 or IPv6 /48, has had its share for now.
    PrefixRateLimited = "prefix_rate_limited",
    /// All sources together have had what there is for now.
    TotalRateLimited = "total_rate_limited",
    /// A new session, and the table of sessions is full.
    SessionsFull = "sessions_full",
    /// From the driver: no UDP datagram that can be answered.
    Malformed = "malformed",
    /// The kernel would not send the reply: no route, refused by a filter, send buffer full.
    SendFailed = "send_failed",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The count of datagrams by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that were handed to the rules.
    pub received: u64,
    /// Replies that the kernel took.
    pub replied: u64,
    refused: [u64; Reason::ALL.len()],
}

impl Tally {
    /// One more under `reason`.
    pub fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    /// Adds what another counted.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.replied += other.replied;
        for (mine, theirs) in self.refused.iter_mut().zip(other.refused) {
            *mine += theirs;
        }
    }

    /// The count of one reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize]
    }

    /// The count of every reason by its name, zeroes too.
    pub fn by_reason(&self) -> BTreeMap<&'static str, u64> {
        Reason::ALL.iter().map(|reason| (reason.name(), self.refused(*reason))).collect()
    }

    /// `received = replied + Σ refused`: what the reflector promises.
    pub fn adds_up(&self) -> bool {
        self.received == self.replied + self.refused.iter().sum::<u64>()
    }
}
