//! The nf_tables table: bucket to arm, arm to gate, gate to mark, in bytes for the kernel and in nft's words for the operator.
//!
//! ```text
//!          jhash                bucket_arm       arm_gate          gate_mark
//! packet ─────────► bucket ─────────────► arm ─────────────► gate ───────────► chain canary: set the mark
//!                   0..9999    interval        │  leased            └────────► chain control: count
//!                                              └► no element: the gate is shut, count as held, no mark
//! ```
//!
//! Every packet takes the same few look-ups, whatever the number of sessions. The canary arm's element in `arm_gate` carries a timeout: when nobody
//! renews it the kernel removes it and the arm's packets fall through without a mark. Bits of the mark outside the mask are left as they are.

use std::{fmt::Write as _, time::Duration};

use pathlab_guard::Family;
use pathlab_record::Arm;

use super::{
    nfnetlink::{BaseChain, Batch, Data, Element, Expression, Header, Meta, Register, Set, Type, Verdict},
    plan::Plan,
    prefix::{self, Prefix},
};
use crate::{KeyFrom, Mode, Share};

/// One table a network namespace: a second steerer finds the name taken.
pub(crate) const TABLE: &str = "pathlab_canary";
pub(crate) const BUCKET_ARM: &str = "bucket_arm";
pub(crate) const ARM_GATE: &str = "arm_gate";
const GATE_MARK: &str = "gate_mark";

/// Packets of control sessions.
pub(crate) const CONTROL: &str = "control";
/// Packets of canary sessions that got the mark.
pub(crate) const CANARY: &str = "canary";
/// Packets of canary sessions that met a shut gate.
pub(crate) const HELD: &str = "held";
/// Packets of canary sessions for which the list of sessions had no room.
pub(crate) const OVER: &str = "over";

/// Canary sessions that sent a packet lately, by family.
pub(crate) const SESSIONS: [&str; 2] = ["sessions4", "sessions6"];

/// A canary session counts as present for so long after its last packet.
const SESSION_IDLE: Duration = Duration::from_secs(60);

/// Where rules of the base chain run: after conntrack, before the routing decision is used; `NF_IP_PRI_MANGLE`.
const PRIORITY: i32 = -150;

/// Offset of the destination in the IPv4 and IPv6 header, and its length.
const fn destination(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    }
}

const UDP: u8 = 17;
/// Where values are worked on, and where a key is put together.
const VALUE: Register = Register(0);
const KEY: Register = Register(4);

/// A rule in both forms.
struct Rule {
    text: String,
    expressions: Vec<Expression>,
}

/// A chain of the table.
struct Chain {
    name: String,
    base: Option<BaseChain>,
    rules: Vec<Rule>,
}

/// A set with its elements in both forms.
struct Filled {
    set: Set,
    /// The declaration and the elements in nft's words.
    text: String,
    elements: Vec<Element>,
}

/// The number that stands for an arm, and for its open gate, in the maps.
fn number(arm: Arm) -> u32 {
    match arm {
        Arm::Control => 1,
        Arm::Canary => 2,
    }
}

/// The transaction that puts the whole table in place, with the gate open for the length of the lease.
pub(crate) fn create(plan: &Plan) -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.add_table(&comment(plan));
    for counter in [CONTROL, CANARY, HELD, OVER] {
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

/// The transaction that renews the lease. It fails as a whole when the lease has run out: a shut gate cannot be renewed open.
pub(crate) fn renew(lease: Duration) -> Batch {
    let mut batch = shut();
    // Deleted and added in one generation, no packet sees it shut. Kernels before 6.12 cannot prolong an element in place, and later ones would
    // bring an expired one back to life.
    batch.add_elements(ARM_GATE, &[open_canary(lease)]);
    batch
}

/// The transaction that sends the canary arm to control.
pub(crate) fn shut() -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.delete_elements(ARM_GATE, &[gate_key()]);
    batch
}

/// The transaction that takes everything away.
pub(crate) fn delete() -> Batch {
    let mut batch = Batch::new(TABLE);
    batch.delete_table();
    batch
}

