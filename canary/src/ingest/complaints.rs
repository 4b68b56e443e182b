//! Complaints and tickets, as a help desk exports them: CSV with the columns `complaints`, `time` or `window`, and `arm` while there are arms.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{Arm, Window, csv};

use super::{Line, Refused, remark::*};
use crate::{Error, Evenings, Place};

/// Complaints by window and arm; without an arm where the file has none, as after a promotion.
pub(crate) type Complaints = BTreeMap<(Window, Option<Arm>), u64>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Time,
    Window,
    Arm,
    Count,
    Unknown,
}

/// The columns of one file, in its order.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<Field>);

impl Columns {
    /// Whether a header is one of complaints.
    pub(super) fn are(line: &[u8]) -> bool {
        names(line).iter().any(|name| name == "complaints")
    }

    /// Reads a header.
    pub(super) fn of(line: &[u8], at: Line<'_>, account: &mut Account) -> Result<Self, Error> {
        let names = names(line);
        let field = |name: &String| match name.as_str() {
            "time" => Field::Time,
            "window" => Field::Window,
            "arm" => Field::Arm,
            "complaints" => Field::Count,
            _ => Field::Unknown,
        };
        let columns: Vec<_> = names.iter().map(field).collect();
        if !columns.contains(&Field::Time) && !columns.contains(&Field::Window) {
            return Err(Error::Columns {
                at: format!("{}:{}", at.file, at.number),
                why: "needs the columns complaints, time or window, and for a verdict arm; `canary assign` tells that of a client"
                    .to_owned(),
            });
        }
        for (name, _) in names.iter().zip(&columns).filter(|(_, field)| **field == Field::Unknown) {
            account.add(Remark::UnknownColumn, at, &format!("column `{name}`"));
        }
        Ok(Self(columns))
    }

    /// Reads one row.
    pub(super) fn row(&self, line: &[u8], evenings: &Evenings, into: &mut Complaints) -> Result<(), Refused> {
        let broken = |what: String| Refused { remark: Remark::Broken, what };
        let values = names(line);
        if values.len() != self.0.len() {
            return Err(broken(format!("{} fields, the header has {}", values.len(), self.0.len())));
        }
        let (mut place, mut arm, mut count) = (None, None, None);
        for (field, value) in self.0.iter().zip(&values) {
            let wrong = || broken(format!("`{value}` is no {}", format!("{field:?}").to_lowercase()));
            match field {
                Field::Window => place = Some(evenings.listed(value.parse::<Window>().map_err(|_| wrong())?)),
                Field::Time => {
                    let time: Timestamp = value.parse().map_err(|_| wrong())?;
                    let after = time.checked_add(SignedDuration::from_nanos(1)).map_err(|_| wrong())?;
                    place = place.or(Some(evenings.place_of(time, after)));
                }
                Field::Arm => {
                    arm = Some(match value.as_str() {
                        "control" => Arm::Control,
                        "canary" => Arm::Canary,
                        _ => return Err(wrong()),
                    });
                }
                Field::Count => count = Some(value.parse::<u32>().map_err(|_| wrong())?),
                Field::Unknown => {}
            }
        }
        let refused = |remark| Err(Refused { remark, what: String::from_utf8_lossy(line).into_owned() });
        let (Some(place), Some(count)) = (place, count) else {
            return Err(broken("no count".to_owned()));
        };
        match place {
            Place::In(window) => *into.entry((window, arm)).or_default() += u64::from(count),
            Place::Holiday(_) => return refused(Remark::Holiday),
            Place::Straddles(_) | Place::Outside => return refused(Remark::OutsideWindows),
        }
        Ok(())
    }
}

/// The fields, without what is blank around them.
fn names(line: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(line);
    csv::fields(text.trim_start_matches('\u{feff}')).iter().map(|field| field.trim().to_owned()).collect()
}
