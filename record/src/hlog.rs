//! HdrHistogram interval logs (`*.hlog`): the complete distribution of every interval, in the format that wrk2, jHiccup and
//! HistogramLogAnalyzer read.
//!
//! ```text
//! #[Histogram log format version 1.3]
//! #[StartTime: 1792000000.000 (seconds since epoch)]
//! "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//! Tag=arm=canary;family=4;isp=NTT,1792000000.000,10.000,31.817,HISTFAAAAB54nJNpmSzMwMDACMUQAAA...
//! ```
//!
//! Timestamps and lengths in seconds, `Interval_Max` in milliseconds, the histogram in nanoseconds. A reader of such logs splits at
//! commas and blanks, so labels that hold those are percent-encoded.

use std::{collections::BTreeMap, fmt::Write as _, io};

use jiff::{SignedDuration, Timestamp};

use crate::{Error, SparseHistogram};

/// One line of an interval log: what was counted under some labels from `start` for `length`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogInterval {
    /// Labels, such as `arm=canary`; they become the line's tag. None gives a line without tag.
    pub labels: BTreeMap<String, String>,
    /// First instant, kept to the millisecond.
    pub start: Timestamp,
    /// Length, kept to the millisecond.
    pub length: SignedDuration,
    /// The values, in nanoseconds.
    pub histogram: SparseHistogram,
}

impl LogInterval {
    /// The line, without its line feed.
    pub fn to_line(&self) -> String {
        let mut line = String::new();
        if !self.labels.is_empty() {
            let pairs: Vec<_> =
                self.labels.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
            line = format!("Tag={},", pairs.join(";"));
        }
        let max = self.histogram.max().unwrap_or(0) as f64 / 1e6;
        let (start, length) = (seconds(self.start.as_millisecond()), seconds(self.length.as_millis() as i64));
        let _ = write!(line, "{start},{length},{max:.3},{}", self.histogram.to_base64_compressed());
        line
    }

    /// Reads a line that is neither comment nor legend.
    ///
    /// # Errors
    /// A sentence naming the column that cannot be read.
    pub fn from_line(line: &str) -> Result<Self, String> {
        let mut columns: Vec<&str> = line.split(',').collect();
        let mut labels = BTreeMap::new();
        if let Some(tag) = columns[0].strip_prefix("Tag=") {
            for pair in tag.split(';') {
                let (key, value) = pair.split_once('=').ok_or_else(|| format!("Tag: {pair:?} is not key=value"))?;
                let clear = |text| unescaped(text).ok_or_else(|| format!("Tag: {text:?} is not percent-encoded UTF-8"));
                labels.insert(clear(key)?, clear(value)?);
            }
            columns.remove(0);
        }
        let [start, length, _max, histogram] = columns[..] else {
            return Err(format!(
                "{} columns, expected StartTimestamp,Interval_Length,Interval_Max,histogram",
                columns.len()
            ));
        };
        let start = milliseconds(start).and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let length = milliseconds(length).map(SignedDuration::from_millis);
        Ok(Self {
            labels,
            start: start.ok_or("StartTimestamp is not a number of seconds")?,
            length: length.ok_or("Interval_Length is not a number of seconds")?,
            histogram: SparseHistogram::from_base64(histogram).map_err(|error: Error| error.to_string())?,
        })
    }
}

/// Writes what stands above the first interval.
pub(crate) fn write_header(out: &mut impl io::Write, start: Timestamp) -> io::Result<()> {
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {} (seconds since epoch)]", seconds(start.as_millisecond()))?;
    writeln!(out, r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#)
}

/// Whether a line holds an interval, as opposed to a comment or the legend.
pub(crate) fn is_interval(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(['#', '"'])
}

fn seconds(milliseconds: i64) -> String {
    let sign = if milliseconds < 0 { "-" } else { "" };
    let magnitude = milliseconds.unsigned_abs();
    format!("{sign}{}.{:03}", magnitude / 1000, magnitude % 1000)
}

fn milliseconds(seconds: &str) -> Option<i64> {
    let seconds: f64 = seconds.parse().ok()?;
    let milliseconds = (seconds * 1e3).round();
    (milliseconds.abs() < 1e15).then_some(milliseconds as i64)
}

fn escaped(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for byte in label.bytes() {
        match byte {
            b',' | b';' | b'=' | b'%' | b'"' | b'#' => write!(text, "%{byte:02X}"),
            0x21..=0x7e => text.write_char(char::from(byte)),
            _ => write!(text, "%{byte:02X}"),
        }
        .expect("writing to a string does not fail");
    }
    text
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    };
    use proptest::prelude::*;

    use super::*;

    fn interval() -> LogInterval {
        LogInterval {
            labels: [("isp".to_owned(), "Comcast Cable, LLC".to_owned()), ("family".to_owned(), "4".to_owned())].into(),
            start: "2026-11-21T10:00:00.125Z".parse().unwrap(),
            length: SignedDuration::from_secs(10),
            histogram: [31_812_154, 2_210, 15].into_iter().collect(),
        }
    }

    #[test]
    fn another_reader_understands_the_log() {
        let mut log = Vec::new();
        write_header(&mut log, interval().start).unwrap();
        io::Write::write_all(&mut log, format!("{}\n", interval().to_line()).as_bytes()).unwrap();
        let entries: Vec<LogEntry<'_>> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
        let [LogEntry::StartTime(start), LogEntry::Interval(line)] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((start.as_millis(), line.start_timestamp().as_millis()), (1_795_255_200_125, 1_795_255_200_125));
        assert_eq!(line.tag().unwrap().as_str(), "family=4;isp=Comcast%20Cable%2C%20LLC");
        assert_eq!((line.duration().as_secs(), line.max()), (10, 31.818));
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, line.encoded_histogram()).unwrap();
        let theirs: hdrhistogram::Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(theirs.len(), 3);
    }

    #[test]
    fn broken_columns_are_named() {
        for (line, what) in [
            ("1,2,3", "3 columns"),
            ("x,2,3,HIST", "StartTimestamp"),
            ("1e300,2,3,HIST", "StartTimestamp"),
            ("1,y,3,HIST", "Interval_Length"),
            ("1,2,3,HIST", "histogram"),
            ("Tag=arm,1,2,3,HIST", "Tag"),
            ("Tag=arm=%f,1,2,3,HIST", "Tag"),
            ("Tag=arm=%é,1,2,3,HIST", "Tag"),
        ] {
            let error = LogInterval::from_line(line).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_labels_survive(labels in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4)) {
            let interval = LogInterval { labels, ..interval() };
            let line = interval.to_line();
            prop_assert!(!line.contains(char::is_whitespace));
            prop_assert_eq!(LogInterval::from_line(&line), Ok(interval));
        }
    }
}
