//! Other programs that have their hands on the same settings.

use crate::{
    audit::{Expectation, Judged, Outcome},
    change::Change,
    facts::{Facts, if_there},
};

/// Profiles of tuned that do nothing against latency (tuned 2.24, `profiles/`): those made for it, and those that build on them.
const FOR_LATENCY: [&str; 6] = [
    "latency-performance",
    "network-latency",
    "cpu-partitioning",
    "cpu-partitioning-powersave",
    "realtime",
    "realtime-virtual-guest",
];

pub(super) fn tuned(facts: &Facts<'_>, _: &Expectation) -> Judged {
    let services = facts.text("services")?;
    if !services.lines().any(|name| name == "tuned") {
        return Outcome::not_applicable("tuned does not run");
    }
    let profile = if_there(facts.line("etc/tuned/active_profile"))?.unwrap_or_default();
    if profile.is_empty() {
        return Outcome::remark("tuned runs without a profile that could be read: it may set anew what was set here");
    }
    if profile.split_whitespace().any(|name| FOR_LATENCY.contains(&name)) {
        return Outcome::fine(format!("tuned keeps the profile {profile}; what it sets is set anew when it starts"));
    }
    Outcome::finding(
        format!(
            "tuned keeps the profile {profile}, which is not made for latency, and sets its own values anew when it starts"
        ),
        Change::by_hand("tuned-adm profile network-latency", format!("tuned-adm profile {profile}")),
    )
}
