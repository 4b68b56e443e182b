//! Measures a table and prints it, or writes tables that were measured into a document. `scripts/bench` installs what it needs and calls it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use pathlab_benches::{
    contestant::Programs,
    flood, judge, lab,
    pair::Pair,
    render, steer,
    table::Table,
    tables::{self, Effort},
    watch,
};
use pathlab_stats::Interval;

/// Figures of pathlab beside its peers
#[derive(Parser)]
struct Bench {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Reflected packets a second, round trips, nanoseconds in the driver
    Reflector(Measure),
    /// How well the schedule is kept
    Probe(Measure),
    /// What steering costs a packet, how fast it ends, a million session keys, the programs that watch
    Steer(Measure),
    /// How well the lab's wire engine keeps its times
    Lab(Measure),
    /// What watching a host costs a packet and its rate
    Watch(Measure),
    /// A million sessions from their file to their verdict, and the bootstrap beside plain ones
    Judge {
        /// Of everything
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        rounds: u16,
        /// One round of a small fleet, to see that the bench works: no figures to be shown
        #[arg(long, conflicts_with = "rounds")]
        quick: bool,
        /// Where to write the table [default: target/bench/judge.json]
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// pathlab's own program
        #[arg(long, default_value = "target/release/pathlab")]
        pathlab: PathBuf,
    },
    /// Hostile packets beside an honest session; fails where the session lost a packet, or the reflector grew or chattered
    Flood {
        /// Of each flood
        #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..))]
        seconds: u64,
        /// Stop the reflector for so long in every second, as a hypervisor may
        #[arg(long, value_name = "MILLISECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..500))]
        stall: u64,
        /// pathlab's own program
        #[arg(long, default_value = "target/release/pathlab")]
        pathlab: PathBuf,
    },
    /// Two programs, checkouts or settings by turns: the median ratio B over A with its interval
    Pair {
        /// What `{}` in the command is in the one run: a program, a checkout that was built, or any word
        a: String,
        /// And in the other
        b: String,
        /// How often each is run; six pairs are the least that bound a ratio
        #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
        pairs: u32,
        /// Count instructions, too, by valgrind: exact, and so what may gate
        #[arg(long)]
        instructions: bool,
        /// Fail where B takes more than so many times A's instructions
        #[arg(long, value_name = "RATIO", requires = "instructions")]
        most: Option<f64>,
        /// The command, with `{}` where A and B differ
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Write tables into a document, between their markers
    Render {
        /// The document
        #[arg(long, default_value = "docs/performance.md")]
        document: PathBuf,
        /// Tables as JSON [default: those of target/bench/ that exist: reflector.json, probe.json, steer.json, lab.json, watch.json, judge.json]
        tables: Vec<PathBuf>,
    },
}

#[derive(Args)]
struct Measure {
    /// Rounds of all contestants
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(5..))]
    rounds: u16,
    /// One short round, to see that the bench works: no figures to be shown
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Where to write the table [default: target/bench/<table>.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// pathlab's own program
    #[arg(long, default_value = "target/release/pathlab")]
    pathlab: PathBuf,
    /// Where the peers are
    #[arg(long, default_value = "target/peers/release/bin")]
    peers: PathBuf,
}

fn main() -> Result<()> {
    match Bench::parse().verb {
        Verb::Reflector(measure) => show(&measure, tables::reflector),
        Verb::Probe(measure) => show(&measure, tables::probe),
        Verb::Steer(measure) => show(&measure, steer::measure),
        Verb::Watch(measure) => show(&measure, watch::measure),
        Verb::Lab(measure) => print(&lab::lab(&effort(&measure))?, measure.json.as_deref()),
        Verb::Judge { rounds, quick, json, pathlab } => {
            let pathlab = fs::canonicalize(&pathlab).with_context(|| pathlab.display().to_string())?;
            let effort = if quick { judge::Effort::quick() } else { judge::Effort::whole(rounds.into()) };
            print(&judge::table(&pathlab, &effort)?, json.as_deref())
        }
        Verb::Flood { seconds, stall, pathlab } => {
            flooded(Duration::from_secs(seconds), Duration::from_millis(stall), &pathlab)
        }
        Verb::Pair { a, b, pairs, instructions, most, command } => {
            paired(&Pair::new([&a, &b], command)?, pairs, instructions, most)
        }
        Verb::Render { document, tables } => write(&document, tables),
    }
}

