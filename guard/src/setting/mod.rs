//! One thing on a host that can be set, read and written in process: by procfs, sysfs, ethtool or rtnetlink, never by running a program.
//!
//! A value is text in the words of the command that would set it: `rx 512`, `on`, `0-3`. What is read is written back to the octet.

mod command;
mod file;
mod parameters;
mod qdisc;

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::ethtool::{Ethtool, Flow, Group};

pub use command::even_table;
pub use qdisc::qdiscs;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// A kernel parameter.
    Sysctl {
        /// Below `/proc/sys`, such as `net/core/rmem_max`. A path and not the dotted form: interface names may hold dots.
        path: String,
    },
    /// A file of sysfs with one value.
    File {
        /// Without the leading `/`, such as `sys/class/net/eth0/gro_flush_timeout`.
        path: String,
    },
    /// The CPUs that an interrupt may go to, as a list.
    Irq {
        /// Its number.
        number: u32,
    },
    /// Rings, channels or moderation of a port: `NAME VALUE` pairs.
    Parameters {
        /// Which of them.
        group: Group,
        /// The port.
        port: String,
    },
    /// The RSS table: the receive queue of each entry, with spaces.
    Rss {
        /// The port.
        port: String,
    },
    /// What is hashed of UDP, in ethtool's letters.
    FlowHash {
        /// The port.
        port: String,
        /// UDP over IPv4 or IPv6.
        flow: Flow,
    },
    /// A feature of `ethtool -k`: `on` or `off` as it is wished, whether or not another stands in its way.
    Feature {
        /// The port.
        port: String,
        /// By the kernel's name.
        name: String,
    },
    /// The root qdisc: `default` and the kinds of the kernel's own tree, or the kinds of ours, the root's first.
    Qdisc {
        /// The port.
        port: String,
    },
}

/// Why an interrupt cannot be moved; kernels that do not show it in the file's mode say so to the first who writes.
const MANAGED: &str = "the kernel manages this interrupt itself: it cannot be moved";

impl Setting {
    /// The port that it belongs to, and goes away with.
    pub fn port(&self) -> Option<&str> {
        match self {
            Self::Sysctl { .. } | Self::Irq { .. } => None,
            Self::File { path } => path.strip_prefix("sys/class/net/")?.split('/').next(),
            Self::Parameters { port, .. }
            | Self::Rss { port }
            | Self::FlowHash { port, .. }
            | Self::Feature { port, .. }
            | Self::Qdisc { port } => Some(port),
        }
    }

    /// Whether each network namespace has one of its own.
    pub(crate) fn is_of_a_netns(&self) -> bool {
        match self {
            Self::Sysctl { path } => path.starts_with("net/"),
            setting => setting.port().is_some(),
        }
    }

    /// Whether a driver may set other things of the port anew when this one changes: queues come and go, interrupts are asked for again.
    pub(crate) fn resets_port(&self) -> bool {
        matches!(self, Self::Parameters { group: Group::Rings | Group::Channels, .. })
    }

