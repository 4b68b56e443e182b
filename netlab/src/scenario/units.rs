//! Quantities as scenario files write them.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::Discipline;
use crate::{qdisc::Limit, queue::Flavour};

/// A quantity that deserialises through [`FromStr`], whose message becomes the error.
macro_rules! deserialised {
    ($($quantity:ty),*) => {$(
        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
deserialised!(Rate, Queue, Span, Share);

/// Bits per second, such as `30mbit`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate(pub(super) u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate, such as \"500kbit\", \"27.5mbit\" or \"1gbit\"");
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = match &text[number.len()..] {
            "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let rate = number * scale;
        if (8.0..=1e12).contains(&rate) { Ok(Self(rate.round() as u64)) } else { Err(wrong()) }
    }
}

/// `90 packets` or `64000 bytes` of tail drop, `codel`, `fq_codel`, or one of these two as its RFC has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue(pub(super) Discipline);

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no queue, such as \"90 packets\", \"64000 bytes\", \"codel\" or \"fq_codel\"");
        match text {
            "codel" => return Ok(Self(Discipline::Codel(Flavour::Linux))),
            "codel rfc8289" => return Ok(Self(Discipline::Codel(Flavour::Rfc8289))),
            "fq_codel" => return Ok(Self(Discipline::FqCodel(Flavour::Linux))),
            "fq_codel rfc8290" => return Ok(Self(Discipline::FqCodel(Flavour::Rfc8289))),
            _ => {}
        }
        let (number, unit) = text.split_once(' ').ok_or_else(wrong)?;
        let number: u32 = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        match unit {
            "packets" => Ok(Self(Discipline::TailDrop(Limit::Packets(number)))),
            "bytes" => Ok(Self(Discipline::TailDrop(Limit::Bytes(number)))),
            _ => Err(wrong()),
        }
    }
}

/// `500ms`, `1.5s`, `2min`; never negative.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let signed: Option<jiff::SignedDuration> = text.parse().ok();
        signed
            .and_then(|signed| Duration::try_from(signed).ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no time, such as \"500ms\" or \"2min\""))
    }
}

/// `20%` as 0.2; from 0 to 100 %.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(pub(super) f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent: Option<f64> = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Self(percent / 100.0))
            .ok_or_else(|| format!("{text:?} is no share, such as \"15%\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct One<T> {
        v: T,
    }

    fn read<T: for<'de> Deserialize<'de>>(value: &str) -> Result<T, String> {
        toml::from_str::<One<T>>(&format!("v = {value:?}")).map(|one| one.v).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn quantities_are_read_in_their_units() {
        assert_eq!(read::<Rate>("27.5mbit").expect("rate").0, 27_500_000);
        assert_eq!(read::<Queue>("90 packets").expect("queue").0, Discipline::TailDrop(Limit::Packets(90)));
        assert_eq!(read::<Queue>("64000 bytes").expect("queue").0, Discipline::TailDrop(Limit::Bytes(64_000)));
        assert_eq!(read::<Queue>("fq_codel").expect("queue").0, Discipline::FqCodel(Flavour::Linux));
        assert_eq!(read::<Queue>("codel rfc8289").expect("queue").0, Discipline::Codel(Flavour::Rfc8289));
        assert_eq!(read::<Span>("1.5s").expect("time").0, Duration::from_millis(1500));
        assert_eq!(read::<Share>("20%").expect("share").0, 0.2);
    }

    #[test]
    fn a_quantity_without_sense_is_refused_with_an_example() {
        for wrong in ["27.5", "-1mbit", "0bit", "mbit", "1e99gbit", "nanbit"] {
            assert!(read::<Rate>(wrong).expect_err("no rate").contains("is no rate, such as"), "{wrong}");
        }
        for wrong in ["90", "0 packets", "-1 packets", "90 frames", "5000000000 bytes", "fq"] {
            assert!(read::<Queue>(wrong).expect_err("no queue").contains("is no queue, such as"), "{wrong}");
        }
        for wrong in ["-1s", "1", "soon"] {
            assert!(read::<Span>(wrong).expect_err("no time").contains("is no time, such as"), "{wrong}");
        }
        for wrong in ["0.2", "101%", "-1%", "nan%"] {
            assert!(read::<Share>(wrong).expect_err("no share").contains("is no share, such as"), "{wrong}");
        }
    }
}
