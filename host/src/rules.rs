//! The rules, with the source of each: pure functions of facts.

mod irq;
mod loss;
mod moderation;
mod path;
mod processor;
mod programs;
mod queues;
mod spread;

use crate::{
    audit::{Expectation, Judged},
    facts::Facts,
};

/// What a rule is about.
#[derive(Clone, Copy)]
pub(crate) enum Scope {
    Host(fn(&Facts<'_>, &Expectation) -> Judged),
    Port(fn(&Facts<'_>, &Expectation, &str) -> Judged),
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    pub(crate) good: &'static str,
    pub(crate) source: &'static str,
    pub(crate) scope: Scope,
}

const SCALING: &str = "Documentation/networking/scaling.rst";
const NAPI: &str = "Documentation/networking/napi.rst";

/// All rules, by number.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        number: 1,
        name: "irq placement",
        good: "every receive queue interrupts a CPU of its own, near the port",
        source: SCALING,
        scope: Scope::Port(irq::placement),
    },
    Rule {
        number: 2,
        name: "irq wandering",
        good: "interrupts stay where they were put",
        source: "irqbalance issues 202 and 297",
        scope: Scope::Port(irq::wandering),
    },
    Rule {
        number: 3,
        name: "queue count",
        good: "as many queues as the port's CPUs, or as the card has",
        source: SCALING,
        scope: Scope::Port(queues::count),
    },
    Rule {
        number: 4,
        name: "rss",
        good: "the table spreads evenly over all queues, and UDP is hashed with its ports",
        source: SCALING,
        scope: Scope::Port(queues::rss),
    },
    Rule {
        number: 5,
        name: "ipv4 as ipv6",
        good: "both families are hashed alike, by the card and for ECMP",
        source: "Documentation/networking/ip-sysctl.rst, fib_multipath_hash_policy",
        scope: Scope::Port(queues::families),
    },
    Rule {
        number: 6,
        name: "rps",
        good: "off where each CPU has a queue; else CPUs of the port's node",
        source: SCALING,
        scope: Scope::Port(spread::rps),
    },
    Rule {
        number: 7,
        name: "rfs",
        good: "both tables set, or neither",
        source: SCALING,
        scope: Scope::Port(spread::rfs),
    },
    Rule {
        number: 8,
        name: "xps",
        good: "each CPU sends by one queue, each queue by CPUs of its own",
        source: SCALING,
        scope: Scope::Port(spread::xps),
    },
    Rule {
        number: 9,
        name: "coalescing",
        good: "adaptive moderation off, and the delay within the budget",
        source: "Linux 78cb421d185c (ena); tuned, [net] plugin",
        scope: Scope::Port(moderation::coalescing),
    },
    Rule {
        number: 10,
        name: "ring size",
        good: "holds the burst, loses nothing, and delays no longer than the budget",
        source: "tuned issue 660; LibreQoS pull request 263",
        scope: Scope::Port(loss::ring),
    },
    Rule {
        number: 11,
        name: "softnet",
        good: "no CPU drops from its backlog or runs out of budget",
        source: "Linux 7acf8a1e8a28; netdata issue 1076",
        scope: Scope::Host(loss::softnet),
    },
    Rule {
        number: 12,
        name: "udp buffers",
        good: "no datagram is lost for want of room in a socket",
        source: "Documentation/networking/snmp_counter.rst; udp(7)",
        scope: Scope::Host(loss::udp_buffers),
    },
    Rule {
        number: 13,
        name: "busy poll",
        good: "deferred interrupts and the flush timeout are both set, or neither",
        source: NAPI,
        scope: Scope::Port(moderation::busy_poll),
    },
    Rule {
        number: 14,
        name: "threaded napi",
        good: "off, or its threads pinned",
        source: NAPI,
        scope: Scope::Port(irq::threaded),
    },
    Rule {
        number: 15,
        name: "af_xdp rings",
        good: "no socket ran out of receive or fill descriptors",
        source: "net/xdp/xsk.c, XDP_STATISTICS; xdp-tutorial issue 116",
        scope: Scope::Port(loss::af_xdp),
    },
    Rule {
        number: 16,
        name: "cpu latency",
        good: "governor performance, no idle state slower than 10 µs",
        source: "tuned, latency-performance; Documentation/admin-guide/pm/cpuidle.rst",
        scope: Scope::Host(processor::latency),
    },
    Rule {
        number: 17,
        name: "pcie and numa",
        good: "the link at its full speed and width; pages are not moved between nodes",
        source: "mlnx_tune; Documentation/admin-guide/sysctl/kernel.rst",
        scope: Scope::Port(processor::bus),
    },
    Rule {
        number: 18,
        name: "egress queue",
        good: "a queue that keeps flows apart and short (fq, fq_codel), nothing dropped, nothing standing",
        source: "RFC 8290, section 1",
        scope: Scope::Port(path::egress),
    },
    Rule {
        number: 19,
        name: "conntrack",
        good: "under 80 % of its table",
        source: "Documentation/networking/nf_conntrack-sysctl.rst",
        scope: Scope::Host(path::conntrack),
    },
    Rule {
        number: 20,
        name: "offloads",
        good: "nothing that holds packets back to join them beyond GRO (LRO, hardware GRO)",
        source: "Documentation/networking/segmentation-offloads.rst; XDP refuses LRO",
        scope: Scope::Port(path::offloads),
    },
    Rule {
        number: 21,
        name: "clock",
        good: "a clock source that is read without the hypervisor's or the chipset's help, and something that disciplines it",
        source: "Documentation/timers/timekeeping.rst",
        scope: Scope::Host(processor::clock),
    },
    Rule {
        number: 22,
        name: "steal",
        good: "the hypervisor takes no time away",
        source: "proc(5), /proc/stat",
        scope: Scope::Host(processor::steal),
    },
    Rule {
        number: 23,
        name: "losses by cause",
        good: "no counter of losses grows",
        source: "the driver's ethtool strings (Linux 6.12)",
        scope: Scope::Port(loss::counters),
    },
    Rule {
        number: 24,
        name: "tuned",
        good: "a profile made for latency, or nobody else who sets what is set here",
        source: "tuned, profiles network-latency and latency-performance; tuned-adm(8)",
        scope: Scope::Host(programs::tuned),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_without_a_gap() {
        for (at, rule) in RULES.iter().enumerate() {
            assert_eq!(usize::from(rule.number), at + 1);
        }
    }
}
