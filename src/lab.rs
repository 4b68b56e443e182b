//! `pathlab lab`: networks in namespaces, from scenario files.

mod compare;
mod played;
mod real;
mod reflecting;
mod ring;

use std::{ffi::OsStr, os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use pathlab_canary::Share;
use pathlab_netlab::{
    Error,
    engine::kernel::Player,
    lab::{self, Lab},
    scenario::Scenario,
    truth::Truth,
};
use pathlab_record::Run;
use played::Play;
pub(crate) use played::Played;
use serde_json::json;
use tracing::warn;

use crate::{
    Global,
    exit::{Exit, Misuse},
    guardian, host, output, report, run_directory,
};

/// Play networks in namespaces from a scenario file
#[derive(Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The scenarios that come with pathlab, and the labs that are up
    List,
    /// Draw a scenario's topology
    Show(Which),
    /// Play a scenario from its first to its last window, say what its sessions saw, and check what it expects; exits with 1 where that does not hold
    Run {
        #[command(flatten)]
        which: Which,
        /// Seed of what the scenario leaves to chance
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
        /// How to play it; all but virtual need root and take the scenario's own time
        #[arg(long, value_enum, default_value_t = Engine::Virtual)]
        engine: Engine,
        /// Share of the sessions whose replies take the canary arm, where the scenario has one
        #[arg(long, value_name = "SHARE")]
        share: Option<Share>,
        /// Run directory to write: truth.json with each fault as it was, lab.json with the results, outcome.txt with every packet; it must not exist or
        /// be empty [default: ./runs/<UTC time>-lab]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Play two settings of a scenario by turns, and tell the median of the differences with its interval
    Compare(compare::CompareArgs),
    /// Loss against delay of a burst over the sizes of a receive ring, and which to set
    Ring(ring::RingArgs),
    /// Bring a scenario up; it stays until `lab down`
    Up {
        #[command(flatten)]
        which: Which,
        /// Name of the lab; its namespaces are called <name>-<node>
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Seed of what the scenario leaves to chance
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Take a lab down
    Down {
        /// Name of the lab
        #[arg(value_name = "NAME", required_unless_present = "all")]
        name: Option<String>,
        /// Every lab, the leftovers of killed ones among them
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Run a command inside a node of a lab
    Exec {
        /// Name of the lab
        name: String,
        /// Node of its scenario
        node: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// Discrete events without a packet: the same figures on every machine, and no privilege
    Virtual,
    /// Real packets: each link by the kernel's qdiscs where it has them, else by the wire engine
    Auto,
    /// Real packets, and every link that does anything to them by our own router in user space
    Wire,
    /// Real packets, by the kernel's qdiscs or not at all
    Kernel,
}

impl Engine {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Who plays the links of a lab; `None` where there is no lab.
    fn player(self) -> Option<Player> {
        match self {
            Self::Virtual => None,
            Self::Auto => Some(Player::Auto),
            Self::Wire => Some(Player::Wire),
            Self::Kernel => Some(Player::Kernel),
        }
    }
}

#[derive(Args)]
struct Which {
    /// A scenario that comes with pathlab, or a file
    scenario: String,
    /// Variant of the scenario
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
}

impl Which {
    fn load(&self) -> Result<Scenario> {
        Scenario::load(&self.scenario, self.variant.as_deref()).map_err(Misuse::of)
    }
}

/// Runs one action.
pub(crate) fn run(args: LabArgs, global: &Global) -> Result<Exit> {
    match args.action {
        Action::List => list(global)?,
        Action::Show(which) => {
            let scenario = which.load()?;
            if global.json {
                output::json("lab", &json!({ "scenario": scenario.name, "topology": scenario.show() }))?;
            } else {
                out!("{}", scenario.show());
            }
        }
        Action::Run { which, seed, engine, share, out } => {
            let scenario = which.load()?;
            let seed = seed.unwrap_or(scenario.seed);
            return play(&Play { scenario: &scenario, seed, share, reflecting: None }, engine, out, global);
        }
        Action::Compare(args) => return compare::run(&args, global),
        Action::Ring(args) => return ring::run(&args, global),
        Action::Up { which, name, seed } => {
            let scenario = which.load()?;
            let name = name.unwrap_or_else(|| scenario.name.clone());
            let seed = seed.unwrap_or(scenario.seed);
            let verb = guardian::verb();
            let verb: Vec<&OsStr> = verb.iter().map(AsRef::as_ref).collect();
            let lab = Lab::up_guarded(&scenario, &name, seed, &verb).map_err(|error| match error {
                Error::LabName { .. } => Misuse::of(error),
                other => other.into(),
            })?;
            lab.keep()?;
            if global.json {
                output::json("lab", &json!({ "up": name, "scenario": scenario.name, "seed": seed }))?;
            } else {
                out!("{}", scenario.show());
                outln!("up as {name}; `pathlab lab down {name}` takes it down");
            }
        }
        Action::Down { name, all: _ } => down(name.as_deref(), global)?,
        Action::Exec { name, node, command } => {
            if global.json {
                return Err(Misuse("lab exec prints what its command prints: leave out --json".into()).into());
            }
            let mut inside: Command = lab::command(&name, &node, &command[0])?;
            let error = inside.args(&command[1..]).exec();
            bail!("{}: {error}", command[0]);
        }
    }
    Ok(Exit::Done)
}

fn play(play: &Play<'_>, engine: Engine, out: Option<PathBuf>, global: &Global) -> Result<Exit> {
    play.check()?;
    if engine != Engine::Virtual {
        play.check_real()?;
    }
    let started = Timestamp::now();
    let path = out.unwrap_or_else(|| run_directory::default_path("lab", started));
    let options = json!({
        "scenario": play.scenario.name,
        "seed": play.seed,
        "engine": engine.name(),
        "share": play.share.map(|share| share.to_string()),
    });
    let about = Run { options, host: host::facts(), clock: host::clock(None), ..Run::new("lab", started) };
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let played = match engine.player() {
        None => play.virtually(),
        Some(player) => play.really(player, &path)?,
    };
    let truth = Truth::of(play.scenario, play.seed);
    let run = report::lab::LabRun::new(&played);
    directory.artefact("truth.json", format!("{}\n", serde_json::to_string_pretty(&truth)?).as_bytes())?;
    directory.artefact("outcome.txt", played.outcome.to_text().as_bytes())?;
    directory.artefact("lab.json", format!("{}\n", serde_json::to_string_pretty(&run)?).as_bytes())?;
    directory.seal(Timestamp::now())?;
    scrap.keep();
    if global.json {
        output::json("lab", &run)?;
    } else {
        out!("{}", run.text());
        outln!("\n{} injected faults in {}", truth.faults.len(), path.join("truth.json").display());
    }
    Ok(match (run.stands(), run.holds()) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Done,
        (true, false) => Exit::Failed,
    })
}

fn list(global: &Global) -> Result<()> {
    if !pathlab_guard::privilege::is_root() {
        warn!("only root sees which labs are up");
    }
    let labs = lab::list();
    if global.json {
        let labs: Vec<_> = labs
            .iter()
            .map(|lab| json!({ "name": lab.id, "kept": lab.kept, "pid": lab.running.map(|process| process.pid), "namespaces": lab.namespaces }))
            .collect();
        return output::json("lab", &json!({ "scenarios": Scenario::shipped().collect::<Vec<_>>(), "labs": labs }));
    }
    for name in Scenario::shipped() {
        outln!("scenario {name}: {}", Scenario::load(name, None)?.summary);
    }
    for lab in labs {
        let state = match lab.running {
            Some(process) => format!("run by process {}", process.pid),
            None if lab.kept => "up".into(),
            None => "left behind by a process that died".into(),
        };
        outln!("lab {}: {state}; namespaces {}", lab.id, lab.namespaces.join(" "));
    }
    Ok(())
}

fn down(name: Option<&str>, global: &Global) -> Result<()> {
    if !pathlab_guard::privilege::is_root() {
        bail!("lab down removes network namespaces: run it as root");
    }
    let outcomes = match name {
        Some(name) => vec![(name.to_owned(), lab::down(name))],
        None => lab::down_all(),
    };
    let mut taken = Vec::new();
    let mut failed = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(_) => taken.push(name),
            Err(error) => failed.push(error),
        }
    }
    if global.json {
        output::json("lab", &json!({ "down": taken }))?;
    } else if taken.is_empty() && failed.is_empty() {
        outln!("no lab is up");
    } else {
        taken.iter().for_each(|name| outln!("{name}: down"));
    }
    match failed.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
