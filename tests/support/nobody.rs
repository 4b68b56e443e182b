//! The command as somebody without rights runs it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Output},
};

/// What `pathlab` says to user and group 65534; root alone can become it.
pub(crate) fn as_nobody(args: &[&str]) -> Output {
    // nobody may not be able to walk to where the program was built
    let folder = tempfile::tempdir().expect("a temporary directory");
    let program = folder.path().join("pathlab");
    fs::copy(env!("CARGO_BIN_EXE_pathlab"), &program).expect("pathlab was built");
    for path in [folder.path(), &program] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    Command::new(&program).args(args).uid(65_534).gid(65_534).output().expect("it runs")
}
