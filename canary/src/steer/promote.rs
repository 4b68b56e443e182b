//! Promotion: the canary path becomes the way for every client that takes part, and stays it when nobody runs.
//!
//! ```text
//! priority      steer.exclude  → main           (the experiment's own rules stand here while it runs)
//! priority + 1  udp sport 7777 → table 223      both families, no mark, no lease
//! ```
//!
//! Plain rules and routes, so that nothing has to live for it. They stand with their undo journal, which
//! [`super::rollback`] takes back; a reboot takes them away too. A running experiment is ended afterwards: its canary
//! sessions stay where they are, its control sessions have just come over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pathlab_guard::{Family, Journal, Object, Route, Rtnetlink, Rule};
use pathlab_record::Prefix;
use tracing::info;

use super::{Error, Options, Plan, Result, control, prefix, preflight};
use crate::Mode;

/// The routing table of a promoted path.
pub const PROMOTED_TABLE: u32 = 223;
/// Journals of promotions carry this verb.
pub const PROMOTED: &str = "promote";
/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// What a promotion put on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Routes and rules, in the order in which they were put there.
    pub objects: Vec<Object>,
    /// The experiment that ran was ended.
    pub ended_experiment: bool,
}

/// Sends every client that takes part by the canary path, in the calling thread's network namespace, and ends the
/// experiment if it runs.
///
/// # Errors
/// [`Error::Promoted`] when one is in place; the preflight's refusals; [`Error::Guard`]: then nothing was left.
pub fn promote(plan: &Plan, options: &Options) -> Result<Promoted> {
    let mut rtnetlink = Rtnetlink::open(None)?;
    let sources = preflight::check_promotion(plan, &mut rtnetlink)?;
    let (routes, rules) = (routes(plan, &sources), rules(plan));
    let objects: Vec<Object> =
        routes.iter().cloned().map(Object::from).chain(rules.iter().cloned().map(Object::from)).collect();
    let mut journal = Journal::create_in(&options.undo_dir, PROMOTED, &plan.name)?;
    journal.record_all(objects.clone())?;
    for route in &routes {
        route.add(&mut rtnetlink)?;
    }
    for rule in &rules {
        rule.add(&mut rtnetlink)?;
    }
    journal.keep()?;
    info!(experiment = plan.name, "promoted");
    let ended_experiment = match control::end_experiment(&plan.name, options) {
        Ok(_) => true,
        Err(Error::NotRunning { .. }) => false,
        Err(error) => return Err(error),
    };
    Ok(Promoted { objects, ended_experiment })
}

/// The promotion in iproute2's words, for an operator's own files: what survives a reboot is theirs to write.
pub fn show(promoted: &Promoted) -> Vec<String> {
    let command = |object: &Object| match object {
        Object::Route(route) => route.command("add"),
        Object::Rule(rule) => rule.command("add"),
        other => other.to_string(),
    };
    promoted.objects.iter().map(command).collect()
}

fn routes(plan: &Plan, sources: &[(Family, Option<IpAddr>)]) -> Vec<Route> {
    let route = |path: &super::plan::Path| {
        let to = match path.family {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        // Sessions keep the address to which they send. A router's packets have theirs already.
        let source = sources.iter().find(|(family, _)| *family == path.family).and_then(|(_, source)| *source);
        let source = source.filter(|_| plan.mode == Mode::Host);
        Route { netns: None, to, prefix: 0, via: path.via, dev: path.dev.clone(), source, table: PROMOTED_TABLE }
    };
    plan.paths.iter().map(route).collect()
}

fn rules(plan: &Plan) -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in &plan.paths {
        let family = path.family;
        let rule = |priority, to: Option<Prefix>, table| Rule {
            netns: None,
            family,
            priority,
            fwmark: 0,
            mask: 0,
            udp_source_port: Some(plan.server_port.unwrap_or(0)),
            to: to.map(|prefix| (prefix.address(), prefix.length())),
            table,
        };
        let excluded = prefix::disjoint(&plan.exclude, family);
        rules.extend(excluded.into_iter().map(|prefix| rule(plan.priority, Some(prefix), MAIN)));
        let included = prefix::disjoint(&plan.include, family);
        rules.extend(included.iter().map(|prefix| rule(plan.priority + 1, Some(*prefix), PROMOTED_TABLE)));
        if plan.include.is_empty() {
            rules.push(rule(plan.priority + 1, None, PROMOTED_TABLE));
        }
    }
    rules
}