    /// The file behind it, where there is one.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Sysctl { path } => Some(PathBuf::from("/proc/sys").join(path)),
            Self::File { path } => Some(PathBuf::from("/").join(path)),
            Self::Irq { number } => Some(PathBuf::from(format!("/proc/irq/{number}/smp_affinity_list"))),
            _ => None,
        }
    }

    /// The present value, in the calling thread's network namespace and its view of `/sys`.
    ///
    /// # Errors
    /// As the kernel gave it: `ENOENT`, `ENODEV` or `EOPNOTSUPP` where there is no such thing.
    pub fn read(&self) -> io::Result<String> {
        if let Some(file) = self.file() {
            return file::read(&file);
        }
        match self {
            Self::Parameters { group, port } => parameters::read(*group, port),
            Self::Rss { port } => {
                Ok(Ethtool::open()?.rss(port)?.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
            }
            Self::FlowHash { port, flow } => flow.hash(port),
            Self::Feature { port, name } => {
                let features = Ethtool::open()?.features(port)?;
                let known = [&features.changeable, &features.wanted, &features.active, &features.fixed];
                if !known.iter().any(|names| names.contains(name)) {
                    return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
                }
                Ok(if features.wanted.contains(name) { "on" } else { "off" }.to_owned())
            }
            Self::Qdisc { port } => qdisc::read(port),
            Self::Sysctl { .. } | Self::File { .. } | Self::Irq { .. } => unreachable!("they have a file"),
        }
    }

    /// Writes a value: of parameters, those that are named and differ.
    ///
    /// # Errors
    /// As the kernel gave it; `EINVAL` too for a value that is none of this setting.
    pub fn write(&self, value: &str) -> io::Result<()> {
        if let Some(file) = self.file() {
            return file::write(&file, value).map_err(|error| match (self, error.raw_os_error()) {
                (Self::Irq { .. }, Some(libc::EIO | libc::EPERM)) => io::Error::other(MANAGED),
                _ => error,
            });
        }
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        match self {
            Self::Parameters { group, port } => parameters::write(*group, port, value),
            Self::Rss { port } => {
                let table: Option<Vec<u32>> = value.split_whitespace().map(|queue| queue.parse().ok()).collect();
                crate::ethtool::sys::set_indirection(
                    port,
                    &table.filter(|table| !table.is_empty()).ok_or_else(invalid)?,
                )
            }
            Self::FlowHash { port, flow } => flow.set_hash(port, value),
            Self::Feature { port, name } => {
                let on = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(invalid()),
                };
                Ethtool::open()?.set_feature(port, name, on)
            }
            Self::Qdisc { port } => qdisc::write(port, value),
            Self::Sysctl { .. } | Self::File { .. } | Self::Irq { .. } => unreachable!("they have a file"),
        }
    }

    /// Writes what was there before. A table that was the driver's own is given back to the driver, so that it keeps it in step with the
    /// number of queues as before.
    pub(crate) fn write_back(&self, was: &str) -> io::Result<()> {
        if let Self::Rss { port } = self
            && is_even(was)
            && crate::ethtool::sys::set_indirection(port, &[]).is_ok()
            && self.read()? == was
        {
            return Ok(());
        }
        self.write(was)
    }

    /// Whether two values mean the same; of parameters, as far as `wanted` names them.
    pub fn alike(&self, now: &str, wanted: &str) -> bool {
        match self {
            Self::Sysctl { path } | Self::File { path } => file::canonical(path, now) == file::canonical(path, wanted),
            Self::Irq { .. } => {
                file::canonical("smp_affinity_list", now) == file::canonical("smp_affinity_list", wanted)
            }
            Self::Parameters { group, .. } => parameters::alike(*group, now, wanted),
            Self::FlowHash { .. } => {
                let sorted = |letters: &str| {
                    let mut letters: Vec<char> = letters.chars().collect();
                    letters.sort_unstable();
                    letters
                };
                sorted(now) == sorted(wanted)
            }
            _ => now == wanted,
        }
    }

    /// Whose it is: a port's index, the name that asked for an interrupt. Another one under the same name is another thing.
    pub(crate) fn owner(&self) -> Option<String> {
        match self {
            Self::Irq { number } => irq_name(*number),
            _ => file::read(&PathBuf::from(format!("/sys/class/net/{}/ifindex", self.port()?))).ok(),
        }
    }

    /// Why `wanted` cannot be set here, as far as that can be known without trying.
    ///
    /// # Errors
    /// The reason, as half a sentence.
    pub fn check(&self, wanted: &str) -> Result<(), String> {
        if let Some(file) = self.file() {
            return file::check(self, &file);
        }
        match self {
            Self::Parameters { group, port } => parameters::check(*group, port, wanted),
            Self::Rss { port } => {
                let now = self.read().map_err(|error| format!("the driver has no RSS table: {error}"))?;
                let (entries, size) = (wanted.split_whitespace().count(), now.split_whitespace().count());
                if entries != size {
                    return Err(format!("the table of {port} has {size} entries, not {entries}"));
                }
                Ok(())
            }
            Self::FlowHash { flow, .. } => match self.read() {
                Ok(letters) if letters.is_empty() => {
                    Err(format!("the driver does not say how it hashes {}", flow.name()))
                }
                Ok(_) => Ok(()),
                Err(error) => Err(format!("the driver does not say how it hashes {}: {error}", flow.name())),
            },
            Self::Feature { port, name } => {
                let features = Ethtool::open().and_then(|mut ethtool| ethtool.features(port));
                let features = features.map_err(|error| format!("features of {port}: {error}"))?;
                if features.fixed.contains(name) || !features.changeable.contains(name) {
                    return Err(format!("the driver has no {name} that could be switched (`fixed` in ethtool -k)"));
                }
                if matches!(wanted, "on" | "off") { Ok(()) } else { Err(format!("{wanted:?} is neither on nor off")) }
            }
            Self::Qdisc { port } => qdisc::check(port, wanted),
            Self::Sysctl { .. } | Self::File { .. } | Self::Irq { .. } => unreachable!("they have a file"),
        }
    }
}

/// Name of what asked for an interrupt: the last word of its line.
fn irq_name(number: u32) -> Option<String> {
    let text = std::fs::read_to_string("/proc/interrupts").ok()?;
    irq_names(&text).find(|(irq, _)| *irq == number).map(|(_, name)| name.to_owned())
}

/// Number and name of each interrupt in `/proc/interrupts`.
pub(crate) fn irq_names(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.lines().skip(1).filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(':')?;
        Some((number.parse().ok()?, rest.split_whitespace().last()?))
    })
}

/// Whether a table is the driver's own: `ethtool_rxfh_indir_default`, entry modulo queues.
pub(crate) fn is_even(table: &str) -> bool {
    let queues: Vec<u32> = table.split_whitespace().filter_map(|queue| queue.parse().ok()).collect();
    let count = queues.iter().max().map_or(1, |most| u64::from(*most) + 1);
    (0_u64..).zip(&queues).all(|(at, queue)| at % count == u64::from(*queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_own_table_is_known() {
        assert!(is_even("0 1 2 3 0 1 2 3") && is_even("0 0 0 0") && is_even("0 1 2 0 1 2 0 1"));
        assert!(!is_even("0 0 1 1") && !is_even("1 0 1 0"));
    }

    #[test]
    fn a_port_is_named_by_what_belongs_to_it() {
        let file = |path: &str| Setting::File { path: path.into() };
        assert_eq!(file("sys/class/net/eth0.7/queues/rx-0/rps_cpus").port(), Some("eth0.7"));
        assert_eq!(file("sys/devices/system/cpu/cpu0/cpuidle/state1/disable").port(), None);
    }

    #[test]
    fn interrupts_have_the_name_of_who_asked_for_them() {
        let text = "           CPU0       CPU1\n  38:   12   0  PCI-MSIX-0000:00:05.0   1-edge      virtio2-input.0\n NMI:  0  0  Non-maskable interrupts\n";
        assert_eq!(irq_names(text).collect::<Vec<_>>(), [(38, "virtio2-input.0")]);
    }
}
