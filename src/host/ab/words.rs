//! A comparison in words.

use super::{
    AS_IS, AbArgs, Comparison,
    figures::{Figure, Moved, Verdict, stages},
};
use crate::report::{Table, percent, span};

/// The verdict in a sentence.
pub(super) fn sentence(verdict: Verdict, figures: &[Figure], args: &AbArgs, kept: Option<&str>) -> String {
    let level = args.level * 100.0;
    let words =
        |figure: &Figure| format!("{} by {}", figure.figure, signed(figure, figure.paired.difference.unwrap_or(0.0)));
    let moved = stages(figures);
    let stages = match moved.as_slice() {
        [] => String::new(),
        moved => format!(
            "; what moved of the ledger: {}",
            moved.iter().map(|figure| words(figure)).collect::<Vec<_>>().join(", ")
        ),
    };
    let rtt = figures.iter().find(|figure| figure.figure == "rtt");
    let rtt_words = rtt.map(words).unwrap_or_default();
    let told = match verdict {
        Verdict::Better => format!("better: {rtt_words}{stages}"),
        Verdict::Worse => {
            let loss = figures.iter().find(|figure| figure.figure == "loss" && figure.moved == Some(Moved::Up));
            let what = rtt.filter(|rtt| rtt.moved == Some(Moved::Up)).or(loss);
            format!("worse: {}{stages}", what.map(words).unwrap_or_default())
        }
        Verdict::Mixed => {
            let others = figures.iter().filter(|figure| figure.moved.is_some()).map(words);
            format!(
                "mixed: the round trip cannot be said to be shorter; moved: {}",
                others.collect::<Vec<_>>().join(", ")
            )
        }
        Verdict::NoDifference => {
            let least = rtt.and_then(|rtt| Some((rtt.paired.high? - rtt.paired.low?) / 2.0)).unwrap_or(0.0);
            format!(
                "no difference at {level} % over all figures; one of the round trip of about {} would have been seen",
                span(least as u64)
            )
        }
        Verdict::TooFew => format!("too few pairs of blocks for {level} % over all figures: more --blocks"),
    };
    match kept {
        Some(name) => format!("{told}; the change stays, until `pathlab host undo {name}`"),
        None if args.chosen.has(AS_IS) => told,
        None => format!("{told}; the change is taken back"),
    }
}

/// A difference in the figure's unit, with its sign.
fn signed(figure: &Figure, value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "+" };
    format!("{sign}{}", in_words(figure, value.abs()))
}

fn in_words(figure: &Figure, value: f64) -> String {
    match figure.unit {
        "share" => percent(value),
        _ => span(value.round() as u64),
    }
}

/// The table and the verdict.
pub(super) fn text(comparison: &Comparison) -> String {
    let level = format!("{} % interval", comparison.level * 100.0);
    let mut table = Table::new(["", "without", "with", "difference", level.as_str(), ""]);
    for figure in &comparison.figures {
        let plain = |value: f64| if value < 0.0 { signed(figure, value) } else { in_words(figure, value) };
        let [a, b, difference, interval] = figure.paired.cells(plain);
        let moved = match figure.moved {
            Some(Moved::Up) => "up",
            Some(Moved::Down) => "down",
            None => "",
        };
        table.row([figure.figure.clone(), a, b, difference, interval, moved.to_owned()]);
    }
    let Comparison { target, seed, blocks, sentence, .. } = comparison;
    format!("{target}, {} blocks in pairs, seed {seed}\n\n{table}\n{sentence}\n", blocks.len())
}
