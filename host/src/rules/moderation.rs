//! How long a packet is held back before anybody is told: interrupt moderation and busy polling.

use pathlab_guard::ethtool::Group;

use crate::{
    audit::{Expectation, Judged, Outcome},
    change::Change,
    facts::{Facts, if_there},
    port::Coalesce,
};

pub(super) fn coalescing(facts: &Facts<'_>, expectation: &Expectation, port: &str) -> Judged {
    let Some(coalesce) = if_there(facts.told::<Coalesce>(&format!("port/{port}/coalesce")))? else {
        return Outcome::not_applicable("the driver moderates nothing that could be set");
    };
    let set = |to, now| Change::parameters(Group::Coalesce, port, to, now);
    let budget = expectation.budget_us;
    let adaptive = coalesce.adaptive_rx == Some(true);
    let Some(usecs) = coalesce.rx_usecs else {
        return match coalesce.adaptive_rx {
            Some(true) => Outcome::finding(
                "adaptive: the driver chooses the delay by the rate",
                set("adaptive-rx off".into(), "adaptive-rx on".into()),
            ),
            _ => Outcome::not_applicable("the driver tells no delay"),
        };
    };
    let wanted = usecs.min(budget);
    if adaptive {
        return Outcome::finding(
            format!("adaptive: the delay goes up and down with the rate, now {usecs} µs"),
            set(format!("adaptive-rx off rx-usecs {wanted}"), format!("adaptive-rx on rx-usecs {usecs}")),
        );
    }
    if usecs > budget {
        return Outcome::finding(
            format!("a packet may wait {usecs} µs for its interrupt; the budget is {budget} µs"),
            set(format!("rx-usecs {wanted}"), format!("rx-usecs {usecs}")),
        );
    }
    Outcome::fine(format!("fixed at {usecs} µs, budget {budget} µs"))
}

pub(super) fn busy_poll(facts: &Facts<'_>, _: &Expectation, port: &str) -> Judged {
    let poll = facts.number_if_there("proc/sys/net/core/busy_poll")?;
    let read = facts.number_if_there("proc/sys/net/core/busy_read")?;
    let (Some(poll), Some(read)) = (poll, read) else {
        return Outcome::not_applicable("the kernel has no busy polling");
    };
    let deferred_path = format!("sys/class/net/{port}/napi_defer_hard_irqs");
    let flush_path = format!("sys/class/net/{port}/gro_flush_timeout");
    let (Some(deferred), Some(flush)) = (facts.number_if_there(&deferred_path)?, facts.number_if_there(&flush_path)?)
    else {
        return Outcome::not_applicable("the kernel cannot defer interrupts (5.8 and later can)");
    };
    let mut change = Change::default();
    match (deferred > 0, flush > 0) {
        (true, false) => {
            change.write(&deferred_path, "0", &deferred.to_string());
            Outcome::finding(
                format!("interrupts are deferred {deferred} times without a flush timeout: the first ends it"),
                change,
            )
        }
        (false, true) => {
            change.write(&flush_path, "0", &flush.to_string());
            Outcome::finding(format!("GRO holds packets up to {flush} ns and interrupts are not deferred"), change)
        }
        (true, true) => Outcome::fine(format!(
            "interrupts deferred {deferred} times, flush after {flush} ns, busy_poll {poll}, busy_read {read}"
        )),
        (false, false) => Outcome::fine(format!("interrupts not deferred, busy_poll {poll}, busy_read {read}")),
    }
}
