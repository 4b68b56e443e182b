//! Real-time priority for what keeps time in a test, so that a busy machine does not pass for a slow stage.

use std::{process::Command, sync::LazyLock};

use pathlab_netlab::netns::Namespace;

/// Above every process that did not ask for real time, whatever the number.
pub(crate) const PRIORITY: &str = "10";

/// Whether this kernel gives it; a container may not.
pub(crate) static ALLOWED: LazyLock<bool> = LazyLock::new(|| {
    let allowed =
        Command::new("chrt").args(["--fifo", PRIORITY, "true"]).output().is_ok_and(|tried| tried.status.success());
    if !allowed {
        eprintln!("no real-time priority here: figures are those of a shared processor");
    }
    allowed
});

/// `program` on `host`, ahead of what else the machine does.
pub(crate) fn command(host: &Namespace, program: &str) -> Command {
    let (first, rest) = if *ALLOWED { ("chrt", &["--fifo", PRIORITY, program][..]) } else { (program, &[][..]) };
    let mut command = host.command(first).expect("a descriptor");
    command.args(rest);
    command
}
