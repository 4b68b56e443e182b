//! The `pathlab` command: one file per verb; what they measure lives in the crates that they call.

#[macro_use]
mod output;

mod canary;
mod demo;
mod doctor;
mod duration;
mod evidence;
mod exit;
mod guardian;
mod host;
mod import;
mod lab;
mod live;
mod manual;
mod paired;
mod probe;
mod progress;
mod readiness;
mod reflect;
mod report;
mod run_directory;
mod served;
mod stage;
mod stop;
mod timestamps;
mod trace;

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Is it the wire or the host? Is the other transit better? Can I prove it?
#[derive(Parser)]
#[command(version, disable_help_subcommand = true, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    global: Global,
}

/// What every verb takes.
#[derive(clap::Args, Clone)]
struct Global {
    /// One JSON document on stdout instead of text
    #[arg(long, global = true, display_order = 1000)]
    json: bool,
    /// More on stderr; twice for still more
    #[arg(short, long, global = true, display_order = 1000, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Verb {
    Doctor(doctor::Doctor),
    Reflect(Box<reflect::Reflect>),
    Probe(Box<probe::Probe>),
    Trace(trace::Trace),
    Canary(canary::CanaryArgs),
    Lab(lab::LabArgs),
    Host(host::HostArgs),
    Import(import::ImportArgs),
    Report(report::command::ReportArgs),
    Evidence(evidence::EvidenceArgs),
    Demo(demo::Demo),
    #[command(hide = true)]
    Manual(manual::ManualArgs),
    #[command(hide = true, name = guardian::VERB)]
    Guardian(guardian::GuardianArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    // The demo tells its story by itself, and so does the doctor.
    let least = usize::from(!matches!(cli.verb, Verb::Demo(_) | Verb::Doctor(_)));
    let level = ["warn", "info", "debug", "trace"][(least + usize::from(cli.global.verbose)).min(3)];
    // https://no-color.org: set to anything but nothing.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("PATHLAB_LOG").unwrap_or_else(|_| EnvFilter::new(level)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .without_time()
        .with_target(false)
        .init();
    let global = &cli.global;
    let outcome = match cli.verb {
        Verb::Doctor(args) => doctor::run(&args, global),
        Verb::Reflect(args) => reflect::run(*args, global),
        Verb::Probe(args) => probe::run(*args, global),
        Verb::Trace(args) => trace::run(&args, global),
        Verb::Canary(args) => canary::run(args, global),
        Verb::Lab(args) => lab::run(args, global),
        Verb::Host(args) => host::run(args, global),
        Verb::Import(args) => import::run(args, global),
        Verb::Report(args) => report::command::run(&args, global),
        Verb::Evidence(args) => evidence::run(&args, global),
        Verb::Demo(args) => demo::run(&args, global),
        Verb::Manual(args) => manual::run(&args),
        Verb::Guardian(args) => guardian::run(&args),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error),
    }
}
