//! Rings, channels and moderation as `NAME VALUE` pairs.

use std::io;

use crate::ethtool::{Ethtool, Group};

pub(super) fn read(group: Group, port: &str) -> io::Result<String> {
    let told = Ethtool::open()?.numbers(group, port)?;
    let pairs: Vec<String> = told.told().map(|(name, value)| pair(group, name, value)).collect();
    if pairs.is_empty() { Err(io::ErrorKind::Unsupported.into()) } else { Ok(pairs.join(" ")) }
}

/// Those that are named and differ, in the driver's order and not in the writer's.
pub(super) fn write(group: Group, port: &str, value: &str) -> io::Result<()> {
    let wanted = pairs(group, value).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut ethtool = Ethtool::open()?;
    let now = ethtool.numbers(group, port)?;
    let differs = |(name, now): (&'static str, u32)| {
        steady(&wanted).find(|(wish, to)| *wish == name && *to != now).map(|(_, to)| (name, *to))
    };
    let differ: Vec<(&str, u32)> = now.told().filter_map(differs).collect();
    if differ.is_empty() { Ok(()) } else { ethtool.set_numbers(group, port, &differ) }
}

/// As far as `wanted` names them.
pub(super) fn alike(group: Group, now: &str, wanted: &str) -> bool {
    match (pairs(group, now), pairs(group, wanted)) {
        (Some(now), Some(wanted)) => steady(&wanted).all(|pair| now.contains(pair)),
        _ => false,
    }
}

pub(super) fn check(group: Group, port: &str, wanted: &str) -> Result<(), String> {
    let told = Ethtool::open().and_then(|mut ethtool| ethtool.numbers(group, port));
    let told = told.map_err(|error| format!("the driver has no {group} to set: {error}"))?;
    let wanted = pairs(group, wanted).ok_or_else(|| format!("{wanted:?} are no {group}"))?;
    for (name, value) in wanted {
        if told.value(name).is_none() || told.most(name) == Some(0) {
            return Err(format!("the driver has no {group} named {name}"));
        }
        if let Some(most) = told.most(name).filter(|most| value > *most) {
            return Err(format!("{name} {value}: the card has at most {most}"));
        }
        if value == 0 && group != Group::Coalesce {
            return Err(format!("{name} 0: none would be left"));
        }
    }
    Ok(())
}

fn pair(group: Group, name: &str, value: u32) -> String {
    match (group.is_switch(name), value) {
        (false, value) => format!("{name} {value}"),
        (true, 0) => format!("{name} off"),
        (true, _) => format!("{name} on"),
    }
}

/// Those that stand still: with `adaptive-rx on` the driver moves `rx-usecs` and `rx-frames` by the rate.
fn steady<'a, 'text>(pairs: &'a [(&'text str, u32)]) -> impl Iterator<Item = &'a (&'text str, u32)> {
    let adaptive =
        |direction: &str| pairs.iter().any(|(name, on)| *on != 0 && name.strip_prefix("adaptive-") == Some(direction));
    pairs.iter().filter(move |(name, _)| match name.split_once('-') {
        Some((direction, "usecs" | "frames")) => !adaptive(direction),
        _ => true,
    })
}

/// `NAME VALUE` pairs; `None` where they are none of the group's.
pub(super) fn pairs(group: Group, text: &str) -> Option<Vec<(&str, u32)>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() || words.len() % 2 == 1 {
        return None;
    }
    let read = |pair: &[&'_ str]| match (group.is_switch(pair[0]), pair[1]) {
        (true, "on") => Some(1),
        (true, "off") => Some(0),
        (false, number) => number.parse().ok(),
        _ => None,
    };
    let pairs: Option<Vec<_>> = words.chunks(2).map(|pair| Some((pair[0], read(pair)?))).collect();
    pairs.filter(|pairs| pairs.iter().all(|(name, _)| group.knows(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_parameters_only_those_that_are_named_are_compared() {
        let rings = |now: &str, wanted: &str| alike(Group::Rings, now, wanted);
        assert!(rings("rx 512 tx 1024", "rx 512") && !rings("rx 512 tx 1024", "rx 256"));
        assert!(!rings("rx 512 tx 1024", "") && !rings("rx 512", "combined 4"));
        let coalesce = |now: &str, wanted: &str| alike(Group::Coalesce, now, wanted);
        assert!(coalesce("adaptive-rx off rx-usecs 8", "rx-usecs 8 adaptive-rx off"));
        assert!(!coalesce("adaptive-rx off rx-usecs 8", "adaptive-rx 0"));
        assert!(coalesce("adaptive-rx on rx-usecs 64 tx-usecs 8", "adaptive-rx on rx-usecs 8 tx-usecs 8"));
        assert!(!coalesce("adaptive-rx on rx-usecs 64 tx-usecs 9", "adaptive-rx on rx-usecs 8 tx-usecs 8"));
    }
}
