//! Histograms of a fleet's own Prometheus as bins of cohorts: classic and native ones, over its HTTP API.
//!
//! ```text
//! GET /api/v1/query_range ─► counters at the bins' edges ─► differences ─► CohortBin, with the limits of every bucket
//! ```
//!
//! Counters are subtracted here rather than by `increase()`, which extrapolates to the edges of its range and so makes up packets. A bin at
//! whose edges a series is missing, was reset or changed its buckets is left out and told. What Prometheus pooled stays pooled: it can describe and
//! roll back, never promote.

mod http;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{Arm, Labels};
use serde_json::Value;

use crate::{Bucket, CohortBin};

/// Labels of a series that are kept.
const KEPT: [&str; 6] = ["isp", "asn", "family", "server", "window", "share"];

/// What to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// `http://HOST:PORT`, with a path in front of `/api/v1` where there is one. Without TLS: put a proxy on this host before others.
    pub url: String,
    /// Name of the histogram, without `_bucket`.
    pub metric: String,
    /// Label matchers, such as `region="jp"`; empty for none.
    pub matchers: String,
    /// Nanoseconds of its unit: 1e9 for seconds.
    pub unit: f64,
    /// First edge of the first bin.
    pub start: Timestamp,
    /// Last edge of the last bin.
    pub end: Timestamp,
    /// Width of a bin.
    pub bin: SignedDuration,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fetched {
    /// The bins, by time and cohort.
    pub bins: Vec<CohortBin>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is none that can be asked.
    #[error("{url}: write http://HOST:PORT; TLS is for a proxy on this host")]
    Url {
        /// As given.
        url: String,
    },
    /// The server cannot be reached, or breaks off.
    #[error("{url}: cannot be asked: {source}")]
    Io {
        /// Whom.
        url: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The server refuses.
    #[error("{url}: answers {status}: {why}")]
    Refused {
        /// Whom.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        why: String,
    },
    /// The answer is not the API's.
    #[error("{metric}: the answer is no matrix of the HTTP API: {why}")]
    Answer {
        /// What was asked for.
        metric: String,
        /// What is wrong.
        why: String,
    },
    /// The metric is a summary.
    #[error(
        "{metric} has quantiles alone: they can be neither merged over bins nor weighed, so they are refused; export a histogram instead"
    )]
    QuantilesOnly {
        /// The metric.
        metric: String,
    },
    /// There is no such histogram.
    #[error("{metric}: no histogram of that name between {start} and {end}, neither classic nor native")]
    Nothing {
        /// The metric.
        metric: String,
        /// First edge.
        start: Timestamp,
        /// Last edge.
        end: Timestamp,
    },
}

/// Limits of a bucket in nanoseconds.
type Limits = (u64, Option<u64>);
/// Labels of a series.
type Names = BTreeMap<String, String>;
/// Counts of one series at the edges of bins, by edge in milliseconds.
type Counts = BTreeMap<i64, BTreeMap<Limits, f64>>;

/// Asks for a histogram, native or classic, whichever there is; native where there are both.
///
/// # Errors
/// As [`Error`] lists.
pub fn fetch(query: &Query) -> Result<Fetched, Error> {
    let matchers = if query.matchers.is_empty() { String::new() } else { format!("{{{}}}", query.matchers) };
    let ask = |name: String| -> Result<Value, Error> {
        let step = query.bin.as_secs_f64();
        let (start, end) = (query.start.as_millisecond() as f64 / 1e3, query.end.as_millisecond() as f64 / 1e3);
        let expression = format!("{name}{matchers}");
        let parameters = [
            ("query", expression),
            ("start", format!("{start:.3}")),
            ("end", format!("{end:.3}")),
            ("step", step.to_string()),
        ];
        let body = http::get(&query.url, "/api/v1/query_range", &parameters)?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::Answer { metric: query.metric.clone(), why: error.to_string() })
    };
    let native = ask(query.metric.clone())?;
    let fetched = from_answer(query, &native)?;
    if !fetched.bins.is_empty() {
        return Ok(fetched);
    }
    let classic = from_answer(query, &ask(format!("{}_bucket", query.metric))?)?;
    if classic.bins.is_empty() && classic.left_out.is_empty() && fetched.left_out.is_empty() {
        let Query { metric, start, end, .. } = query;
        return Err(Error::Nothing { metric: metric.clone(), start: *start, end: *end });
    }
    Ok(classic)
}

