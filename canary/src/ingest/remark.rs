//! Why a line was not judged, or judged with a remark: no line is lost in silence.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Lines named for each reason; the rest are only counted.
const NAMED: usize = 5;

/// Why a line was not judged, or judged with a remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    /// Nothing that can be read: broken, with an unknown field of the canonical form, too long.
    Broken,
    /// The last line of the file ends in the middle.
    Truncated,
    /// It contradicts itself.
    Contradicts,
    /// No label `isp` or `asn`, or no address family.
    Unlabelled,
    /// No label tells the ISP, and the table of networks does not know the client. Judged as ISP `unknown`.
    UnknownIsp,
    /// The same source, session and bin, or sequence number, were there before.
    Duplicate,
    /// In none of the windows.
    OutsideWindows,
    /// Partly in a window.
    StraddlesWindow,
    /// On a date that the experiment leaves out.
    Holiday,
    /// ISP or family differ from the session's first line. Judged by the first.
    Relabelled,
    /// The assigned arm differs from the session's first line. Left out.
    ArmChanged,
    /// Observed on another arm than assigned. Judged as assigned.
    CrossedOver,
    /// The line's time zone is not the experiment's. Judged: instants are UTC.
    OtherZone,
    /// A later sequence number with an earlier time, or a bin over another of its session and source. Judged where its time says.
    ClockJump,
    /// A column or field that is not known. Judged without it.
    UnknownColumn,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "broken",
            Self::Truncated => "cut off",
            Self::Contradicts => "in contradiction with themselves",
            Self::Unlabelled => "without ISP or address family",
            Self::UnknownIsp => "of an unknown ISP",
            Self::Duplicate => "duplicates",
            Self::OutsideWindows => "outside the windows",
            Self::StraddlesWindow => "partly in a window",
            Self::Holiday => "of a holiday",
            Self::Relabelled => "of sessions whose labels changed",
            Self::ArmChanged => "of sessions whose assigned arm changed",
            Self::CrossedOver => "of sessions seen on the other arm",
            Self::OtherZone => "of another time zone",
            Self::ClockJump => "of a clock that jumped back",
            Self::UnknownColumn => "with columns that are not known",
        })
    }
}

impl Remark {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Broken,
        Self::Truncated,
        Self::Contradicts,
        Self::Unlabelled,
        Self::UnknownIsp,
        Self::Duplicate,
        Self::OutsideWindows,
        Self::StraddlesWindow,
        Self::Holiday,
        Self::Relabelled,
        Self::ArmChanged,
        Self::CrossedOver,
        Self::OtherZone,
        Self::ClockJump,
        Self::UnknownColumn,
    ];

    /// Whether such a line is judged all the same.
    pub fn judged(self) -> bool {
        matches!(
            self,
            Self::UnknownIsp
                | Self::Relabelled
                | Self::CrossedOver
                | Self::OtherZone
                | Self::ClockJump
                | Self::UnknownColumn
        )
    }
}

/// How often a remark was made, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remarks {
    /// Number of lines.
    pub lines: u64,
    /// The first of them: `file:line: what`.
    pub first: Vec<String>,
}

impl Remarks {
    /// One line for a person.
    pub fn in_words(&self, remark: Remark) -> String {
        format!("{} lines are {remark}, the first {}", self.lines, self.first.first().map_or("", |first| first))
    }
}

/// A place in an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) file: &'a str,
    pub(crate) number: u64,
}

/// All remarks on their way into a verdict.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account(pub(crate) BTreeMap<Remark, Remarks>);

impl Account {
    /// Counts one line.
    pub(crate) fn add(&mut self, remark: Remark, at: Line<'_>, what: &str) {
        self.add_lines(remark, 1, at, what);
    }

    /// Counts several lines, of which the first is named.
    pub(crate) fn add_lines(&mut self, remark: Remark, lines: u64, at: Line<'_>, what: &str) {
        let remarks = self.0.entry(remark).or_default();
        remarks.lines += lines;
        if remarks.first.len() < NAMED {
            let what: String = what.chars().filter(|c| !c.is_control()).take(160).collect();
            remarks.first.push(format!("{}:{}: {what}", at.file, at.number));
        }
    }
}
