//! A table of figures as it is written and read: every round of every contestant, and the host.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{figures::Summary, host::Host};

/// The name of the format.
pub const SCHEMA: &str = "pathlab.bench/1";

/// What one run of one bench measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// [`SCHEMA`].
    pub schema: String,
    /// `reflector`, `probe` or `lab`.
    pub table: String,
    /// When it began (UTC).
    pub started: jiff::Timestamp,
    /// Whether it was a short run that only shows that the bench works.
    pub quick: bool,
    /// What was done, a sentence a line.
    pub method: Vec<String>,
    /// On what.
    pub host: Host,
    /// The figures, one section a quantity.
    pub sections: Vec<Section>,
    /// What was aimed at.
    pub aims: Vec<Aim>,
}

/// One quantity of all contestants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Which quantity.
    pub title: String,
    /// Its unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// The contestants.
    pub rows: Vec<Row>,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Of two figures the greater.
    More,
    /// Of two figures the lesser.
    Less,
}

/// One contestant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Who.
    pub name: String,
    /// For a peer, the row of ours that it is held against.
    pub beside: Option<String>,
    /// Its figure in each round; absent where there was none to be had.
    pub rounds: Vec<Option<f64>>,
    /// The generator ended before the contestant did: the figure is a lower bound.
    pub at_least: bool,
}

/// A goal and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aim {
    /// The goal in words.
    pub goal: String,
    /// The figure in words.
    pub figure: String,
    /// Whether it was met.
    pub met: bool,
}

/// A peer beside ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The peer's figure over ours, within each round.
    pub ratio: Summary,
    /// Who is ahead.
    pub ahead: Ahead,
}

/// Who is ahead: whoever is so in every round; with five rounds chance alone says so once in sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Ours, in every round.
    Ours,
    /// The peer, in every round.
    Peer,
    /// Now the one, now the other.
    Neither,
}

impl Table {
    /// Reads one.
    ///
    /// # Errors
    /// Another format.
    pub fn parse(json: &str) -> Result<Self> {
        let table: Self = serde_json::from_str(json)?;
        ensure!(table.schema == SCHEMA, "schema {:?}, and this reads {SCHEMA}", table.schema);
        Ok(table)
    }
}

impl Section {
    /// The same with no row held against another.
    pub fn without_comparison(mut self) -> Self {
        self.rows.iter_mut().for_each(|row| row.beside = None);
        self
    }

    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// A peer's row beside ours; `None` for a row of ours, and where no round has both.
    pub fn comparison(&self, row: &Row) -> Option<Comparison> {
        let ours = self.row(row.beside.as_deref()?)?;
        let ratios = ratios(row, ours);
        let ratio = Summary::of(&ratios)?;
        let ahead = match (ratio.min > 1.0, ratio.max < 1.0, self.better) {
            (true, _, Better::More) | (_, true, Better::Less) => Ahead::Peer,
            (_, true, Better::More) | (true, _, Better::Less) => Ahead::Ours,
            _ => Ahead::Neither,
        };
        Some(Comparison { ratio, ahead })
    }
}

/// `one` over `other` in each round that has both, and `other` above zero.
pub fn ratios(one: &Row, other: &Row) -> Vec<f64> {
    let rounds = one.rounds.iter().zip(&other.rounds);
    rounds
        .filter_map(|(one, other)| Some(((*one)?, (*other)?)))
        .filter(|(_, other)| *other > 0.0)
        .map(|(one, other)| one / other)
        .collect()
}

impl Row {
    /// A row with a figure in every round.
    pub fn new(name: impl Into<String>, rounds: impl IntoIterator<Item = f64>) -> Self {
        Self::sparse(name, rounds.into_iter().map(Some))
    }

    /// A row that has no figure in some rounds.
    pub fn sparse(name: impl Into<String>, rounds: impl IntoIterator<Item = Option<f64>>) -> Self {
        Self { name: name.into(), beside: None, rounds: rounds.into_iter().collect(), at_least: false }
    }

    /// Held against that row of ours.
    pub fn beside(mut self, ours: Option<impl Into<String>>) -> Self {
        self.beside = ours.map(Into::into);
        self
    }

    /// What its rounds say; `None` where there was none.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.rounds.iter().copied().flatten().collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(better: Better) -> Section {
        Section {
            title: "rate".into(),
            unit: "pps".into(),
            better,
            rows: vec![
                Row::new("ours", [10.0, 20.0, 30.0]),
                Row::new("slow", [1.0, 2.0, 6.0]).beside(Some("ours")),
                Row::new("fast", [11.0, 22.0, 33.0]).beside(Some("ours")),
                Row::new("noise", [11.0, 18.0, 31.0]).beside(Some("ours")),
                Row::sparse("absent", [None, None, None]).beside(Some("ours")),
            ],
        }
    }

    #[test]
    fn a_peer_is_compared_within_rounds() {
        let more = section(Better::More);
        let ahead =
            |section: &Section, name: &str| section.comparison(section.row(name).expect("a row")).map(|c| c.ahead);
        assert_eq!(ahead(&more, "ours"), None);
        assert_eq!(ahead(&more, "slow"), Some(Ahead::Ours));
        assert_eq!(ahead(&more, "fast"), Some(Ahead::Peer));
        assert_eq!(ahead(&more, "noise"), Some(Ahead::Neither));
        assert_eq!(ahead(&more, "absent"), None);
        let less = section(Better::Less);
        assert_eq!(ahead(&less, "slow"), Some(Ahead::Peer));
        assert_eq!(ahead(&less, "fast"), Some(Ahead::Ours));
        let comparison = more.comparison(more.row("slow").expect("a row")).expect("three rounds");
        assert!((comparison.ratio.median - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = Table {
            schema: SCHEMA.into(),
            table: "reflector".into(),
            started: jiff::Timestamp::UNIX_EPOCH,
            quick: false,
            method: vec!["as said".into()],
            host: Host::default(),
            sections: vec![section(Better::More)],
            aims: vec![Aim { goal: "fast".into(), figure: "2".into(), met: true }],
        };
        let json = serde_json::to_string(&table).expect("plain data");
        assert_eq!(Table::parse(&json).expect("the same"), table);
        assert!(Table::parse(&json.replace("bench/1", "bench/2")).is_err());
    }
}
