//! Raw samples with session ids, one packet a line, as CSV or JSON: gathered into bins of sessions as they come.
//!
//! Memory grows with sessions and bins: of a packet nothing stays but its bucket and its place in the ranges of sequence numbers.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use pathlab_record::{Arm, Labels, Outcome, Planes, Sample, SessionBin, SessionKey, SparseHistogram, csv};
use serde_json::Value;

use super::{Refused, broken, ranges::Ranges, remark::*};
use crate::{Error, Evenings};

/// Names of the column with the round-trip time, and how many nanoseconds its unit is.
pub(super) const RTT: [(&str, f64); 4] = [("rtt_ns", 1.0), ("rtt_us", 1e3), ("rtt_ms", 1e6), ("rtt_s", 1e9)];

/// What a column means.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Time,
    Session,
    Key,
    Seq,
    Rtt(f64),
    Outcome,
    Arm,
    Source,
    Label(String),
    Unknown,
}

impl Field {
    fn of(name: &str) -> Self {
        match name {
            "time" => Self::Time,
            "session" => Self::Session,
            "key" => Self::Key,
            "seq" => Self::Seq,
            "outcome" => Self::Outcome,
            "arm" => Self::Arm,
            "source" => Self::Source,
            "isp" | "asn" | "family" | "server" | "window" | "share" | "city" | "device" => {
                Self::Label(name.to_owned())
            }
            _ => RTT.iter().find(|(known, _)| *known == name).map_or(Self::Unknown, |(_, scale)| Self::Rtt(*scale)),
        }
    }
}

/// The columns of a CSV file, in its order.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<Field>);

impl Columns {
    /// Reads a header.
    pub(super) fn of(line: &[u8], at: Line<'_>, account: &mut Account) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(line);
        let names: Vec<_> = csv::fields(text.trim_start_matches('\u{feff}'));
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        refuse_quantiles(&names, at)?;
        let columns: Vec<_> = names.iter().map(|name| Field::of(name)).collect();
        let has = |wanted: &dyn Fn(&Field) -> bool| columns.iter().any(wanted);
        let rtt = has(&|field| matches!(field, Field::Rtt(_)));
        if !has(&|field| *field == Field::Time) || !has(&|field| matches!(field, Field::Session | Field::Key)) || !rtt {
            return Err(Error::Columns {
                at: format!("{}:{}", at.file, at.number),
                why: "needs the columns time, session or key, and one of rtt_ns, rtt_us, rtt_ms, rtt_s".to_owned(),
            });
        }
        for (name, field) in names.iter().zip(&columns) {
            if *field == Field::Unknown {
                account.add(Remark::UnknownColumn, at, &format!("column `{name}`"));
            }
        }
        Ok(Self(columns))
    }
}

/// Refuses what has quantiles and nothing that they could be made from.
pub(super) fn refuse_quantiles(names: &[&str], at: Line<'_>) -> Result<(), Error> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_quantile = |name: &&&str| {
        let last = name.rsplit(['_', '.']).find(|part| !matches!(*part, "ms" | "us" | "ns" | "s")).unwrap_or(name);
        matches!(**name, "quantile" | "quantiles" | "percentile" | "percentiles" | "median")
            || last.strip_prefix('p').is_some_and(digits)
    };
    let distribution = |name: &&str| {
        matches!(*name, "rtt" | "buckets" | "le" | "stamps" | "sent") || RTT.iter().any(|(known, _)| known == name)
    };
    match names.iter().find(is_quantile) {
        Some(quantile) if !names.iter().any(distribution) => {
            Err(Error::QuantilesOnly { at: format!("{}:{}", at.file, at.number), name: (*quantile).to_owned() })
        }
        _ => Ok(()),
    }
}

/// One packet.
#[derive(Clone, Debug, Default)]
struct Row {
    time: Option<Timestamp>,
    /// Written with an offset that is not the zone's.
    elsewhere: bool,
    session: Option<String>,
    key: Option<SessionKey>,
    seq: Option<u64>,
    rtt: Option<u64>,
    outcome: Option<Outcome>,
    arm: Option<Arm>,
    source: String,
    labels: Labels,
}

