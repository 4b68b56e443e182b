//! What must come of a run: a figure, of whom, and its bounds.

use std::fmt;

use super::{
    Scenario,
    check::Source,
    faults::place,
    file::{self, Text},
    units::{Rate, Share, Span},
};
use crate::error::Result;

/// A figure with its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// Which figure.
    pub what: Metric,
    /// Of whom.
    pub of: Of,
    /// Less the same figure of these, where it is a difference.
    pub above: Option<Of>,
    /// Lower bound, included.
    pub at_least: Option<Bound>,
    /// Upper bound, included.
    pub at_most: Option<Bound>,
}

/// A bound as it is written and as a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    /// As it stands in the file.
    pub text: String,
    /// In the quantity's unit.
    pub value: f64,
}

/// Which figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// Quantile (0 to 1) of the round trips.
    Rtt(f64),
    /// Quantile of the delays from client to reflector.
    Forward(f64),
    /// Quantile of the delays from reflector to client.
    Return(f64),
    /// Quantile of the differences of the round trips of successive packets of a session, without sign (IPDV, RFC 3393).
    Ipdv(f64),
    /// Share of packets without a reply.
    Loss,
    /// Share of packets that did not reach the reflector; those of which nobody knows, the last ones of a session, are left out.
    LossForward,
    /// Share of the packets that reached the reflector whose reply did not come back.
    LossReturn,
    /// Share of the packets that reached the reflector after a later one of their session (RFC 4737, section 3).
    Reordered,
    /// What a bulk's receiver got in order: payload.
    Goodput {
        /// The bulk.
        bulk: String,
    },
    /// A counter of a link end.
    Count {
        /// Which.
        count: Counter,
        /// Node of the link end.
        node: String,
        /// Its interface.
        dev: String,
    },
    /// Packets for which some node had no route.
    Unroutable,
}

/// A counter of a link end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Sent on.
    Sent,
    /// Found the queue full.
    Overflowed,
    /// Dropped from the queue by its discipline.
    Dropped,
    /// Marked by it.
    Marked,
    /// Lost on the way to the other end.
    Lost,
    /// Found the receive ring full.
    Missed,
}

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Nanoseconds.
    Time,
    /// Of one.
    Share,
    /// Bits per second.
    Rate,
    /// Packets.
    Count,
}

/// Of which test packets: all where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Of {
    /// Sent in this window.
    pub window: Option<String>,
    /// Of clients of this ISP.
    pub isp: Option<String>,
    /// 4 or 6.
    pub family: Option<u8>,
    /// Answered by the canary arm, or by the control arm.
    pub canary: Option<bool>,
    /// Of sessions that are sent by this link end on their way there or back, as routes are when nothing is wrong: node and interface.
    pub via: Option<(String, String)>,
}

impl Metric {
    /// What it is measured in.
    pub fn quantity(&self) -> Quantity {
        match self {
            Self::Rtt(_) | Self::Forward(_) | Self::Return(_) | Self::Ipdv(_) => Quantity::Time,
            Self::Loss | Self::LossForward | Self::LossReturn | Self::Reordered => Quantity::Share,
            Self::Goodput { .. } => Quantity::Rate,
            Self::Count { .. } | Self::Unroutable => Quantity::Count,
        }
    }
}