/// The bins in an answer of `query_range`, whichever kind of histogram it holds.
///
/// # Errors
/// [`Error::Answer`] and [`Error::QuantilesOnly`].
pub fn from_answer(query: &Query, answer: &Value) -> Result<Fetched, Error> {
    let wrong = |why: &str| Error::Answer { metric: query.metric.clone(), why: why.to_owned() };
    let series = answer["data"]["result"].as_array().ok_or_else(|| wrong("no data.result"))?;
    let mut groups: BTreeMap<Names, Counts> = BTreeMap::new();
    let mut cumulative: BTreeMap<Names, BTreeMap<i64, Vec<(f64, f64)>>> = BTreeMap::new();
    for one in series {
        let mut labels: Names =
            serde_json::from_value(one["metric"].clone()).map_err(|_| wrong("labels that are no text"))?;
        labels.remove("__name__");
        if labels.contains_key("quantile") {
            return Err(Error::QuantilesOnly { metric: query.metric.clone() });
        }
        let edge = |point: &Value| Some((point[0].as_f64()? * 1e3).round() as i64);
        if let Some(points) = one["histograms"].as_array() {
            let counts = groups.entry(labels.clone()).or_default();
            for point in points {
                let at = edge(point).ok_or_else(|| wrong("a time that is no number"))?;
                counts.insert(at, native(query.unit, &point[1]).ok_or_else(|| wrong("a broken native histogram"))?);
            }
        }
        if let (Some(points), Some(le)) = (one["values"].as_array(), labels.remove("le")) {
            let le = number(&Value::String(le)).ok_or_else(|| wrong("a label le that is no number"))?;
            for point in points {
                let at = edge(point).ok_or_else(|| wrong("a time that is no number"))?;
                let count = number(&point[1]).ok_or_else(|| wrong("a count that is no number"))?;
                cumulative.entry(labels.clone()).or_default().entry(at).or_default().push((le, count));
            }
        }
    }
    for (labels, edges) in cumulative {
        let counts = groups.entry(labels).or_default();
        for (at, buckets) in edges {
            counts.insert(at, classic(query.unit, buckets));
        }
    }
    Ok(bins(query, groups))
}

/// Cumulative counts by upper limit, as counts of their own by limits.
fn classic(unit: f64, mut buckets: Vec<(f64, f64)>) -> BTreeMap<Limits, f64> {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut lower, mut below) = (0, 0.0);
    let mut counts = BTreeMap::new();
    for (le, count) in buckets {
        let upper = le.is_finite().then(|| (le * unit).round() as u64);
        counts.insert((lower, upper), (count - below).max(0.0));
        (lower, below) = (upper.unwrap_or(u64::MAX), count.max(below));
    }
    counts
}

/// A native histogram as the API writes it: `[rule, "lower", "upper", "count"]` each.
fn native(unit: f64, histogram: &Value) -> Option<BTreeMap<Limits, f64>> {
    let Some(buckets) = histogram["buckets"].as_array() else {
        return Some(BTreeMap::new()); // an empty one has no buckets
    };
    let mut counts = BTreeMap::new();
    for bucket in buckets {
        let (lower, upper, count) = (number(&bucket[1])?, number(&bucket[2])?, number(&bucket[3])?);
        // Limits are widened to whole nanoseconds, so that they stay limits.
        let upper = upper.is_finite().then(|| (upper.max(0.0) * unit).ceil() as u64);
        *counts.entry(((lower.max(0.0) * unit).floor() as u64, upper)).or_insert(0.0) += count;
    }
    Some(counts)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) if text == "+Inf" => Some(f64::INFINITY),
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    }
}

