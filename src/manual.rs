//! `pathlab manual`, for who packages it: man pages and shell completions of every verb, made from the command line's own definition.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, exit::Exit};

/// Write man pages and shell completions
#[derive(Args)]
pub(crate) struct ManualArgs {
    /// Folder, made where it is not there: `man1/` and `completions/` go into it
    folder: PathBuf,
}

/// Writes them.
pub(crate) fn run(args: &ManualArgs) -> Result<Exit> {
    let (man, completions) = (args.folder.join("man1"), args.folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    // Verbs that are hidden have no page.
    clap_mangen::generate_to(Cli::command(), &man).with_context(|| man.display().to_string())?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "pathlab", &completions)
            .with_context(|| completions.display().to_string())?;
    }
    outln!("{}: man pages and completions of pathlab {}", args.folder.display(), env!("CARGO_PKG_VERSION"));
    Ok(Exit::Done)
}
