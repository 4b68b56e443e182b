//! Where packets can be lost between two programs on this host, and who held the processors meanwhile: so that a loss is laid at the right door,
//! the reflector's, the generator's or the hypervisor's. It explains; nothing is forgiven for it.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use anyhow::{Context, Result};

use crate::wire::{CLIENT_CPU, INTERFACE, REFLECTOR_CPU, Wire};

/// A tick of `/proc/stat` (USER_HZ is 100 on every architecture of Linux that Rust's std knows).
const TICK: Duration = Duration::from_millis(10);

/// Counters of this host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time that the hypervisor gave to others: of the client's CPU, of the reflector's, in ticks.
    stolen: [u64; 2],
    /// For how long threads of the reflector were ready to run, and did not: [`held`].
    held: u64,
    /// Drops by the place that counts them.
    drops: BTreeMap<String, u64>,
}

/// What happened between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Stolen from the client's CPU, from the reflector's.
    pub stolen: [Duration; 2],
    /// How long threads of the reflector waited for their CPU, all together.
    pub held: Duration,
    /// Packets dropped, by place; places without a drop are left out.
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Looks now; `reflector` is its process.
    ///
    /// # Errors
    /// No `/proc`, or the reflector has ended.
    pub fn now(wire: &Wire, reflector: u32) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let mut drops = BTreeMap::new();
        for (end, namespace) in [("reflector", &wire.near), ("client", &wire.far)] {
            let (snmp, devices) = namespace.run(|| -> Result<_> {
                Ok((
                    fs::read_to_string("/proc/thread-self/net/snmp")?,
                    fs::read_to_string("/proc/thread-self/net/dev")?,
                ))
            })??;
            for (place, count) in udp_errors(&snmp).into_iter().chain(device_drops(&devices)) {
                drops.insert(format!("{end}'s {place}"), count);
            }
        }
        let softnet = fs::read_to_string("/proc/net/softnet_stat")?;
        drops.insert("backlog of this host's CPUs".into(), softnet.lines().filter_map(backlog_drops).sum());
        Ok(Self {
            stolen: [CLIENT_CPU, REFLECTOR_CPU].map(|cpu| stolen(&stat, cpu).unwrap_or_default()),
            held: held(reflector)?,
            drops,
        })
    }

    /// What has happened since `earlier`.
    pub fn since(&self, earlier: &Self) -> Whereabouts {
        let ticks =
            |cpu: usize| TICK * u32::try_from(self.stolen[cpu].saturating_sub(earlier.stolen[cpu])).unwrap_or(u32::MAX);
        let new = |(place, now): (&String, &u64)| {
            let more = now.saturating_sub(earlier.drops.get(place).copied().unwrap_or_default());
            (more > 0).then(|| (place.clone(), more))
        };
        Whereabouts {
            stolen: [ticks(0), ticks(1)],
            held: Duration::from_nanos(self.held.saturating_sub(earlier.held)),
            drops: self.drops.iter().filter_map(new).collect(),
        }
    }
}

impl Whereabouts {
    /// Adds what the reflector's own account says: losses of its rings by queue, and what the kernel dropped before it.
    pub fn with_account(mut self, account: &serde_json::Value) -> Self {
        let mut add = |place: String, count: Option<u64>| {
            if let Some(count @ 1..) = count {
                self.drops.insert(place, count);
            }
        };
        add("reflector's kernel drops, by its account".into(), account["kernel_drops"].as_u64());
        for queue in account["queues"].as_array().into_iter().flatten() {
            for counter in ["rx_ring_full", "rx_fill_ring_empty", "rx_dropped", "invalid_descriptors", "strays"] {
                add(format!("{counter} of queue {}", queue["queue"]), queue[counter].as_u64());
            }
        }
        for reason in ["send_failed", "sessions_full", "rate_limited"] {
            add(format!("reflector's {reason}"), account["refused"][reason].as_u64());
        }
        self
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client, reflector] = self.stolen.map(|stolen| stolen.as_millis());
        write!(
            f,
            "stolen by the hypervisor: {reflector} ms of the reflector's CPU, {client} ms of the client's; the reflector waited {:.1} ms for its CPU; dropped: ",
            self.held.as_secs_f64() * 1e3
        )?;
        if self.drops.is_empty() {
            return f.write_str("nowhere that counts");
        }
        let places: Vec<String> = self.drops.iter().map(|(place, count)| format!("{place} {count}")).collect();
        f.write_str(&places.join(", "))
    }
}