impl Row {
    fn put(&mut self, field: &Field, text: &str, zone: &TimeZone) -> Result<(), String> {
        if text.is_empty() {
            return Ok(());
        }
        match field {
            Field::Time => {
                let (time, elsewhere) = instant(text, zone)?;
                (self.time, self.elsewhere) = (Some(time), elsewhere);
            }
            Field::Session => self.session = Some(text.to_owned()),
            Field::Key => {
                self.key = Some(text.parse().map_err(|_| format!("key `{text}` is no ADDRESS:PORT"))?);
            }
            Field::Seq => self.seq = Some(text.parse().map_err(|_| format!("seq `{text}` is no number"))?),
            Field::Rtt(scale) => {
                let value: f64 = text.parse().map_err(|_| format!("round trip `{text}` is no number"))?;
                if !(value >= 0.0 && value.is_finite()) {
                    return Err(format!("round trip `{text}` is below zero or no number"));
                }
                self.rtt = Some((value * scale).round() as u64);
            }
            Field::Outcome => {
                let read = serde_json::from_value(Value::String(text.to_owned()));
                self.outcome = Some(read.map_err(|_| format!("outcome `{text}` is not known"))?);
            }
            Field::Arm => {
                self.arm = match text {
                    "control" => Some(Arm::Control),
                    "canary" => Some(Arm::Canary),
                    _ => return Err(format!("arm `{text}`, expected control or canary")),
                }
            }
            Field::Source => self.source = text.to_owned(),
            Field::Label(name) => drop(self.labels.insert(name.clone(), text.into())),
            Field::Unknown => {}
        }
        Ok(())
    }
}

/// What gathers of one session in one bin.
#[derive(Clone, Debug, Default)]
struct Gathered {
    bin: SessionBin,
    rows: u64,
    file: usize,
    number: u64,
}

#[derive(Clone, Debug, Default)]
struct Raw {
    arm: Option<Arm>,
    seen: Ranges,
    /// The packet before: its sequence number, time and round trip.
    before: Option<(Option<u64>, Timestamp, Option<u64>)>,
    bins: BTreeMap<Timestamp, Gathered>,
}

/// Samples on their way into bins.
#[derive(Debug)]
pub(super) struct Samples {
    bin: SignedDuration,
    evenings: Evenings,
    files: Vec<String>,
    /// By source and session.
    sessions: BTreeMap<(String, String), Raw>,
    /// The evening that the last sample fell in.
    evening: Option<(Timestamp, Timestamp)>,
    zone: Option<TimeZone>,
}

impl Samples {
    pub(super) fn new(bin: SignedDuration, evenings: Evenings) -> Self {
        Self { bin, evenings, files: Vec::new(), sessions: BTreeMap::new(), evening: None, zone: None }
    }

    pub(super) fn width(&self) -> SignedDuration {
        self.bin
    }

    fn zone(&mut self, zone: &str) -> TimeZone {
        self.zone.get_or_insert_with(|| TimeZone::get(zone).unwrap_or(TimeZone::UTC)).clone()
    }

    /// One line of CSV below the header.
    pub(super) fn row(
        &mut self,
        columns: &Columns,
        line: &[u8],
        at: Line<'_>,
        zone: &str,
        account: &mut Account,
    ) -> Result<(), Refused> {
        let refused = |what: String| Refused { remark: Remark::Broken, what };
        let text = std::str::from_utf8(line).map_err(|_| refused("is not UTF-8".to_owned()))?;
        let values = csv::fields(text);
        if values.len() != columns.0.len() {
            return Err(refused(format!("{} columns, the header has {}", values.len(), columns.0.len())));
        }
        let zone = self.zone(zone);
        let mut row = Row { source: "csv".to_owned(), ..Row::default() };
        for (field, value) in columns.0.iter().zip(&values) {
            row.put(field, value.trim(), &zone).map_err(refused)?;
        }
        self.take(row, at, account)
    }

    /// One line of JSON: of the probe's `samples.jsonl`, or with the names of the columns.
    pub(super) fn json(&mut self, line: &[u8], at: Line<'_>, zone: &str, account: &mut Account) -> Result<(), Refused> {
        let value: Value = serde_json::from_slice(line).map_err(|error| broken(Some(error)))?;
        if value.get("stamps").is_some() {
            let sample: Sample = serde_json::from_value(value).map_err(|error| broken(Some(error)))?;
            return self.take(of_probe(sample)?, at, account);
        }
        let Value::Object(object) = value else { return Err(broken(None)) };
        let zone = self.zone(zone);
        let mut row = Row { source: "jsonl".to_owned(), ..Row::default() };
        for (name, value) in object {
            if let (Value::Object(labels), "labels") = (&value, name.as_str()) {
                row.labels.extend(labels.clone());
                continue;
            }
            let field = Field::of(&name);
            if field == Field::Unknown {
                account.add(Remark::UnknownColumn, at, &format!("field `{name}`"));
            }
            let text = match &value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            row.put(&field, &text, &zone).map_err(|what| Refused { remark: Remark::Broken, what })?;
        }
        self.take(row, at, account)
    }

