//! What goes wrong, where and when: faults on link ends, routes that shift, and the times of both.

use std::time::Duration;

use toml::Spanned;

use super::{
    Conditions, Fault, Link, LinkEnd, Loss, Node, Reorder, Shift, Window,
    check::Source,
    file::{self, Text},
    play::known,
    units::Span,
};
use crate::error::Result;

/// The windows of those names as stretches of time, in order.
pub(super) fn stretches(source: &Source<'_>, names: &[Text], windows: &[Window]) -> Result<Vec<(Duration, Duration)>> {
    let mut during = Vec::new();
    for name in names {
        let window = windows.iter().find(|window| window.name == *name.get_ref());
        let window = window.ok_or_else(|| source.error(name, format!("no window is called {}", name.get_ref())))?;
        during.push((window.start, window.end));
    }
    during.sort();
    Ok(during)
}

/// What is written of loss and reordering, where it is.
pub(super) fn written(source: &Source<'_>, written: &file::Conditions) -> Result<(Option<Loss>, Option<Reorder>)> {
    let file::Conditions { loss, burst, reorder, hold, .. } = written;
    let loss = match (loss, burst) {
        (Some(loss), burst) => {
            let share = loss.get_ref().0;
            let burst = burst.as_ref().map(|burst| (burst, *burst.get_ref()));
            if let Some((burst, _)) = burst.filter(|(_, length)| !(1.0..=1e6).contains(length) || *length == 1.0) {
                return Err(source.error(burst, "a burst is the mean length of a run of losses, above 1"));
            }
            // so that the good state can be left with a probability of at most one
            if let Some((burst, length)) = burst.filter(|(_, length)| share > length / (length + 1.0)) {
                let problem = format!("runs of {length} losses cannot make up {} % of the packets", share * 100.0);
                return Err(source.error(burst, problem));
            }
            Some(Loss { share, burst: burst.map(|(_, length)| length) })
        }
        (None, Some(burst)) => return Err(source.error(burst, "a burst needs a loss beside it, such as loss = \"1%\"")),
        (None, None) => None,
    };
    let reorder = match (reorder, hold) {
        (Some(share), Some(hold)) => Some(Reorder { share: share.get_ref().0, hold: hold.get_ref().0 }),
        (Some(share), None) => {
            return Err(source.error(share, "reordering needs a hold beside it, such as hold = \"3ms\""));
        }
        (None, Some(hold)) => {
            return Err(source.error(hold, "a hold needs a share beside it, such as reorder = \"1%\""));
        }
        (None, None) => None,
    };
    Ok((loss, reorder))
}

/// The conditions of a link end for IPv4 and IPv6: what is written for one family takes the place of what is written for both.
pub(super) fn conditions(source: &Source<'_>, end: &file::LinkEnd) -> Result<[Conditions; 2]> {
    let both = apply(source, &end.both(), Conditions::default())?;
    let family =
        |written: &Option<file::Conditions>| written.as_ref().map_or(Ok(both), |written| apply(source, written, both));
    Ok([family(&end.v4)?, family(&end.v6)?])
}

fn apply(source: &Source<'_>, own: &file::Conditions, base: Conditions) -> Result<Conditions> {
    let (loss, reorder) = written(source, own)?;
    Ok(Conditions {
        delay: own.delay.as_ref().map_or(base.delay, |delay| delay.0),
        loss: loss.unwrap_or(base.loss),
        reorder: reorder.unwrap_or(base.reorder),
        down: false,
    })
}

