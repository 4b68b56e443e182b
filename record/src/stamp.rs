//! A stamp says when, by which clock, at which place in the host, and how surely; or it is absent.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Clock, Interval, Monotonic, Reading, Realtime, Tai, Time};

/// Where in the host a stamp was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// User space, next to the system call.
    App,
    /// Entry into the queueing discipline (`SCM_TSTAMP_SCHED`).
    Sched,
    /// `SO_TIMESTAMPING` software: hand-over to the driver when sending, stack entry when receiving.
    Kernel,
    /// Inside an XDP program.
    Xdp,
    /// The network card's own clock.
    Nic,
}

/// The clock of a stamp, by value; [`Clock`] is the same by type. `"realtime"`, `"tai"`, `"monotonic"` or `"phc0"` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClockId {
    /// `CLOCK_REALTIME`.
    Realtime,
    /// `CLOCK_TAI`.
    Tai,
    /// `CLOCK_MONOTONIC`.
    Monotonic,
    /// A network card's own clock, `/dev/ptpN`.
    Phc(u32),
}

impl fmt::Display for ClockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realtime => f.write_str(Realtime::NAME),
            Self::Tai => f.write_str(Tai::NAME),
            Self::Monotonic => f.write_str(Monotonic::NAME),
            Self::Phc(index) => write!(f, "phc{index}"),
        }
    }
}

impl FromStr for ClockId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            Realtime::NAME => Ok(Self::Realtime),
            Tai::NAME => Ok(Self::Tai),
            Monotonic::NAME => Ok(Self::Monotonic),
            _ => match text.strip_prefix("phc").map(str::parse) {
                Some(Ok(index)) => Ok(Self::Phc(index)),
                _ => Err(format!("unknown clock {text:?}, expected realtime, tai, monotonic or phc<number>")),
            },
        }
    }
}

impl Serialize for ClockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One reading of one clock: nanoseconds, clock, uncertainty in nanoseconds. `[1792000000000000000, "realtime", 0]` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp(i64, ClockId, u64);

impl Stamp {
    /// A stamp of a clock known by value. Zero from a driver is absent: such a value gives `None`.
    pub fn new(nanoseconds: i64, clock: ClockId, uncertainty: u64) -> Option<Self> {
        (nanoseconds != 0).then_some(Self(nanoseconds, clock, uncertainty))
    }

    /// Nanoseconds since the clock's epoch.
    pub fn nanos(self) -> i64 {
        self.0
    }

    /// The clock that was read.
    pub fn clock(self) -> ClockId {
        self.1
    }

    /// Half-width of the interval that holds the truth, in nanoseconds.
    pub fn uncertainty(self) -> u64 {
        self.2
    }

    /// The span since `earlier`, or `None` where the two were read off different clocks.
    pub fn since(self, earlier: Self) -> Option<Interval> {
        (self.1 == earlier.1).then(|| Interval::from_nanos(self.0.wrapping_sub(earlier.0)))
    }
}

impl<C: Clock> From<Time<C>> for Stamp {
    /// A reading without stated uncertainty.
    fn from(time: Time<C>) -> Self {
        let clock = match C::NAME {
            "realtime" => ClockId::Realtime,
            "tai" => ClockId::Tai,
            _ => ClockId::Monotonic,
        };
        Self(time.as_nanos(), clock, 0)
    }
}

impl<C: Clock> From<Reading<C>> for Stamp {
    fn from(reading: Reading<C>) -> Self {
        let Self(nanoseconds, clock, _) = reading.time.into();
        Self(nanoseconds, clock, reading.uncertainty)
    }
}

/// The stamps of one point of the path, by plane; absent is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)] // the fields are the variants of `Plane`
pub struct Planes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<Stamp>,
}

impl Planes {
    /// Whether not one stamp was got here.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All stamps of one round trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stamps {
    /// The intended send time (slot).
    #[serde(rename = "A0", skip_serializing_if = "Planes::is_empty")]
    pub a0: Planes,
    /// Probe send.
    #[serde(rename = "A1", skip_serializing_if = "Planes::is_empty")]
    pub a1: Planes,
    /// Reflector receive.
    #[serde(rename = "B2", skip_serializing_if = "Planes::is_empty")]
    pub b2: Planes,
    /// Reflector send.
    #[serde(rename = "B3", skip_serializing_if = "Planes::is_empty")]
    pub b3: Planes,
    /// Probe receive.
    #[serde(rename = "A4", skip_serializing_if = "Planes::is_empty")]
    pub a4: Planes,
}