    fn take(&mut self, row: Row, at: Line<'_>, account: &mut Account) -> Result<(), Refused> {
        let refused = |remark, what: &str| Err(Refused { remark, what: what.to_owned() });
        let Some(time) = row.time else { return refused(Remark::Broken, "no time") };
        let Some(name) = row.session.clone().or_else(|| row.key.map(|key| key.to_string())) else {
            return refused(Remark::Broken, "no session");
        };
        let (start, end) = self.bin_of(time);
        let file = self.files.iter().position(|file| file == at.file).unwrap_or_else(|| {
            self.files.push(at.file.to_owned());
            self.files.len() - 1
        });
        let raw = self.sessions.entry((row.source.clone(), name.clone())).or_default();
        let outcome = row.outcome.unwrap_or(if row.rtt.is_some() { Outcome::Received } else { Outcome::Lost });
        if row.rtt.is_none() && outcome == Outcome::Received {
            return refused(Remark::Contradicts, "received without a round trip");
        }
        if raw.arm.is_some() && row.arm.is_some() && raw.arm != row.arm {
            return refused(Remark::ArmChanged, &name);
        }
        if outcome != Outcome::Duplicate && row.seq.is_some_and(|seq| !raw.seen.insert(seq)) {
            return refused(Remark::Duplicate, &name);
        }
        raw.arm = raw.arm.or(row.arm);
        // The first line of a bin labels it; a bin with other labels is told when it is taken.
        let placed = |labels: &Labels| ["isp", "asn", "family"].map(|name| labels.get(name).cloned());
        if raw.bins.get(&start).is_some_and(|known| placed(&known.bin.labels) != placed(&row.labels)) {
            account.add(Remark::Relabelled, at, &name);
        }
        let gathered = raw.bins.entry(start).or_insert_with(|| Gathered {
            bin: SessionBin {
                session: name.clone(),
                key: row.key,
                labels: row.labels,
                start,
                end,
                source: row.source,
                rtt: Some(SparseHistogram::new()),
                ipdv_round_trip: Some(SparseHistogram::new()),
                loss_episodes: Some(0),
                ..SessionBin::default()
            },
            rows: 0,
            file,
            number: at.number,
        });
        gathered.rows += 1;
        let bin = &mut gathered.bin;
        bin.arm_assigned = raw.arm;
        if outcome == Outcome::Duplicate {
            bin.duplicates += 1;
            return Ok(());
        }
        if let Some((seq, before, _)) = raw.before
            && time < before
            && row.seq.zip(seq).is_none_or(|(now, then)| now > then)
        {
            account.add(Remark::ClockJump, at, &format!("{time} after {before}"));
        }
        if row.elsewhere {
            account.add(Remark::OtherZone, at, &name);
        }
        let follows =
            raw.before.filter(|(seq, ..)| row.seq.zip(*seq).is_none_or(|(now, then)| then.checked_add(1) == Some(now)));
        bin.sent += 1;
        let rtt = row.rtt.filter(|_| outcome == Outcome::Received);
        match rtt {
            Some(rtt) => {
                bin.received += 1;
                record(&mut bin.rtt, rtt);
                if let Some((.., Some(before))) = follows {
                    record(&mut bin.ipdv_round_trip, rtt.abs_diff(before));
                }
            }
            None => {
                bin.lost += 1;
                bin.lost_forward += u64::from(outcome == Outcome::LostForward);
                bin.lost_return += u64::from(outcome == Outcome::LostReturn);
                bin.late += u64::from(outcome == Outcome::Late);
                let goes_on = matches!(follows, Some((.., None)));
                bin.loss_episodes = bin.loss_episodes.map(|episodes| episodes + u64::from(!goes_on));
            }
        }
        raw.before = Some((row.seq, time, rtt));
        Ok(())
    }

    /// The bin of an instant: counted from the start of its evening, elsewhere from the epoch.
    fn bin_of(&mut self, time: Timestamp) -> (Timestamp, Timestamp) {
        let holds = |(opens, closes): &(Timestamp, Timestamp)| (*opens..*closes).contains(&time);
        if self.evening.as_ref().is_none_or(|evening| !holds(evening)) {
            self.evening = self.evenings.around(time);
        }
        let (opens, closes) = self.evening.unwrap_or((Timestamp::UNIX_EPOCH, Timestamp::MAX));
        let width = self.bin.as_micros().max(1) as i64;
        let since = time.as_microsecond() - opens.as_microsecond();
        let start = opens.as_microsecond() + since.div_euclid(width) * width;
        let at = |micros: i64| Timestamp::from_microsecond(micros).unwrap_or(time);
        (at(start), at(start.saturating_add(width)).min(closes))
    }

