//! `pathlab canary plan`: what `start` would do, first in one sentence, then to the last rule.

use anyhow::Result;
use pathlab_canary::{
    Experiment, Hop,
    steer::{self, Plan},
};
use serde_json::json;
use tracing::warn;

use super::{answer, seed};
use crate::{
    Global,
    exit::Misuse,
    report::{lasting, spaced},
};

/// Prints it; a device that is not here is told, as the plan may be for another host.
pub(super) fn plan(experiment: &Experiment, global: &Global) -> Result<()> {
    let plan = Plan::new(experiment, seed(experiment)?).map_err(Misuse::of)?;
    for dev in steer::missing_devices(&plan)? {
        warn!("device {dev} of the canary path does not exist here: on this host `canary start` would refuse");
    }
    let sentence = sentence(experiment);
    let document = json!({ "sentence": sentence, "plan": plan.to_string() });
    answer(global, &document, format_args!("# {sentence}\n{plan}"))
}

fn sentence(experiment: &Experiment) -> String {
    let Experiment { experiment: identity, steer, .. } = experiment;
    let from = steer.server_port.map_or_else(|| "of all UDP".to_owned(), |port| format!("of UDP {port}"));
    let way = |(family, hop): (&str, &Option<Hop>)| {
        let Hop { via, dev } = hop.as_ref()?;
        let via = via.map(|via| format!("by {via} ")).unwrap_or_default();
        Some(format!("{family} {via}on {dev}"))
    };
    let ways: Vec<String> =
        [("IPv4", &steer.canary.v4), ("IPv6", &steer.canary.v6)].into_iter().filter_map(way).collect();
    let lease = lasting(std::time::Duration::try_from(steer.lease).unwrap_or_default());
    format!(
        "{} of the sessions {from} leave by the canary path ({}), the others as today; all are back on today's path {lease} after the last renewal",
        spaced(identity.share),
        ways.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_begins_with_what_it_comes_to() {
        let experiment = Experiment::from_toml("canary.toml", include_str!("../../tests/canary.toml")).unwrap();
        assert_eq!(
            sentence(&experiment),
            "15 % of the sessions of UDP 862 leave by the canary path (IPv4 by 203.0.113.2 on d0), the others as today; all are back on today's path 500 ms after the last renewal"
        );
    }
}
