//! Notices ptp4l at work on a port, because it owns the setting of what the card stamps there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// A ptp4l at work on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ptp4l {
    /// Its process id.
    pub pid: u32,
}

/// The one that works on `interface` in the caller's network namespace, by its options (`-i IF`) or its configuration (`-f FILE`, a section
/// `[IF]`). What may not be read of another user's process is taken for not there.
pub fn on(interface: &str) -> Option<Ptp4l> {
    on_below(Path::new("/proc"), interface)
}

fn on_below(proc: &Path, interface: &str) -> Option<Ptp4l> {
    let ours = fs::read_link(proc.join("thread-self/ns/net")).ok();
    let ids = fs::read_dir(proc).into_iter().flatten().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(|pid| Ptp4l { pid }).find(|Ptp4l { pid }| {
        let directory = proc.join(pid.to_string());
        let theirs = fs::read_link(directory.join("ns/net")).ok();
        let elsewhere = ours.is_some() && theirs.is_some() && ours != theirs;
        !elsewhere && works_on(&directory, interface)
    })
}

fn works_on(directory: &Path, interface: &str) -> bool {
    let Ok(line) = fs::read(directory.join("cmdline")) else { return false };
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_terminator('\0');
    if words.next().and_then(|program| Path::new(program).file_name()).is_none_or(|name| name != "ptp4l") {
        return false;
    }
    let mut configuration = None;
    while let Some(word) = words.next() {
        let value = |words: &mut dyn Iterator<Item = &str>, short: &str| match word.strip_prefix(short) {
            Some("") => words.next().map(str::to_owned),
            other => other.map(str::to_owned),
        };
        if value(&mut words, "-i").is_some_and(|name| name == interface) {
            return true;
        }
        if let Some(file) = value(&mut words, "-f") {
            configuration = Some(PathBuf::from(file));
        }
    }
    let Some(file) = configuration else { return false };
    // As the process sees it: it may have a root of its own.
    let file = match file.strip_prefix("/") {
        Ok(below) => directory.join("root").join(below),
        Err(_) => directory.join("cwd").join(file),
    };
    let section = format!("[{interface}]");
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line.trim() == section))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, words: &[&str]) -> PathBuf {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(directory.join("root/etc")).expect("a directory");
        fs::write(directory.join("cmdline"), words.iter().map(|word| format!("{word}\0")).collect::<String>())
            .expect("a file");
        directory
    }

    #[test]
    fn it_is_known_by_its_options_and_by_its_configuration() {
        let proc = tempfile::tempdir().expect("a directory");
        let proc = proc.path();
        process(proc, 10, &["/usr/bin/vim", "-i", "eth0"]);
        process(proc, 11, &["/usr/sbin/ptp4l", "-m", "-i", "eth1"]);
        process(proc, 12, &["ptp4l", "-ieth2", "-2"]);
        let configured = process(proc, 13, &["ptp4l", "-f", "/etc/ptp4l.conf"]);
        fs::write(configured.join("root/etc/ptp4l.conf"), "[global]\nslaveOnly 1\n[eth3]\n# [eth4]\n").expect("a file");
        let found = |interface| on_below(proc, interface).map(|daemon| daemon.pid);
        assert_eq!(
            ["eth0", "eth1", "eth2", "eth3", "eth4", "global0"].map(found),
            [None, Some(11), Some(12), Some(13), None, None]
        );
    }

    #[test]
    fn there_is_none_on_loopback() {
        assert_eq!(on("lo"), None);
    }
}
