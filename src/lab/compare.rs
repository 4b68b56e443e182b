//! `pathlab lab compare`: two settings of one scenario, played by turns with the same seeds, and the median of the differences of each pair.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use pathlab_netlab::scenario::{Expectation, Metric, Of, Quantity, Scenario};
use pathlab_record::Run;
use pathlab_stats::Confidence;
use serde::Serialize;
use serde_json::json;

use super::{Engine, Which, played::Play, reflecting::Reflecting};
use crate::{
    Global,
    exit::{Exit, Misuse},
    host, output,
    paired::Paired,
    report::{Table, measured},
    run_directory,
};

#[derive(Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    which: Which,
    /// The one setting: `as-is`, or node:interface.key=value, several parted by commas; keys are rate, queue, delay, loss, ring, service, wake. With real
    /// packets also datapath=socket, afxdp or xdp of the reflector, with rx-ring=N and fill-ring=N: round trips are then whole, the reflector's part among them
    #[arg(long, value_name = "SETTING")]
    a: String,
    /// The other setting
    #[arg(long, value_name = "SETTING")]
    b: String,
    /// How often each setting is played, by turns; six pairs are the least that bound a difference
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,
    /// Seed of the first pair; each further pair takes the next one
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How to play it; all but virtual need root and take the scenario's own time, twice for each pair
    #[arg(long, value_enum, default_value_t = Engine::Virtual)]
    engine: Engine,
    /// Run directory to write, with comparison.json; it must not exist or be empty [default: ./runs/<UTC time>-lab]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a comparison came to.
#[derive(Serialize)]
struct Comparison {
    scenario: String,
    engine: String,
    a: String,
    b: String,
    seed: u64,
    pairs: u32,
    /// Pairs that are left out, because the machine did not keep the times of a run.
    invalid: u32,
    confidence: f64,
    figures: Vec<Figure>,
}

/// One figure under both settings, in nanoseconds, shares of one, bits per second or packets.
#[derive(Serialize)]
struct Figure {
    figure: String,
    unit: &'static str,
    #[serde(flatten)]
    paired: Paired,
    #[serde(skip)]
    quantity: Quantity,
}

pub(super) fn run(args: &CompareArgs, global: &Global) -> Result<Exit> {
    let scenario = args.which.load()?;
    let [a, b] = [&args.a, &args.b].map(|setting| set(&scenario, setting));
    let ((a, of_a), (b, of_b)) = (a?, b?);
    let reflectors = of_a.or(of_b).is_some();
    if reflectors && args.engine.player().is_none() {
        let problem =
            "the virtual engine has no reflector whose datapath could be set: use --engine auto, wire or kernel";
        return Err(Misuse(problem.into()).into());
    }
    let [of_a, of_b] = [of_a, of_b].map(|own| reflectors.then(|| own.unwrap_or(Reflecting::PLAIN)));
    let seed = args.seed.unwrap_or(scenario.seed);
    let wanted = figures(&scenario);
    let started = Timestamp::now();
    let path = args.out.clone().unwrap_or_else(|| run_directory::default_path("lab", started));
    let engine = args.engine.name();
    let options = json!({ "scenario": scenario.name, "a": args.a, "b": args.b, "pairs": args.pairs, "seed": seed, "engine": engine });
    let about = Run { options, host: host::facts(), clock: host::clock(None), ..Run::new("lab", started) };
    for (scenario, reflecting) in [(&a, of_a), (&b, of_b)] {
        let play = Play { scenario, seed, share: None, reflecting };
        play.check()?;
        args.engine.player().map_or(Ok(()), |_| play.check_real())?;
    }
    let (mut directory, scrap) = run_directory::create(&path, &about)?;
    let mut pairs: Vec<Vec<(f64, f64)>> = vec![Vec::new(); wanted.len()];
    let mut invalid = 0;
    for turn in 0..args.pairs {
        let seed = seed.wrapping_add(u64::from(turn));
        let play = |scenario: &Scenario, reflecting, name: &str| -> Result<Option<Vec<Option<f64>>>> {
            let play = Play { scenario, seed, share: None, reflecting };
            let played = match args.engine.player() {
                None => play.virtually(),
                Some(player) => {
                    let out = path.join(format!("{turn}-{name}"));
                    std::fs::create_dir(&out).with_context(|| out.display().to_string())?;
                    play.really(player, &out)?
                }
            };
            let figures = played.figures();
            let stands = played.grade.objections.is_empty();
            Ok(stands.then(|| wanted.iter().map(|figure| figures.value(figure)).collect()))
        };
        // Whoever comes first has a cold machine: by turns.
        let (by_a, by_b) = if turn.is_multiple_of(2) {
            let by_a = play(&a, of_a, "a")?;
            (by_a, play(&b, of_b, "b")?)
        } else {
            let by_b = play(&b, of_b, "b")?;
            (play(&a, of_a, "a")?, by_b)
        };
        let Some((by_a, by_b)) = by_a.zip(by_b) else {
            invalid += 1;
            continue;
        };
        for (pairs, pair) in pairs.iter_mut().zip(by_a.into_iter().zip(by_b)) {
            pairs.extend(pair.0.zip(pair.1));
        }
    }
    let figures = wanted.iter().zip(&pairs).map(|(wanted, pairs)| figure(wanted, pairs)).collect();
    let comparison = Comparison {
        scenario: scenario.name.clone(),
        engine,
        a: args.a.clone(),
        b: args.b.clone(),
        seed,
        pairs: args.pairs,
        invalid,
        confidence: Confidence::P95.level(),
        figures,
    };
    directory.artefact("comparison.json", format!("{}\n", serde_json::to_string_pretty(&comparison)?).as_bytes())?;
    directory.seal(Timestamp::now())?;
    scrap.keep();
    if global.json {
        output::json("lab", &comparison)?;
    } else {
        out!("{}", comparison.text());
    }
    Ok(if invalid < args.pairs { Exit::Done } else { Exit::Invalid })
}

