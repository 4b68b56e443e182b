//! Settings that are files of procfs and sysfs: what they hold, what means the same, and who may write them.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::Setting;

/// What tuning is about. A plan may come from a file, and is carried out by root: it writes nothing else.
const FOLDERS: [&str; 3] = ["sys/class/net/", "sys/devices/system/cpu/", "sys/devices/system/clocksource/"];
const SYSCTLS: [&str; 5] =
    ["net/", "vm/stat_interval", "kernel/numa_balancing", "kernel/timer_migration", "kernel/nmi_watchdog"];

/// The value without the white space around it.
pub(super) fn read(file: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(file)?.trim().to_owned())
}

/// One write(2) into what exists: these files take a value whole or not at all.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

pub(super) fn check(setting: &Setting, file: &Path) -> Result<(), String> {
    let ours = match setting {
        Setting::Sysctl { path } => SYSCTLS.iter().any(|known| path.starts_with(known)),
        Setting::File { path } => FOLDERS.iter().any(|folder| path.starts_with(folder)),
        _ => true,
    };
    if !ours || file.components().any(|part| part.as_os_str() == "..") {
        return Err(format!(
            "{}: not among what is tuned here ({}; sysctl {})",
            file.display(),
            FOLDERS.join(", "),
            SYSCTLS.join(", ")
        ));
    }
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.exists() && name.starts_with("xps_") => {
            return Err("one transmit queue: XPS has no effect, and the kernel has no such mask".into());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("{}: not there, in this network namespace at least", file.display()));
        }
        Err(error) => return Err(format!("{}: cannot be read: {error}", file.display())),
        Ok(_) => {}
    }
    // The mode and not access(2): of parameters that this namespace may only read, the kernel takes the bit away, and so it does of
    // interrupts that it manages itself (kernel/irq/proc.c, register_irq_proc).
    let writable = fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0);
    match setting {
        _ if writable => Ok(()),
        Setting::Irq { .. } => Err(super::MANAGED.into()),
        _ => Err(format!("{}: read-only here", file.display())),
    }
}

/// A value in a form in which two that mean the same are the same text: masks without leading zeros, lists as sets, numbers without signs of
/// how they were written.
pub(super) fn canonical(path: &str, value: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.ends_with("_list") {
        return list(value).map_or_else(|| value.trim().to_owned(), |set| format!("{set:?}"));
    }
    if matches!(name, "rps_cpus" | "xps_cpus" | "xps_rxqs" | "smp_affinity") {
        let digits: String = value.trim().chars().filter(|digit| *digit != ',').collect();
        return digits.trim_start_matches('0').to_ascii_lowercase();
    }
    let words =
        value.split_whitespace().map(|word| word.parse::<i128>().map_or_else(|_| word.to_owned(), |n| n.to_string()));
    words.collect::<Vec<_>>().join(" ")
}

/// A list of CPUs such as `0-3,8`.
fn list(text: &str) -> Option<BTreeSet<u16>> {
    let mut set = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        set.extend(first.trim().parse::<u16>().ok()?..=last.trim().parse().ok()?);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_mean_the_same_are_the_same() {
        for (path, one, other) in [
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "3", "00000000,00000003"),
            ("x/smp_affinity_list", "0,1,2,5", "0-2,5"),
            ("net/ipv4/udp_mem", "1 2 3", "1\t2\t3"),
            ("x/gro_flush_timeout", "020", "20"),
            ("x/scaling_governor", "performance", "performance\n"),
        ] {
            assert_eq!(canonical(path, one), canonical(path, other), "{path}");
        }
        for (path, one, other) in [
            ("x/rps_cpus", "1,00000000", "1"),
            ("x/smp_affinity_list", "0-1", "0"),
            ("x/gro_flush_timeout", "20", "21"),
        ] {
            assert_ne!(canonical(path, one), canonical(path, other), "{path}");
        }
    }

    #[test]
    fn what_has_nothing_to_do_with_tuning_is_refused() {
        for setting in [
            Setting::Sysctl { path: "kernel/core_pattern".into() },
            Setting::Sysctl { path: "net/../kernel/core_pattern".into() },
            Setting::File { path: "etc/passwd".into() },
            Setting::File { path: "sys/class/net/../../power/state".into() },
            Setting::File { path: "sys/power/state".into() },
        ] {
            let reason = setting.check("x").expect_err("refused");
            assert!(reason.contains("not among what is tuned"), "{reason}");
        }
    }

    #[test]
    fn what_is_not_there_or_read_only_says_so() {
        let none = Setting::Sysctl { path: "net/ipv4/no_such_parameter".into() };
        assert!(none.check("1").expect_err("refused").contains("not there"));
        let index = Setting::File { path: "sys/class/net/lo/ifindex".into() };
        assert!(index.check("1").expect_err("refused").contains("read-only"));
    }
}