fn show(measure: &Measure, table: fn(&Programs, &Effort) -> Result<Table>) -> Result<()> {
    let own = std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned();
    let absolute =
        |path: &PathBuf| fs::canonicalize(path).with_context(|| format!("{}: scripts/bench builds it", path.display()));
    // Not every table has peers: one that is missed is named where it is started.
    let peers = fs::canonicalize(&measure.peers).unwrap_or_else(|_| measure.peers.clone());
    let programs = Programs { pathlab: absolute(&measure.pathlab)?, own, peers };
    print(&table(&programs, &effort(measure))?, measure.json.as_deref())
}

fn effort(measure: &Measure) -> Effort {
    if measure.quick { Effort::quick() } else { Effort::whole(measure.rounds.into()) }
}

fn print(table: &Table, json: Option<&Path>) -> Result<()> {
    print!("{}", render::text(table));
    let path = json.map_or_else(|| PathBuf::from(format!("target/bench/{}.json", table.table)), Path::to_owned);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, serde_json::to_string_pretty(table)? + "\n").with_context(|| path.display().to_string())?;
    println!("{}", path.display());
    Ok(())
}

fn paired(pair: &Pair, pairs: u32, instructions: bool, most: Option<f64>) -> Result<()> {
    let compared = pair.compare(pairs)?;
    let ratio = |what: &str, interval: Interval| {
        let Interval { estimate, low, high } = interval;
        let bounds = match high.is_finite() {
            true => format!("{low:.4} to {high:.4}, 95 %, {pairs} pairs"),
            false => format!("{pairs} pairs are too few to bound it"),
        };
        println!("{what}: B is {estimate:.4} times A ({bounds})");
    };
    if !compared.status.success() {
        println!("both end with {}", compared.status);
    }
    ratio("elapsed", compared.elapsed);
    match compared.processor {
        Some(processor) => ratio("processor time", processor),
        None => println!("processor time: too short to tell"),
    }
    if instructions {
        let counts = pair.count()?;
        println!("instructions: {} and {}, B is {:.6} times A", counts.a, counts.b, counts.ratio());
        ensure!(most.is_none_or(|most| counts.ratio() <= most), "B takes more instructions than --most allows");
    }
    Ok(())
}

fn flooded(span: Duration, stall: Duration, pathlab: &Path) -> Result<()> {
    let pathlab = fs::canonicalize(pathlab).with_context(|| format!("{}: build it first", pathlab.display()))?;
    let programs = Programs { pathlab, own: PathBuf::new(), peers: PathBuf::new() };
    let mut faulty = false;
    for flood in flood::measure(&programs, span, stall)? {
        let share = flood.share.map_or_else(String::new, |share| format!(" ({:.0} % of no loss)", share * 100.0));
        let [before, after] = flood.memory;
        println!(
            "{}: {:.0} hostile packets a second{share}, {} in all; honest session {} of {} lost; memory {before} to {after} KiB; {} octets said",
            flood.name, flood.offered, flood.hostile, flood.lost, flood.honest, flood.said
        );
        let [skipped, refused] = flood.unsent;
        println!("  the honest session skipped {skipped} slots and was refused {refused}; {}", flood.whereabouts);
        for fault in flood.faults() {
            println!("  FAULT {fault}");
            faulty = true;
        }
    }
    ensure!(!faulty, "the reflector did not stand the flood");
    Ok(())
}

fn write(document: &PathBuf, tables: Vec<PathBuf>) -> Result<()> {
    let measured = ["reflector", "probe", "steer", "lab", "watch", "judge"]
        .map(|name| PathBuf::from(format!("target/bench/{name}.json")));
    let tables = if tables.is_empty() { measured.into_iter().filter(|path| path.exists()).collect() } else { tables };
    ensure!(
        !tables.is_empty(),
        "no table has been measured: run scripts/bench reflector, probe, steer, lab, watch or judge"
    );
    let mut text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    for path in tables {
        let name = || path.display().to_string();
        let table = Table::parse(&fs::read_to_string(&path).with_context(name)?).with_context(name)?;
        text = render::into_document(&text, &table).with_context(|| document.display().to_string())?;
    }
    fs::write(document, text).with_context(|| document.display().to_string())
}
