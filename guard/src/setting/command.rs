//! A setting in the words of the command that an operator would type, and back: what is shown before anything is changed, and what may be
//! copied from an audit.

use super::{Setting, is_even};
use crate::ethtool::{Flow, Group};

impl Setting {
    /// The commands that set it to `value`; more than one for a qdisc with children.
    pub fn commands(&self, value: &str) -> Vec<String> {
        vec![match self {
            Self::Sysctl { path } if path.contains('.') => format!("echo {value} > /proc/sys/{path}"),
            Self::Sysctl { path } => {
                let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
                let quote = if value.contains(' ') { "'" } else { "" };
                format!("sysctl -w {quote}{}={value}{quote}", path.replace('/', "."))
            }
            Self::File { path } => format!("echo {value} > /{path}"),
            Self::Irq { number } => format!("echo {value} > /proc/irq/{number}/smp_affinity_list"),
            Self::Parameters { group, port } => format!("ethtool {} {port} {value}", group.option()),
            Self::Rss { port } => format!("ethtool -X {port} {}", table(value)),
            Self::FlowHash { port, flow } => format!("ethtool -N {port} rx-flow-hash {} {value}", flow.name()),
            Self::Feature { port, name } => format!("ethtool -K {port} {name} {value}"),
            Self::Qdisc { port } => return qdisc(port, value),
        }]
    }

    /// Reads a command of [`Setting::commands`], and the value that it sets. A table is told whole or as `equal N`, for which its present size is
    /// needed: the value is then `equal N` as it stands.
    ///
    /// # Errors
    /// What is not understood, as a sentence.
    pub fn parse(command: &str) -> Result<(Self, String), String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let joined = |words: &[&str]| words.join(" ");
        match words.as_slice() {
            ["sysctl", "-w", rest @ ..] => {
                let rest = joined(rest);
                let rest = rest.trim_matches('\'');
                let (name, value) = rest.split_once('=').ok_or_else(|| format!("`{command}`: write NAME=VALUE"))?;
                let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
                Ok((Self::Sysctl { path }, value.trim().to_owned()))
            }
            ["echo", value @ .., ">", path] if !value.is_empty() => {
                let path = path.trim_start_matches('/');
                Ok((Self::of_file(path).ok_or_else(|| unknown(command))?, joined(value)))
            }
            ["ethtool", option @ ("-G" | "-L" | "-C"), port, value @ ..] if !value.is_empty() => {
                let group = Group::ALL.into_iter().find(|group| group.option() == *option);
                let group = group.ok_or_else(|| unknown(command))?;
                if super::parameters::pairs(group, &joined(value)).is_none() {
                    return Err(format!("`{command}`: not among the {group} that are set here"));
                }
                Ok((Self::Parameters { group, port: (*port).to_owned() }, joined(value)))
            }
            ["ethtool", "-K", port, name, value @ ("on" | "off")] => {
                Ok((Self::Feature { port: (*port).to_owned(), name: (*name).to_owned() }, (*value).to_owned()))
            }
            ["ethtool", "-X", port, "equal", queues] => {
                Ok((Self::Rss { port: (*port).to_owned() }, format!("equal {queues}")))
            }
            ["ethtool", "-N", port, "rx-flow-hash", flow @ ("udp4" | "udp6"), letters] => {
                let flow = if *flow == "udp4" { Flow::Udp4 } else { Flow::Udp6 };
                Ok((Self::FlowHash { port: (*port).to_owned(), flow }, (*letters).to_owned()))
            }
            ["tc", "qdisc", "replace", "dev", port, "root", rest @ ..] => {
                let kind = match rest {
                    ["handle", _, kind] | [kind] => kind,
                    _ => return Err(format!("`{command}`: a root qdisc with its kind alone, without settings")),
                };
                Ok((Self::Qdisc { port: (*port).to_owned() }, (*kind).to_owned()))
            }
            _ => Err(unknown(command)),
        }
    }

    /// The setting that a file of procfs or sysfs is, by its path without the leading `/`.
    pub fn of_file(path: &str) -> Option<Self> {
        if let Some(path) = path.strip_prefix("proc/sys/") {
            return Some(Self::Sysctl { path: path.to_owned() });
        }
        if let Some(rest) = path.strip_prefix("proc/irq/") {
            let number = rest.strip_suffix("/smp_affinity_list")?.parse().ok()?;
            return Some(Self::Irq { number });
        }
        path.starts_with("sys/").then(|| Self::File { path: path.to_owned() })
    }

    /// The even table over `queues`, as long as the present one.
    ///
    /// # Errors
    /// The reason, as half a sentence.
    pub fn even(&self, queues: u32) -> Result<String, String> {
        let now = self.read().map_err(|error| format!("the driver has no RSS table: {error}"))?;
        if queues == 0 {
            return Err("a table over no queue".into());
        }
        Ok(even_table(now.split_whitespace().count(), queues))
    }
}