/// Differences between the edges of bins, summed over the series of a cohort.
fn bins(query: &Query, groups: BTreeMap<Names, Counts>) -> Fetched {
    let mut fetched = Fetched::default();
    let mut cohorts: BTreeMap<(i64, Option<Arm>, Names), BTreeMap<Limits, u64>> = BTreeMap::new();
    let width = query.bin.as_millis().max(1) as i64;
    let (first, last) = (query.start.as_millisecond(), query.end.as_millisecond());
    for (labels, counts) in groups {
        let name = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
        let arm = match labels.get("arm").map(String::as_str) {
            Some("control") => Some(Arm::Control),
            Some("canary") => Some(Arm::Canary),
            _ => {
                fetched.left_out.push(format!("{name}: no label arm that is control or canary"));
                continue;
            }
        };
        let kept: Names = labels.into_iter().filter(|(name, _)| KEPT.contains(&name.as_str())).collect();
        for start in (first..last).step_by(width as usize) {
            let (before, after) = (counts.get(&start), counts.get(&(start + width)));
            let (Some(before), Some(after)) = (before, after) else {
                if before.is_some() || after.is_some() {
                    fetched.left_out.push(format!("{name}: {}: not there at both edges", instant(start)));
                }
                continue;
            };
            let limits: BTreeSet<&Limits> = before.keys().chain(after.keys()).collect();
            let count = |counts: &BTreeMap<Limits, f64>, limits: &Limits| counts.get(limits).copied().unwrap_or(0.0);
            let difference = |limits: &Limits| count(after, limits) - count(before, limits);
            if limits.iter().any(|limits| difference(limits) < -0.5) {
                fetched.left_out.push(format!("{name}: {}: reset, or with other buckets than before", instant(start)));
                continue;
            }
            let cohort = cohorts.entry((start, arm, kept.clone())).or_default();
            for limits in limits {
                *cohort.entry(*limits).or_default() += difference(limits).round().max(0.0) as u64;
            }
        }
    }
    for ((start, arm, labels), counts) in cohorts {
        let buckets: Vec<Bucket> = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|((lower, upper), count)| Bucket(lower, upper, count))
            .collect();
        let labels: Labels = labels.into_iter().map(|(name, value)| (name, value.into())).collect();
        fetched.bins.push(CohortBin {
            arm,
            labels,
            start: instant(start),
            end: instant(start + width),
            sent: buckets.iter().map(|Bucket(.., count)| count).sum(),
            lost: 0,
            rtt: None,
            buckets: Some(buckets),
            source: format!("prometheus:{}", query.metric),
        });
    }
    fetched
}

fn instant(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn query() -> Query {
        let start: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        Query {
            url: "http://127.0.0.1:1".to_owned(),
            metric: "rtt_seconds".to_owned(),
            matchers: String::new(),
            unit: 1e9,
            start,
            end: start + SignedDuration::from_mins(20),
            bin: SignedDuration::from_mins(10),
        }
    }

    fn series(le: &str, values: [&str; 3]) -> Value {
        let at = |place: usize| 1_795_255_200 + 600 * place;
        let values: Vec<Value> = values.iter().enumerate().map(|(place, value)| json!([at(place), value])).collect();
        json!({"metric": {"__name__": "rtt_seconds_bucket", "arm": "canary", "isp": "NTT", "family": "4", "instance": "a", "le": le}, "values": values})
    }

    #[test]
    fn counters_are_subtracted_and_a_reset_bin_is_left_out() {
        let result = vec![series("0.05", ["5", "10", "2"]), series("+Inf", ["6", "14", "3"])];
        let fetched = from_answer(&query(), &json!({"data": {"result": result}})).unwrap();
        let [bin] = &fetched.bins[..] else { panic!("{fetched:?}") };
        assert_eq!(bin.buckets, Some(vec![Bucket(0, Some(50_000_000), 5), Bucket(50_000_000, None, 3)]));
        assert_eq!((bin.sent, bin.arm), (8, Some(Arm::Canary)));
        assert!(fetched.left_out[0].contains("reset"), "{fetched:?}");
    }

    #[test]
    fn a_summary_is_refused() {
        let summary = json!({"data": {"result": [{"metric": {"quantile": "0.95"}, "values": []}]}});
        let refusal = from_answer(&query(), &summary).unwrap_err().to_string();
        assert!(refusal.contains("quantiles alone"), "{refusal}");
    }
}
