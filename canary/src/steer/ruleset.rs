//! The nf_tables table: bucket to arm, arm to gate, gate to mark, in bytes for the kernel and in nft's words for the
//! operator.
//!
//! ```text
//!          jhash            bucket_arm                    canary_gate
//! packet ─────────► bucket ──┬───────► chain canary ──┬─────────────► chain steered: count, set the mark
//!                   0..9999  │ interval               │ leased, one for each family
//!                            └ no element: control,   └ no element: the gate is shut, count as held, no mark
//!                              count
//! ```
//!
//! A bucket that no share up to `cap_share` reaches is not looked up: it is control's. Every other packet takes the same
//! few look-ups, whatever the number of sessions. The elements of `canary_gate` carry a timeout: when nobody renews them
//! the kernel removes them, and the arm's packets fall through without a mark. Bits of the mark outside the mask are left
//! as they are.
//!
//! The maps lead to chains and not to numbers that the next map takes up: nft 1.0.6, the one of Debian 12, aborts when
//! it lists a map of a map. For the same reason the gate is looked up by the packet's family, which nft can name, one
//! element each.

use pathlab_guard::Family;
use pathlab_record::Prefix;

use super::{
    nfnetlink::{BaseChain, Batch, Data, Element, Set, Type, Verdict},
    plan::{Path, Plan},
    prefix,
    rules::{Chain, chains, nfproto, proto_name},
};
use crate::Share;

/// One table a network namespace: a second steerer finds the name taken.
pub(crate) const TABLE: &str = "pathlab_canary";
pub(crate) const BUCKET_ARM: &str = "bucket_arm";
pub(crate) const CANARY_GATE: &str = "canary_gate";
/// The chain behind the open gate, by family, and the one with the counts and caps, in host mode.
pub(super) const STEERED: &str = "steered";
pub(super) const COUNTED: &str = "counted";

/// Packets of control sessions.
pub(crate) const CONTROL: &str = "control";
/// Packets of canary sessions that got the mark.
pub(crate) const CANARY: &str = "canary";
/// Packets of canary sessions that met a shut gate.
pub(crate) const HELD: &str = "held";
/// Packets of canary sessions for which the list of sessions had no room.
pub(crate) const OVER: &str = "over";

/// Packets of canary sessions above the cap of packets a second.
pub(crate) const TOO_FAST: &str = "too_fast";

const COUNTERS: [&str; 5] = [CONTROL, CANARY, HELD, OVER, TOO_FAST];

/// Canary sessions that sent a packet lately, by family.
pub(crate) const SESSIONS: [&str; 2] = ["sessions4", "sessions6"];

/// A set with its elements in both forms.
struct Filled {
    set: Set,
    /// The declaration and the elements in nft's words.
    text: String,
    elements: Vec<Element>,
}

/// The transaction that puts the whole table in place, with the gate open for the length of the lease.
pub(crate) fn create(plan: &Plan) -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.add_table(&comment(plan));
    for counter in COUNTERS {
        batch.add_counter(counter);
    }
    let chains = chains(plan);
    // Chains before the maps that name them, rules after the maps that they name.
    for chain in &chains {
        batch.add_chain(&chain.name, chain.base);
    }
    for Filled { set, elements, .. } in sets(plan) {
        batch.add_set(&set);
        batch.add_elements(&set.name, &elements);
    }
    for chain in &chains {
        for rule in &chain.rules {
            batch.add_rule(&chain.name, &rule.expressions);
        }
    }
    batch
}

/// The transaction that gives the canary arm another share.
pub(crate) fn assign(share: Share) -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.flush_set(BUCKET_ARM);
    batch.add_elements(BUCKET_ARM, &bucket_arm(share));
    batch
}

/// The transaction that renews the lease. It fails as a whole when the lease has run out: a shut gate cannot be renewed
/// open.
pub(crate) fn renew(plan: &Plan) -> Batch {
    let mut batch = shut(plan);
    // Deleted and added in one generation, no packet sees it shut. Kernels before 6.12 cannot prolong an element in
    // place, and later ones would bring an expired one back to life.
    batch.add_elements(CANARY_GATE, &open_gate(plan));
    batch
}

/// The transaction that sends the canary arm to control.
pub(crate) fn shut(plan: &Plan) -> Batch {
    let mut batch = Batch::new(TABLE);
    let keys: Vec<_> = plan.paths.iter().map(|path| Element::key([nfproto(path.family)])).collect();
    batch.delete_elements(CANARY_GATE, &keys);
    batch
}

/// The transaction that takes everything away.
pub(crate) fn delete() -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.delete_table();
    batch
}

/// The share that these elements of `bucket_arm` give; `None` when they are not ours.
pub(crate) fn share_of(elements: &[(Vec<u8>, bool)]) -> Option<Share> {
    let ends = elements.iter().filter(|(_, ends)| *ends);
    let bounds = ends.map(|(key, _)| Some(u32::from_be_bytes(key.as_slice().try_into().ok()?)));
    Share::from_buckets(bounds.collect::<Option<Vec<_>>>()?.into_iter().min()?.try_into().ok()?)
}

