//! What the running kernel has, for tests whose answer depends on it.

use std::process::Command;

/// Whether the kernel's description of itself (BTF) has this name.
pub(crate) fn knows(name: &str) -> bool {
    let grep = Command::new("grep").args(["-qaF", name, "/sys/kernel/btf/vmlinux"]).status();
    grep.expect("grep(1)").success()
}
