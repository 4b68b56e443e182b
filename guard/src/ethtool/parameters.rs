//! Rings, channels and moderation: messages whose attributes are numbers, by the names of ethtool's command line.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{attribute, attributes};

/// A group of parameters that one message asks for and another sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// `ethtool -g` and `-G`, in descriptors: `rx`, `tx`.
    Rings,
    /// `ethtool -l` and `-L`, in queues: `rx`, `tx`, `combined`.
    Channels,
    /// `ethtool -c` and `-C`: `rx-usecs` and `tx-usecs` in microseconds, `rx-frames` and `tx-frames` in packets, `adaptive-rx` and `adaptive-tx`.
    Coalesce,
}

/// One parameter of a message (linux/ethtool_netlink.h).
struct Parameter {
    name: &'static str,
    attribute: u16,
    /// The attribute with the most that the card has.
    most: Option<u16>,
    /// On or off, one octet; else four.
    switch: bool,
}

const fn number(name: &'static str, attribute: u16, most: u16) -> Parameter {
    Parameter { name, attribute, most: Some(most), switch: false }
}

const fn plain(name: &'static str, attribute: u16) -> Parameter {
    Parameter { name, attribute, most: None, switch: false }
}

const fn switch(name: &'static str, attribute: u16) -> Parameter {
    Parameter { name, attribute, most: None, switch: true }
}

const RINGS: &[Parameter] = &[number("rx", 6, 2), number("tx", 9, 5)];
const CHANNELS: &[Parameter] = &[number("rx", 6, 2), number("tx", 7, 3), number("combined", 9, 5)];
/// The switches first: with moderation by the rate on, a driver may refuse a fixed delay.
const COALESCE: &[Parameter] = &[
    switch("adaptive-rx", 11),
    switch("adaptive-tx", 12),
    plain("rx-usecs", 2),
    plain("rx-frames", 3),
    plain("tx-usecs", 6),
    plain("tx-frames", 7),
];

impl Group {
    /// Every group.
    pub const ALL: [Self; 3] = [Self::Rings, Self::Channels, Self::Coalesce];

    /// The option of ethtool that sets it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Rings => "-G",
            Self::Channels => "-L",
            Self::Coalesce => "-C",
        }
    }

    pub(super) const fn ask(self) -> u8 {
        match self {
            Self::Rings => 15,
            Self::Channels => 17,
            Self::Coalesce => 19,
        }
    }

    pub(super) const fn tell(self) -> u8 {
        self.ask() + 1
    }

    const fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Rings => RINGS,
            Self::Channels => CHANNELS,
            Self::Coalesce => COALESCE,
        }
    }

    fn parameter(self, name: &str) -> Option<&'static Parameter> {
        self.parameters().iter().find(|parameter| parameter.name == name)
    }

    /// Whether the parameter is on or off.
    pub(crate) fn is_switch(self, name: &str) -> bool {
        self.parameter(name).is_some_and(|parameter| parameter.switch)
    }

    /// Whether the group has a parameter of that name.
    pub(crate) fn knows(self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    pub(super) fn attribute(self, name: &str, value: u32) -> Option<Vec<u8>> {
        let parameter = self.parameter(name)?;
        Some(if parameter.switch {
            attribute(parameter.attribute, &[u8::from(value != 0)])
        } else {
            attribute(parameter.attribute, &value.to_ne_bytes())
        })
    }
}

/// As the kernel's messages are called.
impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rings => "rings",
            Self::Channels => "channels",
            Self::Coalesce => "coalesce",
        })
    }
}

/// What a driver told of a group; absent is what it has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(Vec<(&'static str, u32, Option<u32>)>);

impl Numbers {
    pub(super) fn of(group: Group, answer: &[u8]) -> Self {
        let at = |wanted: u16| {
            let (_, payload) = attributes(answer).find(|(kind, _)| *kind == wanted)?;
            match payload {
                [octet] => Some(u32::from(*octet)),
                _ => payload.try_into().ok().map(u32::from_ne_bytes),
            }
        };
        let told = group
            .parameters()
            .iter()
            .filter_map(|parameter| Some((parameter.name, at(parameter.attribute)?, parameter.most.and_then(at))));
        Self(told.collect())
    }

    /// A parameter's value.
    pub fn value(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(told, ..)| *told == name).map(|(_, value, _)| *value)
    }

    /// The most that the card has of it.
    pub fn most(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(told, ..)| *told == name).and_then(|(.., most)| *most)
    }

    /// All values, in the order in which they are set.
    pub fn told(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.0.iter().map(|(name, value, _)| (*name, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_as_the_kernel_sends_them() {
        let answer = [(2_u16, 4096_u32), (5, 8192), (6, 512), (9, 1024)]
            .map(|(kind, value)| attribute(kind, &value.to_ne_bytes()))
            .concat();
        let told = Numbers::of(Group::Rings, &answer);
        assert_eq!((told.value("rx"), told.most("rx")), (Some(512), Some(4096)));
        assert_eq!((told.value("tx"), told.most("tx")), (Some(1024), Some(8192)));
        assert_eq!(Numbers::of(Group::Channels, &answer).value("combined"), Some(1024));
        assert_eq!(told.value("combined"), None);
    }

    #[test]
    fn what_is_set_reads_back() {
        for group in Group::ALL {
            for parameter in group.parameters() {
                let octets = group.attribute(parameter.name, 1).expect("a name of the group");
                assert_eq!(Numbers::of(group, &octets).value(parameter.name), Some(1), "{group} {}", parameter.name);
            }
        }
        assert_eq!(Group::Rings.attribute("combined", 1), None);
    }
}