const KNOWN: &str = "rtt.p50, forward.p95, return.p95, ipdv.p95 or another percentile, loss, loss.forward, loss.return, reordered, goodput, sent, \
                     overflowed, dropped, marked, lost, missed or unroutable";

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // a percentile has at most two decimals, so that this is what was written
            Self::Rtt(level) => write!(f, "rtt.p{}", (level * 1e4).round() / 100.0),
            Self::Forward(level) => write!(f, "forward.p{}", (level * 1e4).round() / 100.0),
            Self::Return(level) => write!(f, "return.p{}", (level * 1e4).round() / 100.0),
            Self::Ipdv(level) => write!(f, "ipdv.p{}", (level * 1e4).round() / 100.0),
            Self::Loss => f.write_str("loss"),
            Self::LossForward => f.write_str("loss.forward"),
            Self::LossReturn => f.write_str("loss.return"),
            Self::Reordered => f.write_str("reordered"),
            Self::Goodput { bulk } => write!(f, "goodput of {bulk}"),
            Self::Count { count, node, dev } => write!(f, "{count} at {node}:{dev}"),
            Self::Unroutable => f.write_str("unroutable"),
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "sent",
            Self::Overflowed => "overflowed",
            Self::Dropped => "dropped",
            Self::Marked => "marked",
            Self::Lost => "lost",
            Self::Missed => "missed",
        })
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arm = self.canary.map(|canary| if canary { "canary" } else { "control" });
        let parts = [
            self.window.clone(),
            self.isp.clone(),
            self.family.map(|family| format!("IPv{family}")),
            arm.map(str::to_owned),
            self.via.as_ref().map(|(node, dev)| format!("by {node}:{dev}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&if parts.is_empty() { "all".to_owned() } else { parts.join(", ") })
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.of != Of::default() {
            write!(f, " ({})", self.of)?;
        }
        self.above.iter().try_for_each(|above| write!(f, " above that of ({above})"))
    }
}

pub(super) fn expectation(source: &Source<'_>, written: file::Expect, scenario: &Scenario) -> Result<Expectation> {
    let what = metric(source, &written, scenario)?;
    let about_sessions = matches!(what.quantity(), Quantity::Time | Quantity::Share);
    let file::Expect { window, isp, family, arm, via, above, at_least, at_most, .. } = written;
    let own = file::Of { window, isp, family, arm, via };
    if let Some((key, place)) = own.first().filter(|_| !about_sessions) {
        let allowed = matches!(what, Metric::Goodput { .. }) && key == "window";
        if !allowed {
            return Err(source.error_at(place, format!("{what} is not of some sessions: leave out {key}")));
        }
    }
    if at_least.is_none() && at_most.is_none() {
        return Err(source.error(&written.what, "an expectation needs a bound: at_least or at_most"));
    }
    let bound = |text: Option<Text>| {
        text.map(|text| {
            let value = value(what.quantity(), text.get_ref()).map_err(|problem| source.error(&text, problem))?;
            Ok::<_, crate::Error>(Bound { value, text: text.into_inner() })
        })
        .transpose()
    };
    Ok(Expectation {
        of: of(source, own, scenario)?,
        above: above.map(|above| of(source, above, scenario)).transpose()?,
        at_least: bound(at_least)?,
        at_most: bound(at_most)?,
        what,
    })
}

fn metric(source: &Source<'_>, written: &file::Expect, scenario: &Scenario) -> Result<Metric> {
    let name = written.what.get_ref().as_str();
    let unknown = || source.error(&written.what, format!("{name:?} is no figure: use {KNOWN}"));
    let counter = match name {
        "sent" => Some(Counter::Sent),
        "overflowed" => Some(Counter::Overflowed),
        "dropped" => Some(Counter::Dropped),
        "marked" => Some(Counter::Marked),
        "lost" => Some(Counter::Lost),
        "missed" => Some(Counter::Missed),
        _ => None,
    };
    if let Some(count) = counter {
        let Some(at) = &written.at else {
            return Err(source.error(&written.what, format!("{name} needs a place beside it: at = \"node:interface\"")));
        };
        let end = place(source, at, &scenario.links)?;
        return Ok(Metric::Count { count, node: end.node.clone(), dev: end.dev.clone() });
    }
    if let Some(at) = &written.at {
        return Err(source.error(at, format!("{name} is not of one place: leave out at")));
    }
    if name == "goodput" {
        let Some(bulk) = &written.bulk else {
            return Err(source.error(&written.what, "goodput needs the name of a bulk beside it"));
        };
        if !scenario.bulks.iter().any(|known| known.name == *bulk.get_ref()) {
            return Err(source.error(bulk, format!("no bulk is called {}", bulk.get_ref())));
        }
        return Ok(Metric::Goodput { bulk: bulk.get_ref().clone() });
    }
    Ok(match name {
        "loss" => Metric::Loss,
        "loss.forward" => Metric::LossForward,
        "loss.return" => Metric::LossReturn,
        "reordered" => Metric::Reordered,
        "unroutable" => Metric::Unroutable,
        _ => {
            let (what, level) = name.split_once(".p").ok_or_else(unknown)?;
            let level: f64 = level.parse().ok().filter(|level| (0.0..=100.0).contains(level)).ok_or_else(unknown)?;
            let level = level / 100.0;
            match what {
                "rtt" => Metric::Rtt(level),
                "forward" => Metric::Forward(level),
                "return" => Metric::Return(level),
                "ipdv" => Metric::Ipdv(level),
                _ => return Err(unknown()),
            }
        }
    })
}

fn of(source: &Source<'_>, written: file::Of, scenario: &Scenario) -> Result<Of> {
    let file::Of { window, isp, family, arm, via } = written;
    if let Some(window) =
        window.as_ref().filter(|name| !scenario.windows.iter().any(|known| known.name == *name.get_ref()))
    {
        return Err(source.error(window, format!("no window is called {}", window.get_ref())));
    }
    if let Some(isp) = isp.as_ref().filter(|name| !scenario.isps.iter().any(|known| known.name == *name.get_ref())) {
        return Err(source.error(isp, format!("no ISP is called {}", isp.get_ref())));
    }
    if let Some(family) = family.as_ref().filter(|family| ![4, 6].contains(family.get_ref())) {
        return Err(source.error(family, "a family is 4 or 6"));
    }
    let via = via.map(|via| place(source, &via, &scenario.links).map(|end| (end.node.clone(), end.dev.clone())));
    Ok(Of {
        window: window.map(Text::into_inner),
        isp: isp.map(Text::into_inner),
        family: family.map(toml::Spanned::into_inner),
        canary: arm.map(|arm| matches!(arm.into_inner(), file::Arm::Canary)),
        via: via.transpose()?,
    })
}

/// A bound in the unit of its quantity.
fn value(quantity: Quantity, text: &str) -> std::result::Result<f64, String> {
    match quantity {
        Quantity::Time => text.parse().map(|Span(span)| span.as_nanos() as f64),
        Quantity::Share => text.parse().map(|Share(share)| share),
        Quantity::Rate => text.parse().map(|Rate(rate)| rate as f64),
        Quantity::Count => {
            let number = text.strip_suffix(" packets").and_then(|number| number.parse::<u64>().ok());
            number.map(|number| number as f64).ok_or_else(|| format!("{text:?} is no count, such as \"120 packets\""))
        }
    }
}