fn set(scenario: &Scenario, setting: &str) -> Result<(Scenario, Option<Reflecting>)> {
    let mut scenario = scenario.clone();
    let (reflecting, links) = Reflecting::out_of(setting)?;
    if !links.is_empty() && links != "as-is" {
        scenario.set(&links).map_err(Misuse::of)?;
    }
    Ok((scenario, reflecting))
}

/// Round trip, IPDV and loss of all, what the scenario expects something of, and every bulk's goodput.
fn figures(scenario: &Scenario) -> Vec<Expectation> {
    let all = |what: Metric| Expectation { what, of: Of::default(), above: None, at_least: None, at_most: None };
    let mut wanted: Vec<Expectation> =
        [Metric::Rtt(0.5), Metric::Rtt(0.95), Metric::Rtt(0.99), Metric::Ipdv(0.95), Metric::Loss].map(all).into();
    wanted.extend(scenario.bulks.iter().map(|bulk| all(Metric::Goodput { bulk: bulk.name.clone() })));
    for expected in &scenario.expectations {
        let bare = Expectation { at_least: None, at_most: None, ..expected.clone() };
        if !wanted.contains(&bare) {
            wanted.push(bare);
        }
    }
    wanted
}

fn figure(wanted: &Expectation, pairs: &[(f64, f64)]) -> Figure {
    let quantity = wanted.what.quantity();
    let unit = match quantity {
        Quantity::Time => "ns",
        Quantity::Share => "share",
        Quantity::Rate => "bit/s",
        Quantity::Count => "packets",
    };
    Figure { figure: wanted.to_string(), unit, paired: Paired::of(pairs, Confidence::P95), quantity }
}

impl Comparison {
    fn text(&self) -> String {
        let mut table = Table::new(["", "A", "B", "B − A", "95 % interval"]);
        for figure in &self.figures {
            let [a, b, difference, interval] = figure.paired.cells(|value| measured(figure.quantity, value));
            table.row([figure.figure.clone(), a, b, difference, interval]);
        }
        let invalid = match self.invalid {
            0 => String::new(),
            pairs => format!("\n{pairs} pairs are left out: the machine did not keep the times of a run\n"),
        };
        format!(
            "{}, {} engine, {} pairs by turns, seeds from {}\nA: {}\nB: {}\n\n{table}{invalid}",
            self.scenario, self.engine, self.pairs, self.seed, self.a, self.b
        )
    }
}