fn comment(plan: &Plan) -> String {
    format!("pathlab canary {}", plan.name)
}

/// The experiment that a table's comment names.
pub(crate) fn experiment_of(comment: &str) -> &str {
    comment.strip_prefix("pathlab canary ").unwrap_or(comment)
}

/// The buckets of the canary arm; all others are control's. One interval is searched faster than one for each arm.
/// Keys of an interval map are compared byte for byte, so they are big-endian.
fn bucket_arm(share: Share) -> Vec<Element> {
    let [from, to] = [0, share.buckets()].map(|bucket| u32::from(bucket).to_be_bytes());
    vec![Element::with(from, goto(CANARY)), Element::end(to)]
}

fn open_gate(plan: &Plan) -> Vec<Element> {
    let open = |path: &Path| {
        let steered = goto(&with_family(STEERED, path.family));
        Element { lease: Some(plan.lease), ..Element::with([nfproto(path.family)], steered) }
    };
    plan.paths.iter().map(open).collect()
}

fn goto(chain: &str) -> Data {
    Data::Verdict(Verdict::Goto(chain.to_owned()))
}

fn sets(plan: &Plan) -> Vec<Filled> {
    let gates = plan.paths.iter().map(|path| {
        let (family, lease) = (path.family, plan.lease.as_millis());
        format!("{} timeout {lease}ms : goto {}", proto_name(family), with_family(STEERED, family))
    });
    let verdict_map = |name: &str, key| Set {
        name: name.to_owned(),
        key,
        data: Some(Type::VERDICT),
        interval: false,
        timeout: false,
        learns: None,
    };
    let mut sets = vec![
        Filled {
            set: Set { interval: true, ..verdict_map(BUCKET_ARM, Type::MARK) },
            text: format!(
                "type mark : verdict; flags interval; elements = {{ {:#010x}-{:#010x} : goto {CANARY} }}",
                0,
                plan.share.buckets() - 1
            ),
            elements: bucket_arm(plan.share),
        },
        Filled {
            set: Set { timeout: true, ..verdict_map(CANARY_GATE, Type::NF_PROTO) },
            text: format!("type nf_proto : verdict; flags timeout; elements = {{ {} }}", joined(gates)),
            elements: open_gate(plan),
        },
    ];
    for path in &plan.paths {
        let family = path.family;
        let key = address_type(family);
        for (list, prefixes) in [("exclude", &plan.exclude), ("include", &plan.include)] {
            let prefixes = prefix::disjoint(prefixes, family);
            if !prefixes.is_empty() {
                sets.push(prefix_set(&with_family(list, family), key, &prefixes));
            }
        }
        let name = with_family("sessions", family);
        let set = Set {
            key: key.concat(Type::INET_SERVICE),
            data: None,
            timeout: true,
            learns: Some(plan.max_canary_sessions),
            ..verdict_map(&name, key)
        };
        let text = format!(
            "type {} . inet_service; size {}; flags dynamic,timeout",
            type_name(family),
            plan.max_canary_sessions
        );
        sets.push(Filled { set, text, elements: Vec::new() });
    }
    sets
}

fn prefix_set(name: &str, key: Type, prefixes: &[Prefix]) -> Filled {
    let list = joined(prefixes.iter().map(Prefix::to_string));
    let family = Family::of(prefixes[0].address());
    Filled {
        set: Set { name: name.to_owned(), key, data: None, interval: true, timeout: false, learns: None },
        text: format!("type {}; flags interval; elements = {{ {list} }}", type_name(family)),
        elements: prefix::elements(prefixes),
    }
}

pub(super) fn with_family(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn type_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type::IPV4_ADDR,
        Family::V6 => Type::IPV6_ADDR,
    }
}

/// The table in nft's words.
pub(crate) fn render(plan: &Plan) -> String {
    let mut out = format!("table inet {TABLE} {{\n\tcomment \"{}\"\n\tflags owner\n", comment(plan));
    for counter in COUNTERS {
        out += &format!("\n\tcounter {counter} {{ }}");
    }
    out.push('\n');
    for Filled { set, text, .. } in sets(plan) {
        let kind = if set.data.is_some() { "map" } else { "set" };
        out += &format!("\n\t{kind} {} {{\n\t\t{}\n\t}}\n", set.name, text.replace("; ", "\n\t\t"));
    }
    for Chain { name, base, rules } in chains(plan) {
        out += &format!("\n\tchain {name} {{\n");
        if let Some(BaseChain { kind, hook, .. }) = base {
            let hook = if hook == BaseChain::OUTPUT { "output" } else { "prerouting" };
            out += &format!("\t\ttype {kind} hook {hook} priority mangle; policy accept;\n");
        }
        for rule in rules {
            out += &format!("\t\t{}\n", rule.text);
        }
        out += "\t}\n";
    }
    out + "}\n"
}
