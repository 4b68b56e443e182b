//! Runs the built command where only its own traces count: namespaces, processes and `/run` of a test are its own.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use pathlab_guard::privilege::root_or_skip;

const MARK: &str = "PATHLAB_TEST_ISOLATED";

/// For the head of a privileged test called `name`: `true` inside the isolation. Outside, it runs the test again inside, fails when that
/// fails, and says `false`.
///
/// The process namespace ends with its first process, and takes everything else along: a test that panics leaves nothing.
pub(crate) fn isolated(name: &str) -> bool {
    if is_isolated() {
        return true;
    }
    if !root_or_skip(name) {
        return false;
    }
    let inside = "mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["sh", "-c", inside, "sh"])
        .arg(env::current_exe().expect("a running program"))
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(MARK, "1")
        .env("PATHLAB_UNDO_DIR", "/run/pathlab/undo")
        .stdout(Stdio::null())
        .status()
        .expect("unshare(1) of util-linux");
    assert!(status.success(), "{name} failed inside its isolation, see above");
    false
}

/// Whether what this machine shows is the test's own doing.
pub(crate) fn is_isolated() -> bool {
    env::var_os(MARK).is_some()
}

/// The built command in a directory.
pub(crate) fn pathlab(directory: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    command.args(args.split_whitespace()).current_dir(directory).stdin(Stdio::null());
    command
}

/// Everything that a verb could leave on this host, as its own tools show it.
pub(crate) fn host() -> String {
    let questions = [
        "nft list ruleset",
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip netns list",
        "ip -o link",
    ];
    let mut state = String::new();
    for question in questions {
        let mut words = question.split(' ');
        let output =
            Command::new(words.next().unwrap_or_default()).args(words).output().expect("nftables and iproute2");
        let _ = writeln!(state, "$ {question}\n{}", String::from_utf8_lossy(&output.stdout));
    }
    let _ = writeln!(state, "processes: {:#?}", processes());
    let _ = writeln!(state, "/run: {:#?}", files(Path::new("/run")).into_keys());
    state
}

/// Command lines of the processes beside this one. A zombie is none.
fn processes() -> BTreeMap<u32, String> {
    let ids = fs::read_dir("/proc").expect("/proc").flatten();
    ids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // A zombie has no command line any more.
        (pid != std::process::id() && !line.is_empty()).then_some((pid, line))
    })
    .collect()
}

/// The files below a directory with their contents, sockets among them; a directory by itself is none.
pub(crate) fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.append(&mut files(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}