/// A table of that many entries, spread evenly over the queues.
pub fn even_table(entries: usize, queues: u32) -> String {
    let queues = queues.max(1) as usize;
    (0..entries).map(|at| (at % queues).to_string()).collect::<Vec<_>>().join(" ")
}

fn unknown(command: &str) -> String {
    format!(
        "`{command}`: write it as an audit does: `sysctl -w NAME=VALUE`, `echo VALUE > /sys/...`, `ethtool -G|-L|-C|-K|-X|-N ...` or `tc qdisc replace dev IF root KIND`"
    )
}

/// As ethtool can say it: the order within a table that is not even is told by no option.
fn table(value: &str) -> String {
    let queues: Vec<usize> = value.split_whitespace().filter_map(|queue| queue.parse().ok()).collect();
    let count = queues.iter().max().map_or(0, |most| most + 1);
    if is_even(value) {
        return format!("equal {count}");
    }
    let weights = (0..count).map(|queue| queues.iter().filter(|entry| **entry == queue).count().to_string());
    format!("weight {}", weights.collect::<Vec<_>>().join(" "))
}

fn qdisc(port: &str, value: &str) -> Vec<String> {
    let kinds: Vec<&str> = value.split_whitespace().collect();
    match kinds.as_slice() {
        ["default", ..] | [] => vec![format!("tc qdisc del dev {port} root")],
        [root, children @ ..] => {
            let root = format!("tc qdisc replace dev {port} root handle 222: {root}");
            let children = (1..).zip(children);
            let children = children.map(|(at, kind)| format!("tc qdisc replace dev {port} parent 222:{at:x} {kind}"));
            std::iter::once(root).chain(children).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_understood() {
        let port = || "eth0".to_owned();
        for (setting, value, command) in [
            (Setting::Sysctl { path: "net/core/rmem_max".into() }, "4194304", "sysctl -w net.core.rmem_max=4194304"),
            (Setting::Sysctl { path: "net/ipv4/udp_mem".into() }, "1 2 3", "sysctl -w 'net.ipv4.udp_mem=1 2 3'"),
            (
                Setting::Sysctl { path: "net/ipv4/conf/eth0.7/rp_filter".into() },
                "0",
                "echo 0 > /proc/sys/net/ipv4/conf/eth0.7/rp_filter",
            ),
            (
                Setting::File { path: "sys/class/net/eth0/gro_flush_timeout".into() },
                "20000",
                "echo 20000 > /sys/class/net/eth0/gro_flush_timeout",
            ),
            (Setting::Irq { number: 38 }, "0-3", "echo 0-3 > /proc/irq/38/smp_affinity_list"),
            (Setting::Parameters { group: Group::Rings, port: port() }, "rx 512", "ethtool -G eth0 rx 512"),
            (Setting::Parameters { group: Group::Channels, port: port() }, "combined 4", "ethtool -L eth0 combined 4"),
            (
                Setting::Parameters { group: Group::Coalesce, port: port() },
                "adaptive-rx off rx-usecs 8",
                "ethtool -C eth0 adaptive-rx off rx-usecs 8",
            ),
            (Setting::Feature { port: port(), name: "rx-gro-hw".into() }, "off", "ethtool -K eth0 rx-gro-hw off"),
            (Setting::FlowHash { port: port(), flow: Flow::Udp6 }, "sdfn", "ethtool -N eth0 rx-flow-hash udp6 sdfn"),
            (Setting::Qdisc { port: port() }, "fq", "tc qdisc replace dev eth0 root handle 222: fq"),
        ] {
            assert_eq!(setting.commands(value), [command]);
            assert_eq!(Setting::parse(command), Ok((setting, value.to_owned())));
        }
    }

    #[test]
    fn tables_and_trees_are_told_as_their_programs_can() {
        let rss = Setting::Rss { port: "eth0".into() };
        assert_eq!(rss.commands(&even_table(128, 4)), ["ethtool -X eth0 equal 4"]);
        assert_eq!(rss.commands("0 0 0 1"), ["ethtool -X eth0 weight 3 1"]);
        let qdisc = Setting::Qdisc { port: "eth0".into() };
        assert_eq!(qdisc.commands("default mq pfifo_fast pfifo_fast"), ["tc qdisc del dev eth0 root"]);
        assert_eq!(
            qdisc.commands("mq fq fq"),
            [
                "tc qdisc replace dev eth0 root handle 222: mq",
                "tc qdisc replace dev eth0 parent 222:1 fq",
                "tc qdisc replace dev eth0 parent 222:2 fq",
            ]
        );
    }

    #[test]
    fn other_commands_are_refused_with_those_that_are_known() {
        for command in [
            "",
            "rm -rf /",
            "echo 1 > /etc/passwd",
            "ethtool -G eth0 rx",
            "ethtool -L eth0 usecs 4",
            "tc qdisc replace dev e root tbf rate 1",
        ] {
            assert!(Setting::parse(command).is_err(), "{command}");
        }
        assert!(Setting::parse("systemctl stop irqbalance").unwrap_err().contains("as an audit does"));
    }
}