/// `steal` of one CPU in `/proc/stat`, in ticks.
fn stolen(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(name.as_str()))?;
    line.split_ascii_whitespace().nth(8)?.parse().ok()
}

/// How long the threads of a process have been ready to run and did not, in nanoseconds: the second word of each `schedstat`.
fn held(process: u32) -> Result<u64> {
    let folder = format!("/proc/{process}/task");
    let mut sum = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("{folder}: the reflector has ended"))? {
        // a thread may end between the two
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        sum += text.split_ascii_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(sum)
}

/// What UDP of one namespace dropped: `/proc/net/snmp` has a line of names and a line of values.
fn udp_errors(snmp: &str) -> Vec<(String, u64)> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Vec::new() };
    let wanted = ["InErrors", "RcvbufErrors", "SndbufErrors", "InCsumErrors", "MemErrors"];
    let pairs = names.split(' ').zip(values.split(' '));
    let mine = pairs.filter(|(name, _)| wanted.contains(name));
    mine.filter_map(|(name, value)| Some((format!("UDP {name}"), value.parse().ok()?))).collect()
}

/// What the wire's end in one namespace dropped, out of `/proc/net/dev`.
fn device_drops(devices: &str) -> Vec<(String, u64)> {
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(INTERFACE)?.strip_prefix(':'));
    let words: Vec<u64> =
        line.unwrap_or_default().split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    // receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets errs drop
    [("rx_dropped", 3), ("tx_dropped", 11)]
        .into_iter()
        .filter_map(|(name, at)| Some((format!("{INTERFACE} {name}"), *words.get(at)?)))
        .collect()
}

/// The second word of a line of `/proc/net/softnet_stat`, in hexadecimal.
fn backlog_drops(line: &str) -> Option<u64> {
    u64::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 88 9 0\ncpu0 1 2 3 4 5 6 7 41 9 0\ncpu1 1 2 3 4 5 6 7 47 9 0\ncpu10 0 0 0 0 0 0 0 5 0 0\n";
        assert_eq!([0, 1, 10, 2].map(|cpu| stolen(stat, cpu)), [Some(41), Some(47), Some(5), None]);
        let snmp = "Ip: A B\nIp: 1 2\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 9 8 7 6 5\n";
        assert_eq!(udp_errors(snmp), [("UDP InErrors".to_owned(), 7), ("UDP RcvbufErrors".to_owned(), 5)]);
        let devices =
            "Inter-|\n face |\n    lo: 1 1 0 9 0 0 0 0 1 1 0 9 0 0 0 0\n wire0: 10 11 0 3 0 0 0 0 20 21 0 4 0 0 0 0\n";
        assert_eq!(device_drops(devices), [("wire0 rx_dropped".to_owned(), 3), ("wire0 tx_dropped".to_owned(), 4)]);
        assert_eq!(backlog_drops("0000ab 0000000a 00000000"), Some(10));
        assert!(udp_errors("").is_empty() && device_drops("").is_empty());
        assert!(held(std::process::id()).is_ok());
    }

    #[test]
    fn only_what_is_new_is_told_and_the_account_joins_it() {
        let at = |stolen, held, udp| Counters {
            stolen,
            held,
            drops: BTreeMap::from([("client's UDP InErrors".into(), udp)]),
        };
        let quiet = at([5, 6], 1_000, 3).since(&at([5, 6], 1_000, 3));
        assert_eq!(quiet, Whereabouts::default());
        assert!(quiet.to_string().ends_with("nowhere that counts"), "{quiet}");
        let account = serde_json::json!({"kernel_drops":11,"refused":{"send_failed":0},"queues":[{"queue":0,"rx_ring_full":11,"rx_dropped":0}]});
        let told = at([5, 9], 2_501_000, 4).since(&at([5, 6], 1_000, 3)).with_account(&account).to_string();
        assert_eq!(
            told,
            "stolen by the hypervisor: 30 ms of the reflector's CPU, 0 ms of the client's; the reflector waited 2.5 ms for its CPU; dropped: \
             client's UDP InErrors 1, reflector's kernel drops, by its account 11, rx_ring_full of queue 0 11"
        );
    }
}