pub(super) fn faults(
    source: &Source<'_>,
    faults: Vec<file::Fault>,
    links: &[Link],
    windows: &[Window],
) -> Result<Vec<Fault>> {
    let mut resolved: Vec<Fault> = Vec::new();
    for fault in faults {
        if resolved.iter().any(|other| other.name == *fault.name.get_ref()) {
            return Err(source.error(&fault.name, format!("there are two faults called {}", fault.name.get_ref())));
        }
        let end = place(source, &fault.at, links)?;
        if let Some(family) = fault.family.as_ref().filter(|family| ![4, 6].contains(family.get_ref())) {
            return Err(source.error(family, "a family is 4 or 6"));
        }
        let (loss, reorder) = written(
            source,
            &file::Conditions {
                delay: None,
                loss: fault.loss,
                burst: fault.burst,
                reorder: fault.reorder,
                hold: fault.hold,
            },
        )?;
        let add_delay = fault.add_delay.map_or(Duration::ZERO, |delay| delay.0);
        if loss.is_none() && reorder.is_none() && add_delay.is_zero() && !fault.down {
            return Err(source.error(
                &fault.name,
                format!("fault {} harms nothing: give it add_delay, loss, reorder or down", fault.name.get_ref()),
            ));
        }
        let times = Times { during: &fault.during, on: fault.on.as_ref(), off: fault.off.as_ref() };
        resolved.push(Fault {
            node: end.node.clone(),
            dev: end.dev.clone(),
            family: fault.family.map(Spanned::into_inner),
            add_delay,
            loss,
            reorder,
            down: fault.down,
            during: times.resolve(source, windows)?,
            name: fault.name.into_inner(),
        });
    }
    Ok(resolved)
}

pub(super) fn shifts(
    source: &Source<'_>,
    shifts: Vec<file::Shift>,
    nodes: &[Node],
    links: &[Link],
    windows: &[Window],
) -> Result<Vec<Shift>> {
    shifts
        .into_iter()
        .map(|shift| {
            let node = known(source, &shift.node, nodes)?;
            let to = source.prefix(&shift.to)?;
            if !node.routes.iter().any(|route| route.to.network() == to.network()) {
                return Err(
                    source.error(&shift.to, format!("node {} has no route to {to} that could shift", node.name))
                );
            }
            let hop = source.hop(&node.name, &shift.via, &shift.dev, links)?;
            if hop.via.is_ipv6() != to.is_ipv6() {
                return Err(source.error(&shift.via, format!("{} is not of the family of {to}", hop.via)));
            }
            let times = Times { during: &shift.during, on: None, off: None };
            let during = times.resolve(source, windows)?;
            Ok(Shift { node: node.name.clone(), to, via: hop.via, dev: hop.dev, during, name: shift.name.into_inner() })
        })
        .collect()
}

/// The link end that `node:dev` names.
pub(super) fn place<'a>(source: &Source<'_>, at: &Text, links: &'a [Link]) -> Result<&'a LinkEnd> {
    let text = at.get_ref();
    let Some((node, dev)) = text.split_once(':') else {
        return Err(source.error(at, format!("{text:?} is no place: write node:interface, of the end that sends")));
    };
    let found = links.iter().flat_map(|link| &link.ends).find(|end| end.node == node && end.dev == dev);
    found.ok_or_else(|| source.error(at, format!("node {node} has no interface {dev}")))
}

/// Windows, and within each of them the turns of what comes and goes.
struct Times<'a> {
    during: &'a [Text],
    on: Option<&'a Spanned<Span>>,
    off: Option<&'a Spanned<Span>>,
}

impl Times<'_> {
    fn resolve(&self, source: &Source<'_>, windows: &[Window]) -> Result<Vec<(Duration, Duration)>> {
        let whole = stretches(source, self.during, windows)?;
        let (on, off) = match (self.on, self.off) {
            (None, None) => return Ok(whole),
            (Some(on), Some(off)) => (on, off),
            (Some(alone), None) | (None, Some(alone)) => {
                return Err(source.error(alone, "what comes and goes has both: on = \"2s\", off = \"3s\""));
            }
        };
        for span in [on, off] {
            if span.get_ref().0 < Duration::from_millis(1) {
                return Err(source.error(span, "what comes and goes stays for a millisecond at least"));
            }
        }
        let (on, off) = (on.get_ref().0, off.get_ref().0);
        let mut turns = Vec::new();
        for (start, end) in whole {
            let mut at = start;
            while at < end {
                turns.push((at, (at + on).min(end)));
                at += on + off;
            }
        }
        Ok(turns)
    }
}
