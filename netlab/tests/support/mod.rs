//! Runs a test in a mount and network namespace of its own, so that other tests' namespaces do not show in its comparisons.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use pathlab_guard::privilege::root_or_skip;

const MARK: &str = "PATHLAB_TEST_ISOLATED";
const HELPER: &str = "PATHLAB_TEST_HELPER";

/// For the head of a test called `name`: `true` inside the isolation. Outside, it runs the test again inside, fails when that fails, and says `false`.
pub(crate) fn isolated(name: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    if !root_or_skip(name) {
        return false;
    }
    let undo = tempfile::tempdir().expect("temporary directory");
    // A private /run/netns, journals of its own, and a loopback that is up.
    let script = "mkdir -p /run/netns && mount -t tmpfs none /run/netns && ip link set lo up && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(this_binary())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .env("PATHLAB_UNDO_DIR", undo.path())
        .output()
        .expect("unshare(1) of util-linux");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    eprintln!("{text}");
    assert!(output.status.success(), "{name} failed inside its isolation, see above");
    false
}

/// The test `helper` of this binary as a process of its own; it finds `argument` by [`helper_argument`].
pub(crate) fn helper(helper: &str, argument: &str) -> Command {
    let mut command = Command::new(this_binary());
    command
        .args(["--exact", helper, "--ignored", "--nocapture"])
        .env(HELPER, argument)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    command
}

/// The argument of a helper.
pub(crate) fn helper_argument() -> String {
    env::var(HELPER).expect("started by helper()")
}

/// What `ip` shows of namespaces, links, rules and routes.
pub(crate) fn host_state() -> String {
    let questions = [
        "netns list",
        "-details link",
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "-details address",
    ];
    questions
        .map(|question| {
            let output = Command::new("ip").args(question.split(' ')).output().expect("ip of iproute2");
            format!("ip {question}\n{}", String::from_utf8_lossy(&output.stdout))
        })
        .concat()
}

/// Waits until `done`, and fails after ten seconds.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn this_binary() -> PathBuf {
    env::current_exe().expect("known")
}