    /// The bins, in the order of their sessions: each with its number of lines, and file and number of the first.
    pub(super) fn into_bins(self, zone: &str) -> impl Iterator<Item = (SessionBin, u64, String, u64)> {
        let (files, zone) = (self.files, zone.to_owned());
        self.sessions.into_values().flat_map(|raw| raw.bins.into_values()).map(move |gathered| {
            let Gathered { bin, rows, file, number } = gathered;
            (SessionBin { zone: zone.clone(), ..bin }, rows, files[file].clone(), number)
        })
    }
}

fn record(histogram: &mut Option<SparseHistogram>, nanoseconds: u64) {
    if let Some(histogram) = histogram {
        histogram.record(nanoseconds);
    }
}

/// A line of the probe: the round trip from the outermost plane that both of its ends have.
fn of_probe(sample: Sample) -> Result<Row, Refused> {
    let refused = |what: &str| Refused { remark: Remark::Broken, what: what.to_owned() };
    let planes = |planes: &Planes| [planes.nic, planes.xdp, planes.kernel, planes.app];
    let stamps = &sample.stamps;
    let span = |(sent, received): (Option<pathlab_record::Stamp>, Option<pathlab_record::Stamp>)| {
        Some(received?.since(sent?)?.as_nanos())
    };
    let rtt = planes(&stamps.a1).into_iter().zip(planes(&stamps.a4)).find_map(span);
    let slot = stamps.a0.app.or(stamps.a1.app).ok_or_else(|| refused("no stamp A0"))?;
    let time = Timestamp::from_nanosecond(i128::from(slot.nanos())).map_err(|_| refused("A0 is out of range"))?;
    Ok(Row {
        time: Some(time),
        session: Some(sample.session),
        seq: Some(sample.seq.into()),
        rtt: rtt.and_then(|nanos| u64::try_from(nanos).ok()),
        outcome: Some(sample.outcome),
        arm: sample.arm,
        source: "samples".to_owned(),
        labels: sample.labels,
        ..Row::default()
    })
}

/// An instant with its offset, or as a number since the epoch in seconds, milliseconds, microseconds or nanoseconds, told by its size; and
/// whether the offset is another than the zone's at that instant.
fn instant(text: &str, zone: &TimeZone) -> Result<(Timestamp, bool), String> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let whole: i128 = whole.parse().map_err(|_| format!("time `{text}` is no number"))?;
        let unit = match whole.checked_ilog10().unwrap_or(0) {
            ..11 => 1_000_000_000,
            11..14 => 1_000_000,
            14..17 => 1_000,
            _ => 1,
        };
        let part: f64 = format!("0.{part}0").parse().map_err(|_| format!("time `{text}` is no number"))?;
        let nanos = whole * unit + (part * unit as f64) as i128;
        return Timestamp::from_nanosecond(nanos).map(|time| (time, false)).map_err(|error| error.to_string());
    }
    let time: Timestamp = text
        .parse()
        .map_err(|_| format!("time `{text}`: write it with Z or an offset, such as 2026-11-21T19:00:00+09:00"))?;
    let offset = text.len().checked_sub(6).and_then(|at| text.get(at..)).filter(|tail| tail.starts_with(['+', '-']));
    let Some(offset) = offset.filter(|_| !text.ends_with(['Z', 'z'])) else { return Ok((time, false)) };
    let seconds = zone.to_offset(time).seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hours, minutes) = (seconds.abs() / 3_600, seconds.abs() / 60 % 60);
    Ok((time, offset != format!("{sign}{hours:02}:{minutes:02}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_unit_and_never_without_a_zone() {
        let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
        let expected: Timestamp = "2026-11-21T10:00:00.25Z".parse().unwrap();
        for text in [
            "2026-11-21T10:00:00.25Z",
            "2026-11-21T19:00:00.25+09:00",
            "1795255200.25",
            "1795255200250",
            "1795255200250000",
            "1795255200250000000",
        ] {
            assert_eq!(instant(text, &tokyo), Ok((expected, false)), "{text}");
        }
        assert_eq!(instant("2026-11-21T10:00:00.25+00:00", &tokyo), Ok((expected, true)));
        assert!(instant("2026-11-21T19:00:00", &tokyo).unwrap_err().contains("offset"));
    }
}
