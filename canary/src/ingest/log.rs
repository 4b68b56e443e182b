//! HdrHistogram interval logs: by session where the tag names one, by cohort otherwise.
//!
//! Reserved in a tag: `session`, `key`, `arm`, `metric` (`rtt`, which is meant where it is missing, `ipdv_round_trip`, `ipdv_forward` or
//! `ipdv_return`), `sent`, `lost` and `source`; all other labels are the session's or the cohort's. Values are nanoseconds.

use pathlab_record::{Arm, LogInterval, SessionBin};

use super::cohort::CohortBin;

/// What a line of a log is.
pub(super) enum Interval {
    /// A comment or the legend.
    None,
    /// A session's bin, and whether it counts packets: those of other metrics come beside the round trips.
    Session(Box<SessionBin>, bool),
    Cohort(CohortBin),
}

pub(super) fn read(line: &[u8], zone: &str) -> Result<Interval, String> {
    let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
    if text.starts_with(['#', '"']) {
        return Ok(Interval::None);
    }
    let LogInterval { mut labels, start, length, histogram } = LogInterval::from_line(text)?;
    let arm = match labels.remove("arm").as_deref() {
        None => None,
        Some("control") => Some(Arm::Control),
        Some("canary") => Some(Arm::Canary),
        Some(other) => return Err(format!("tag arm={other}, expected control or canary")),
    };
    let mut count = |name: &str| match labels.remove(name).map(|text| text.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(format!("tag {name} is no number")),
    };
    let (sent, lost) = (count("sent")?, count("lost")?);
    let (session, key) = (labels.remove("session"), labels.remove("key"));
    let source = labels.remove("source").unwrap_or_else(|| "hlog".to_owned());
    let metric = labels.remove("metric").unwrap_or_else(|| "rtt".to_owned());
    let end = start.checked_add(length).map_err(|_| "Interval_Length is out of range".to_owned())?;
    let labels = labels.into_iter().map(|(name, value)| (name, value.into())).collect();
    let Some(session) = session.or_else(|| key.clone()) else {
        if metric != "rtt" {
            return Err(format!("metric={metric} of a cohort: pooled data are judged by rtt alone"));
        }
        let rtt = histogram;
        let (sent, lost) = totals(sent, lost, rtt.count());
        return Ok(Interval::Cohort(CohortBin {
            arm,
            labels,
            start,
            end,
            sent,
            lost,
            rtt: Some(rtt),
            buckets: None,
            source,
        }));
    };
    let key = key.map(|key| key.parse().map_err(|_| format!("tag key={key} is no ADDRESS:PORT"))).transpose()?;
    let (sent, lost) = if metric == "rtt" { totals(sent, lost, histogram.count()) } else { (histogram.count(), 0) };
    let mut bin = SessionBin {
        session,
        key,
        arm_assigned: arm,
        labels,
        start,
        end,
        zone: zone.to_owned(),
        sent,
        received: sent - lost,
        lost,
        source,
        ..SessionBin::default()
    };
    match metric.as_str() {
        "rtt" => bin.rtt = Some(histogram),
        "ipdv_round_trip" => bin.ipdv_round_trip = Some(histogram),
        "ipdv_forward" => bin.ipdv_forward = Some(histogram),
        "ipdv_return" => bin.ipdv_return = Some(histogram),
        other => return Err(format!("tag metric={other} is not known")),
    }
    let counted = metric == "rtt";
    if !counted {
        bin.source = format!("{} {metric}", bin.source);
    }
    Ok(Interval::Session(Box::new(bin), counted))
}

/// Sent and lost, of which one may be told and the rest follows from what was received.
fn totals(sent: Option<u64>, lost: Option<u64>, received: u64) -> (u64, u64) {
    match (sent, lost) {
        (Some(sent), Some(lost)) => (sent, lost.min(sent)),
        (Some(sent), None) => (sent.max(received), sent.saturating_sub(received)),
        (None, lost) => (received + lost.unwrap_or(0), lost.unwrap_or(0)),
    }
}
