//! The provider pack touches nothing: every system call of it that names a file or speaks netlink is looked at, and what it collected is audited here.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use pathlab_guard::privilege::skip;
use serde_json::Value;

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;

const PACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/provider-pack");
/// Questions of ethtool; its other options change something.
const READS: [&str; 8] = ["-S", "-i", "-g", "-l", "-c", "-k", "-x", "-n"];
/// Messages of the kernel's ethtool family that ask (linux/ethtool_netlink.h): strings, rings, channels, coalescing, features, RSS.
const ASKS: [u8; 6] = [1, 15, 17, 19, 11, 38];

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().expect("sh").success(), "{script}");
}

fn audit(place: &Path, args: &str) -> Value {
    let output = isolation::pathlab(place, args).output().expect("pathlab was built");
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn it_writes_below_its_folder_alone_sets_nothing_and_is_audited_as_the_host_itself() {
    let name = "it_writes_below_its_folder_alone_sets_nothing_and_is_audited_as_the_host_itself";
    if !isolation::isolated(name) {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(name, "needs strace: apt-get install strace");
    }
    let place = tempfile::tempdir().unwrap();
    sh(
        "mount -t sysfs none /sys && ip link add pack0 type veth peer name pack1 && ip link set pack0 up && ip link set pack1 up",
    );
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "64", "-o", "trace", "-e", "trace=%file,sendto,sendmsg"])
        .args(["sh", PACK, "pack", "pack0"])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = fs::read_to_string(place.path().join("trace")).unwrap();
    let folder = place.path().join("pack");
    // mkdir -p walks down by chdir and makes what is relative to that.
    let mut walked: HashMap<&str, PathBuf> = HashMap::new();
    let mut written = 0;
    let mut asked = 0;
    for line in trace.lines().filter(|line| !line.contains(" = -1 ")) {
        let process = line.split_whitespace().next().unwrap_or_default();
        let named = || line.split('"').nth(1).unwrap_or_default();
        let call = line.split_whitespace().nth(1).unwrap_or_default().split('(').next().unwrap_or_default();
        match call {
            "openat" | "open" | "creat"
                if !["O_WRONLY", "O_RDWR", "O_CREAT", "creat("].iter().any(|flag| line.contains(flag)) => {}
            "openat" | "open" | "creat" | "mkdirat" | "unlink" | "unlinkat" | "rename" | "renameat2" | "link"
            | "symlink" | "rmdir" | "chmod" | "fchmodat" | "chown" | "utimensat" | "truncate" => {
                written += 1;
                let below = format!("{}/", folder.display());
                assert!(
                    line.contains(&below)
                        || line.contains(&format!("<{}>", folder.display()))
                        || named() == "/dev/null",
                    "{line}"
                );
            }
            "chdir" => {
                let from = walked.get(process).cloned().unwrap_or_else(|| place.path().to_owned());
                walked.insert(process, from.join(named()));
            }
            "mkdir" => {
                written += 1;
                let made = walked.get(process).map_or_else(|| place.path().to_owned(), PathBuf::clone).join(named());
                assert!(made.starts_with(&folder), "{line}: {}", made.display());
            }
            "sendto" | "sendmsg" => {
                asked += 1;
                let kind = line.split("nlmsg_type=").nth(1).unwrap_or_default().split(',').next().unwrap_or_default();
                let command = || {
                    let octets = line.split(", \"\\x").nth(1).unwrap_or_default();
                    u8::from_str_radix(octets.get(..2).unwrap_or_default(), 16).unwrap_or_default()
                };
                let reads = kind.starts_with("RTM_GET")
                    || kind.starts_with("SOCK_DIAG")
                    || (kind == "nlctrl" && command() == 3)
                    || ASKS.contains(&command());
                assert!(reads, "{line}");
            }
            "execve" if line.contains("/ethtool\"") => {
                let option =
                    line.split("[\"ethtool\", \"").nth(1).unwrap_or_default().split('"').next().unwrap_or_default();
                assert!(READS.contains(&option), "{line}");
            }
            _ => {}
        }
    }
    assert!(written > 50 && asked > 5, "{written} written, {asked} asked: strace saw the pack");
    let pack = place.path().join("pack");
    let sums = Command::new("sha256sum").args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&pack).status();
    assert!(sums.unwrap().success());
    // By its own rules, what was packed and the host itself are the same; an answer that the pack does not collect says so.
    let [packed, live] = ["host audit --root pack --json", "host audit --iface pack0 --json"]
        .map(|args| audit(place.path(), args)["entries"].as_array().cloned().unwrap_or_default());
    assert_eq!(packed.len(), live.len());
    for (packed, live) in packed.iter().zip(&live) {
        assert_eq!((&packed["rule"], &packed["subject"]), (&live["rule"], &live["subject"]));
        let uncollected = packed["because"].as_str().is_some_and(|why| why.contains("not collected by the pack"));
        assert!(packed["state"] == live["state"] || uncollected, "packed {packed:#}\nlive {live:#}");
    }
    // It never goes over what is there.
    let again = Command::new("sh").args([PACK, "pack", "pack0"]).current_dir(place.path()).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
}

#[test]
fn without_privilege_it_collects_what_it_can_read() {
    let name = "without_privilege_it_collects_what_it_can_read";
    if !isolation::isolated(name) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    sh(
        "mount -t sysfs none /sys && ip link add pack0 type veth peer name pack1 && ip link set pack0 up && ip link set pack1 up",
    );
    sh(&format!(
        "cp {PACK} {0}/pack.sh && chmod 755 {0} && chmod 644 {0}/pack.sh && mkdir -m 777 {0}/home",
        place.path().display()
    ));
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "../pack.sh", "pack", "pack0"])
        .current_dir(place.path().join("home"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries =
        audit(&place.path().join("home"), "host audit --root pack --json")["entries"].as_array().cloned().unwrap();
    let of = |state: &str| entries.iter().filter(|entry| entry["state"] == state).count();
    assert!(of("ok") + of("finding") >= 8, "{entries:#?}");
}
