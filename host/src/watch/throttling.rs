//! How long the processes that matter were kept from running by a limit of their control group (`cpu.max`, `cpu.cfs_quota_us`): a tick that comes late
//! though a processor is free.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Serialize;

/// Where a hierarchy that limits processor time is mounted, and of which of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    place: PathBuf,
    root: String,
    /// The one hierarchy of version 2.
    unified: bool,
}

/// Of each limited group, with the processes that are under it, since it was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Throttlings(BTreeMap<String, (Vec<u32>, Counts)>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    periods: u64,
    throttled: u64,
    nanoseconds: u64,
}

/// A control group with a limit, in a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Throttling {
    /// Its folder: the group of a chosen process, or one above it.
    pub cgroup: String,
    /// Those of the chosen processes that are under the limit.
    pub processes: Vec<u32>,
    /// Periods of the limit in which something ran.
    pub periods: u64,
    /// Periods in which the share was used up before their end.
    pub throttled: u64,
    /// Seconds for which the group was kept from running, summed over processors.
    pub seconds: f64,
}

impl Throttlings {
    /// The limited groups above each of `processes`. One that has ended, or a group that this namespace does not see, is left out.
    pub(crate) fn read(processes: &[u32]) -> Self {
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let mut groups = BTreeMap::<String, (Vec<u32>, Counts)>::new();
        for process in processes {
            let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            for folder in mounts.iter().filter_map(|mount| folders(mount, &text)).flatten() {
                let counts = fs::read_to_string(folder.join("cpu.stat")).ok().and_then(|text| counts(&text));
                // a group without a limit has no periods
                if let Some(counts) = counts.filter(|counts| counts.periods > 0) {
                    let group = groups.entry(folder.display().to_string()).or_default();
                    group.0.push(*process);
                    group.1 = counts;
                }
            }
        }
        Self(groups)
    }

    pub(crate) fn since(&self, earlier: &Self) -> Vec<Throttling> {
        let of = |(cgroup, (processes, now)): (&String, &(Vec<u32>, Counts))| {
            let before = earlier.0.get(cgroup).map(|(_, counts)| *counts).unwrap_or_default();
            Throttling {
                cgroup: cgroup.clone(),
                processes: processes.clone(),
                periods: now.periods.saturating_sub(before.periods),
                throttled: now.throttled.saturating_sub(before.throttled),
                seconds: now.nanoseconds.saturating_sub(before.nanoseconds) as f64 / 1e9,
            }
        };
        self.0.iter().map(of).collect()
    }
}

/// Of `/proc/self/mountinfo` (Documentation/filesystems/proc.rst).
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, place) = (head.next()?.to_owned(), PathBuf::from(head.next()?));
        let mut tail = tail.split(' ');
        let unified = match tail.next()? {
            "cgroup2" => true,
            "cgroup" if tail.nth(1)?.split(',').any(|controller| controller == "cpu") => false,
            _ => return None,
        };
        Some(Mount { place, root, unified })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The folders of a process's group, by its `/proc/PID/cgroup`, and of those above, as a limit holds for all below. `None` of a group outside of what
/// is mounted.
fn folders(mount: &Mount, cgroup: &str) -> Option<Vec<PathBuf>> {
    let path = cgroup.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let cpu = controllers.split(',').any(|controller| controller == "cpu");
        (if mount.unified { controllers.is_empty() } else { cpu }).then_some(path)
    })?;
    let path =
        path.strip_prefix(mount.root.trim_end_matches('/')).filter(|path| path.is_empty() || path.starts_with('/'))?;
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.contains(&"..") {
        return None;
    }
    let folder = |length: usize| parts[..length].iter().fold(mount.place.clone(), |folder, part| folder.join(part));
    Some((0..=parts.len()).map(folder).collect())
}

/// Of `cpu.stat`: version 1 tells nanoseconds as `throttled_time`, version 2 microseconds as `throttled_usec`.
fn counts(text: &str) -> Option<Counts> {
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name)?.1.trim().parse::<u64>().ok()
    };
    let nanoseconds = field("throttled_time").or_else(|| field("throttled_usec")?.checked_mul(1_000))?;
    Some(Counts { periods: field("nr_periods")?, throttled: field("nr_throttled")?, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let mountinfo = "29 23 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            30 23 0:27 /docker/7 /sys/fs/cgroup/two rw - cgroup2 cgroup rw\n\
            31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            32 23 0:29 / /proc rw - proc proc rw\n";
        let found = mounts(mountinfo);
        let cgroup = "3:cpu,cpuacct:/game/server\n2:memory:/m\n0::/docker/7/app\n";
        let told: Vec<String> = found
            .iter()
            .flat_map(|mount| folders(mount, cgroup).expect("there"))
            .map(|folder| folder.display().to_string())
            .collect();
        let wanted = [
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpu/game",
            "/sys/fs/cgroup/cpu/game/server",
            "/sys/fs/cgroup/two",
            "/sys/fs/cgroup/two/app",
        ];
        assert_eq!(told, wanted);
        assert_eq!(folders(&found[0], "3:cpu:/../elsewhere\n"), None);
        assert_eq!(folders(&found[1], "0::/docker/77\n"), None);
    }

    #[test]
    fn both_versions_tell_the_same() {
        let one = counts("nr_periods 10\nnr_throttled 4\nthrottled_time 7000000\nnr_bursts 0\n");
        let two = counts("usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 7000\n");
        assert_eq!(one, Some(Counts { periods: 10, throttled: 4, nanoseconds: 7_000_000 }));
        assert_eq!(one, two);
        // the root of version 2
        assert_eq!(counts("usage_usec 5\nuser_usec 4\n"), None);
        let of = |counts| Throttlings([("/g".to_owned(), (vec![7], counts))].into());
        let now = of(Counts { periods: 30, throttled: 9, nanoseconds: 57_000_000 });
        let told = &now.since(&of(one.unwrap()))[0];
        assert_eq!((told.periods, told.throttled, told.seconds, &told.processes), (20, 5, 0.05, &vec![7]));
    }
}
