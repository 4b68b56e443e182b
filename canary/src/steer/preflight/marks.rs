//! Whose bits, priorities and rules are whose: two managers that use the same bits of the mark steer each other's
//! packets.

use netlink_packet_route::{
    RouteNetlinkMessage,
    rule::{RuleAttribute, RuleMessage},
};
use pathlab_guard::{Family, Rtnetlink};

use super::{address_family, kernel};
use crate::{
    Mask,
    steer::{
        Error, Result,
        nfnetlink::{MarkUse, NftSocket},
        plan::{Plan, ROUTE_TABLE},
        ruleset,
    },
};

/// Refuses a rule of somebody else at our priority or on our bits of the mark.
pub(super) fn routing_rules_are_free(plan: &Plan, family: Family, rtnetlink: &mut Rtnetlink) -> Result<()> {
    for rule in routing_rules(rtnetlink, family)? {
        let priority = priority(&rule);
        // The second is that of a promotion.
        if (priority == plan.priority || priority == plan.priority + 1) && !is_ours(plan, &rule) {
            return Err(Error::PriorityTaken { family, priority });
        }
        let (mark, mask) = fwmark(&rule);
        if mask & plan.mask != 0 && !is_ours(plan, &rule) {
            return Err(Error::MarkTaken { family, priority, mark, mask, ours: Mask(plan.mask) });
        }
    }
    Ok(())
}

/// Refuses a packet filter of somebody else that looks at our bits of the mark or changes them.
pub(super) fn filters_are_free(plan: &Plan, nft: &mut NftSocket) -> Result<()> {
    let uses = nft.mark_uses_beside(ruleset::TABLE)?;
    match uses.into_iter().find(|found| found.bits & plan.mask != 0) {
        Some(MarkUse { table, chain, bits }) => {
            Err(Error::FilterUsesMark { table, chain, bits, ours: Mask(plan.mask) })
        }
        None => Ok(()),
    }
}

/// Whether our rule is where it was put.
pub(super) fn routing_rule_stands(plan: &Plan, family: Family, rtnetlink: &mut Rtnetlink) -> Result<bool> {
    Ok(routing_rules(rtnetlink, family)?.iter().any(|rule| is_ours(plan, rule)))
}

fn is_ours(plan: &Plan, rule: &RuleMessage) -> bool {
    priority(rule) == plan.priority && table(rule) == ROUTE_TABLE
}

fn routing_rules(rtnetlink: &mut Rtnetlink, family: Family) -> Result<Vec<RuleMessage>> {
    let mut question = RuleMessage::default();
    question.header.family = address_family(family);
    let answer = rtnetlink.dump(RouteNetlinkMessage::GetRule(question)).map_err(kernel("list the routing rules"))?;
    let rule = |message| match message {
        RouteNetlinkMessage::NewRule(rule) => Some(rule),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(rule).collect())
}

fn priority(rule: &RuleMessage) -> u32 {
    let found = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    // The kernel leaves a zero out.
    found.unwrap_or(0)
}

fn table(rule: &RuleMessage) -> u32 {
    let found = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    found.unwrap_or(rule.header.table.into())
}

/// Value and mask; no mask when the rule does not look at the mark.
fn fwmark(rule: &RuleMessage) -> (u32, u32) {
    let mut found = (0, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(mark) => found.0 = *mark,
            RuleAttribute::FwMask(mask) => found.1 = Some(*mask),
            _ => {}
        }
    }
    (found.0, found.1.unwrap_or(if found.0 == 0 { 0 } else { u32::MAX }))
}