/// Names the canary arm's element in `arm_gate`.
pub(crate) fn gate_key() -> Element {
    Element::key(number(Arm::Canary).to_ne_bytes())
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

fn arm_intervals(share: Share) -> impl Iterator<Item = (Arm, u16, u16)> {
    let edge = share.buckets();
    [(Arm::Canary, 0, edge), (Arm::Control, edge, Share::BUCKETS)].into_iter().filter(|(_, from, to)| from < to)
}

/// Keys of an interval map are compared byte for byte, so they are big-endian; values are the host's.
fn bucket_arm(share: Share) -> Vec<Element> {
    arm_intervals(share)
        .flat_map(|(arm, from, to)| {
            let [from, to] = [from, to].map(|bucket| u32::from(bucket).to_be_bytes());
            let data = Data::Value(number(arm).to_ne_bytes().into());
            [Element::with(from, data), Element::end(to)]
        })
        .collect()
}

fn open_canary(lease: Duration) -> Element {
    Element { lease: Some(lease), ..gate(Arm::Canary) }
}

fn gate(arm: Arm) -> Element {
    Element::with(number(arm).to_ne_bytes(), Data::Value(number(arm).to_ne_bytes().into()))
}

fn sets(plan: &Plan) -> Vec<Filled> {
    let mark_map = |name: &str, data| Set {
        name: name.to_owned(),
        key: Type::MARK,
        data: Some(data),
        interval: false,
        timeout: false,
        learns: None,
    };
    let hex = |arm| format!("{:#010x}", number(arm));
    let intervals =
        arm_intervals(plan.share).map(|(arm, from, to)| format!("{from:#010x}-{:#010x} : {}", to - 1, hex(arm)));
    let chain_of = |arm| if arm == Arm::Control { CONTROL } else { CANARY };
    let both = [Arm::Control, Arm::Canary];
    let mut sets = vec![
        Filled {
            set: Set { interval: true, ..mark_map(BUCKET_ARM, Type::MARK) },
            text: format!(
                "type mark : mark; flags interval; elements = {{ {} }}",
                intervals.collect::<Vec<_>>().join(", ")
            ),
            elements: bucket_arm(plan.share),
        },
        Filled {
            set: Set { timeout: true, ..mark_map(ARM_GATE, Type::MARK) },
            text: format!(
                "type mark : mark; flags timeout; elements = {{ {0} : {0}, {1} timeout {2}ms : {1} }}",
                hex(Arm::Control),
                hex(Arm::Canary),
                plan.lease.as_millis()
            ),
            elements: vec![gate(Arm::Control), open_canary(plan.lease)],
        },
        Filled {
            set: mark_map(GATE_MARK, Type::VERDICT),
            text: format!(
                "type mark : verdict; elements = {{ {} }}",
                both.map(|arm| format!("{} : goto {}", hex(arm), chain_of(arm))).join(", ")
            ),
            elements: both
                .map(|arm| {
                    Element::with(number(arm).to_ne_bytes(), Data::Verdict(Verdict::Goto(chain_of(arm).to_owned())))
                })
                .into(),
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
            ..mark_map(&name, Type::MARK)
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
    let list = prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>().join(", ");
    let family = prefixes[0].family();
    Filled {
        set: Set { name: name.to_owned(), key, data: None, interval: true, timeout: false, learns: None },
        text: format!("type {}; flags interval; elements = {{ {list} }}", type_name(family)),
        elements: prefix::elements(prefixes),
    }
}

fn chains(plan: &Plan) -> Vec<Chain> {
    let base = match plan.mode {
        // `route` and not `filter`: only this type looks the route up again when the mark has changed.
        Mode::Host => BaseChain { kind: "route", hook: 3, priority: PRIORITY },
        Mode::Router => BaseChain { kind: "filter", hook: 0, priority: PRIORITY },
    };
    let steer = Chain {
        name: "steer".to_owned(),
        base: Some(base),
        rules: plan.paths.iter().map(|path| entry(plan, path.family)).collect(),
    };
    let mut chains = vec![
        Chain { name: CONTROL.to_owned(), base: None, rules: vec![count(CONTROL)] },
        Chain { name: CANARY.to_owned(), base: None, rules: canary_rules(plan) },
    ];
    chains.extend(plan.paths.iter().map(|path| assignment_chain(plan, path.family)));
    chains.push(steer);
    chains
}

/// Packets of one family that take part.
fn entry(plan: &Plan, family: Family) -> Rule {
    let chain = with_family("assign", family);
    let mut expressions = is_udp(family);
    let mut text = format!("meta nfproto {} ", proto_name(family));
    if let Some(port) = plan.server_port {
        // The server's replies carry its port as their source.
        expressions.push(Expression::Payload { base: Header::Transport, offset: 0, length: 2, to: VALUE });
        expressions.push(Expression::Equal { register: VALUE, value: port.to_be_bytes().into() });
        write!(text, "udp sport {port} ").expect("a String takes all");
    } else {
        text.push_str("meta l4proto udp ");
    }
    expressions.push(Expression::Verdict(Verdict::Goto(chain.clone())));
    Rule { text: format!("{text}goto {chain}"), expressions }
}

fn assignment_chain(plan: &Plan, family: Family) -> Chain {
    let mut rules = Vec::new();
    let mut listed = |list: &str, prefixes: &[Prefix], inverted: bool| {
        if prefix::disjoint(prefixes, family).is_empty() {
            return;
        }
        let set = with_family(list, family);
        let mut expressions = is_family(family);
        expressions.push(load_destination(family, VALUE));
        expressions.push(Expression::InSet { register: VALUE, set: set.clone(), inverted });
        expressions.push(Expression::Verdict(Verdict::Return));
        let not = if inverted { "!= " } else { "" };
        rules.push(Rule { text: format!("{} daddr {not}@{set} return", header_name(family)), expressions });
    };
    listed("exclude", &plan.exclude, false);
    listed("include", &plan.include, true);
    rules.push(assign_rule(plan, family));
    rules.push(count(HELD));
    Chain { name: with_family("assign", family), base: None, rules }
}

/// The rule that decides.
fn assign_rule(plan: &Plan, family: Family) -> Rule {
    let (mut expressions, key, length) = load_key(plan, family);
    let (modulus, seed) = (u32::from(Share::BUCKETS), plan.seed);
    expressions.extend([
        Expression::Jhash { from: KEY, length, modulus, seed, to: VALUE },
        Expression::HostToNetwork { register: VALUE },
        Expression::Map { register: VALUE, map: BUCKET_ARM.to_owned() },
        Expression::Map { register: VALUE, map: ARM_GATE.to_owned() },
        Expression::VerdictMap { register: VALUE, map: GATE_MARK.to_owned() },
    ]);
    let text = format!("jhash {key} mod {modulus} seed {seed:#x} map @{BUCKET_ARM} map @{ARM_GATE} vmap @{GATE_MARK}");
    Rule { text, expressions }
}

/// Loads the session key into [`KEY`] as `crate::assignment` lays it out: instructions, nft's words, length in bytes.
fn load_key(plan: &Plan, family: Family) -> (Vec<Expression>, String, u32) {
    let header = header_name(family);
    match plan.key.from {
        KeyFrom::ClientAddrPort => {
            let (expressions, length) = load_client(family);
            (expressions, format!("{header} daddr . udp dport"), length)
        }
        KeyFrom::ClientAddr => {
            let mut expressions = is_family(family);
            expressions.push(load_destination(family, KEY));
            (expressions, format!("{header} daddr"), destination(family).1)
        }
        KeyFrom::Payload => {
            // `plan` has checked both.
            let [offset, length] = [plan.key.offset, plan.key.length].map(|value| u32::from(value.unwrap_or(0)));
            let offset = UDP_HEADER + offset;
            let load = Expression::Payload { base: Header::Transport, offset, length, to: KEY };
            (vec![load], format!("@th,{},{}", offset * 8, length * 8), length)
        }
    }
}

const UDP_HEADER: u32 = 8;

/// The client's address and port into [`KEY`], the port in the register after the address.
fn load_client(family: Family) -> (Vec<Expression>, u32) {
    let (_, length) = destination(family);
    let mut expressions = is_udp(family);
    expressions.push(load_destination(family, KEY));
    let to = Register(KEY.0 + length as u8 / 4);
    expressions.push(Expression::Payload { base: Header::Transport, offset: 2, length: 2, to });
    (expressions, length + 4)
}

fn canary_rules(plan: &Plan) -> Vec<Rule> {
    let keep = !plan.mask;
    let mark = Rule {
        text: format!("meta mark set meta mark & {keep:#010x} ^ {:#010x}", plan.mark),
        expressions: vec![
            Expression::LoadMeta { key: Meta::Mark, to: VALUE },
            Expression::Bitwise { register: VALUE, mask: keep, xor: plan.mark },
            Expression::StoreMark { from: VALUE },
        ],
    };
    let mut rules = vec![count(CANARY), mark];
    for path in &plan.paths {
        let family = path.family;
        let set = with_family("sessions", family);
        let (mut expressions, _) = load_client(family);
        expressions.push(Expression::Update { register: KEY, set: set.clone(), timeout: SESSION_IDLE });
        expressions.push(Expression::Verdict(Verdict::Return));
        let text = format!(
            "update @{set} {{ {} daddr . udp dport timeout {}s }} return",
            header_name(family),
            SESSION_IDLE.as_secs()
        );
        rules.push(Rule { text, expressions });
    }
    rules.push(count(OVER));
    rules
}

fn count(name: &str) -> Rule {
    Rule { text: format!("counter name {name}"), expressions: vec![Expression::Counter { name: name.to_owned() }] }
}

fn is_family(family: Family) -> Vec<Expression> {
    let value = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    vec![
        Expression::LoadMeta { key: Meta::NfProto, to: VALUE },
        Expression::Equal { register: VALUE, value: vec![value as u8] },
    ]
}

fn is_udp(family: Family) -> Vec<Expression> {
    let mut expressions = is_family(family);
    expressions.push(Expression::LoadMeta { key: Meta::L4Proto, to: VALUE });
    expressions.push(Expression::Equal { register: VALUE, value: vec![UDP] });
    expressions
}

fn load_destination(family: Family, to: Register) -> Expression {
    let (offset, length) = destination(family);
    Expression::Payload { base: Header::Network, offset, length, to }
}

fn with_family(name: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{name}4"),
        Family::V6 => format!("{name}6"),
    }
}

fn header_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn proto_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
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
    for counter in [CONTROL, CANARY, HELD, OVER] {
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
            let hook = if hook == 3 { "output" } else { "prerouting" };
            out += &format!("\t\ttype {kind} hook {hook} priority mangle; policy accept;\n");
        }
        for rule in rules {
            out += &format!("\t\t{}\n", rule.text);
        }
        out += "\t}\n";
    }
    out + "}\n"
}
