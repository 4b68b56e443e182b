//! The chains and rules of the table: which packets take part, what is hashed, what the canary arm's packets get.
//!
//! In host mode a second base chain looks at what comes in: ICMP errors that quote a canary packet get the mark too, so
//! that the path MTU they report is learnt for the canary route. Without it the kernel would note it on the control
//! route of that client, where it outlives a rollback. (Needs `fwmark_reflect`, see [`Plan::sysctls`].) The arm is
//! worked out from the quoted packet, so it does not matter how the error came.
//!
//! What a packet is asked once is not asked again in the chains that it is led to, and what most packets need comes first: each look
//! at family or protocol, each map and each counter is a call in the kernel or several (docs/performance.md has what they take),
//! while up to four bytes of a header are read and compared in place. So the port is compared first, an IPv6 address is loaded in four
//! parts, and a bucket that no share up to `cap_share` reaches is known for control's by one comparison. The price is that nft lists a
//! field as `@nh,128,32`, `ip daddr` being its word in a rule that looks at the family itself.

use std::{fmt::Write as _, time::Duration};

use pathlab_guard::Family;

use super::{
    nfnetlink::{BaseChain, Expression, Header, Meta, Register, Verdict},
    plan::{Path, Plan},
    prefix,
    ruleset::{BUCKET_ARM, CANARY, CANARY_GATE, CONTROL, COUNTED, HELD, OVER, STEERED, TOO_FAST, with_family},
};
use crate::{KeyFrom, Mode, Share};

/// Where the base chains run: `NF_IP_PRI_MANGLE`, after conntrack and before the route of an outgoing packet is looked
/// up again.
const PRIORITY: i32 = -150;

/// A canary session counts as present for so long after its last packet.
const SESSION_IDLE: Duration = Duration::from_secs(60);

const UDP: u8 = 17;
const UDP_HEADER: u32 = 8;
const ICMP_HEADER: u32 = 8;

/// Where values are worked on, and where a key is put together.
const VALUE: Register = Register(0);
const KEY: Register = Register(4);

/// A rule in both forms.
pub(super) struct Rule {
    /// In nft's words, as its listing shows it.
    pub(super) text: String,
    pub(super) expressions: Vec<Expression>,
}

/// A chain of the table.
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) base: Option<BaseChain>,
    pub(super) rules: Vec<Rule>,
}

/// The UDP packet that a rule looks at.
#[derive(Clone, Copy)]
enum View {
    /// The packet itself.
    Own(Family),
    /// The one that an ICMP error quotes after its own header (RFC 792, RFC 4443 section 3).
    Quoted(Family),
}

/// All chains, those that others lead to first.
pub(super) fn chains(plan: &Plan) -> Vec<Chain> {
    let chain = |name: &str, rules| Chain { name: name.to_owned(), base: None, rules };
    let mut chains = vec![chain(CANARY, vec![gate(), count(HELD)])];
    let families = || plan.paths.iter().map(|path| path.family);
    if plan.mode == Mode::Host {
        chains.extend(families().map(|family| chain(&with_family(COUNTED, family), counted(plan, family))));
    }
    chains.extend(families().map(|family| chain(&with_family(STEERED, family), steered(plan, family))));
    chains.extend(families().map(|family| assignment(plan, View::Own(family))));
    let entries = entries(plan);
    let base = |name: &str, kind, hook, rules| Chain {
        base: Some(BaseChain { kind, hook, priority: PRIORITY }),
        ..chain(name, rules)
    };
    match plan.mode {
        Mode::Host => {
            chains.extend(families().map(|family| assignment(plan, View::Quoted(family))));
            // `route` and not `filter`: only this type looks the route up again when the mark has changed.
            chains.push(base("steer", "route", BaseChain::OUTPUT, entries));
            let errors = families().map(|family| error_entry(plan, family)).collect();
            chains.push(base("errors", "filter", BaseChain::PREROUTING, errors));
        }
        // The routing decision comes after this hook.
        Mode::Router => chains.push(base("steer", "filter", BaseChain::PREROUTING, entries)),
    }
    chains
}

/// The ways of packets that take part to the assignment of each family; where both are steered the last needs no question.
fn entries(plan: &Plan) -> Vec<Rule> {
    let entry = |(place, path): (usize, &Path)| {
        let (mut expressions, mut text) = (Vec::new(), String::new());
        // The server's replies carry its port as their source. First, so that the packets of others go on at once.
        if let Some(port) = plan.server_port {
            expressions.extend(bytes_are(0, &port.to_be_bytes()));
            write!(text, "th sport {port} ").expect("a String takes all");
        }
        if place == 0 {
            expressions.extend(is_family(path.family));
            write!(text, "meta nfproto {} ", proto_name(path.family)).expect("a String takes all");
        }
        expressions.extend(is_l4(UDP));
        text += "meta l4proto udp";
        lead_to(&View::Own(path.family).chain(), text, expressions)
    };
    plan.paths.iter().enumerate().map(entry).collect()
}

/// ICMP errors of one family that tell a path MTU and quote a packet that takes part.
fn error_entry(plan: &Plan, family: Family) -> Rule {
    let view = View::Quoted(family);
    // Destination unreachable, fragmentation needed: type 3 and code 4. Packet too big: type 2.
    let (icmp, kind, mut text): (u8, &[u8], _) = match family {
        Family::V4 => (1, &[3, 4], "icmp type destination-unreachable icmp code frag-needed".to_owned()),
        Family::V6 => (58, &[2], "icmpv6 type packet-too-big".to_owned()),
    };
    let mut expressions = is_protocol(family, icmp);
    expressions.extend(bytes_are(0, kind));
    if family == Family::V4 {
        // Version 4 and a header without options, so that UDP begins where it is looked for.
        expressions.extend(bytes_are(ICMP_HEADER, &[0x45]));
        text += " @th,64,8 0x45";
    }
    expressions.extend(bytes_are(ICMP_HEADER + protocol_offset(family), &[UDP]));
    write!(text, " @th,{},8 {UDP:#x}", (ICMP_HEADER + protocol_offset(family)) * 8).expect("a String takes all");
    if let Some(port) = plan.server_port {
        expressions.extend(bytes_are(view.udp(), &port.to_be_bytes()));
        write!(text, " @th,{},16 {port:#x}", view.udp() * 8).expect("a String takes all");
    }
    lead_to(&view.chain(), text, expressions)
}

fn lead_to(chain: &str, text: String, mut expressions: Vec<Expression>) -> Rule {
    expressions.push(goto(chain));
    Rule { text: format!("{text} goto {chain}"), expressions }
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.to_owned()))
}

/// The chain that finds the arm of a packet, unless its client does not take part.
fn assignment(plan: &Plan, view: View) -> Chain {
    let family = view.family();
    let mut rules = Vec::new();
    if !prefix::disjoint(&plan.exclude, family).is_empty() {
        rules.push(unless_listed(view, "exclude", false));
    }
    let included = prefix::disjoint(&plan.include, family);
    if !included.is_empty() {
        rules.push(unless_listed(view, "include", true));
    }
    // A list of clients of the other family leaves this one out.
    if plan.include.is_empty() || !included.is_empty() {
        rules.push(assign(plan, view));
        if let View::Own(_) = view {
            rules.push(stays(plan));
        }
    }
    Chain { name: view.chain(), base: None, rules }
}

fn unless_listed(view: View, list: &str, inverted: bool) -> Rule {
    let set = with_family(list, view.family());
    let mut expressions = view.is_family();
    expressions.push(view.load_destination(VALUE));
    expressions.push(Expression::InSet { register: VALUE, set: set.clone(), inverted });
    expressions.push(Expression::Verdict(Verdict::Return));
    let not = if inverted { "!= " } else { "" };
    Rule { text: format!("{} {not}@{set} return", view.destination_text()), expressions }
}

/// The rule that decides. What no share up to the cap reaches stops it: no map is asked about that.
fn assign(plan: &Plan, view: View) -> Rule {
    let (mut expressions, key, length) = load_key(plan, view);
    let (modulus, seed) = (u32::from(Share::BUCKETS), plan.seed);
    let cap = u32::from(plan.cap.buckets());
    expressions.extend([
        Expression::Jhash { from: KEY, length, modulus, seed, to: VALUE },
        Expression::HostToNetwork { register: VALUE },
        Expression::Below { register: VALUE, value: cap.to_be_bytes().into() },
        Expression::VerdictMap { register: VALUE, map: BUCKET_ARM.to_owned() },
    ]);
    let shown = if plan.hides_seed { "(told at the end)".to_owned() } else { format!("{seed:#x}") };
    let bucket = format!("jhash {key} mod {modulus} seed {shown}");
    Rule { text: format!("{bucket} < {cap} {bucket} vmap @{BUCKET_ARM}"), expressions }
}

/// Counts the packets that the rule before did not lead on: those of control sessions.
fn stays(plan: &Plan) -> Rule {
    let Rule { text, expressions: counted } = count(CONTROL);
    match (plan.key.from, plan.key.offset, plan.key.length) {
        // A payload that ends before the key is of no session, and there that rule stopped as well.
        (KeyFrom::Payload, Some(offset), Some(length)) => {
            let least = UDP_HEADER as u16 + offset + length;
            let mut expressions = vec![
                Expression::Payload { base: Header::Transport, offset: 4, length: 2, to: VALUE },
                Expression::AtLeast { register: VALUE, value: least.to_be_bytes().into() },
            ];
            expressions.extend(counted);
            Rule { text: format!("@th,32,16 >= {least:#x} {text}"), expressions }
        }
        _ => Rule { text, expressions: counted },
    }
}

/// Loads the session key into [`KEY`] as `crate::assignment` lays it out: instructions, nft's words, length in bytes.
fn load_key(plan: &Plan, view: View) -> (Vec<Expression>, String, u32) {
    let address_length = address_length(view.family());
    match plan.key.from {
        KeyFrom::ClientAddrPort => {
            let mut expressions = view.load_address(KEY);
            expressions.push(view.load_port(KEY));
            (expressions, format!("{} . {}", view.address_words(), view.port_text()), address_length + 4)
        }
        KeyFrom::ClientAddr => (view.load_address(KEY), view.address_words(), address_length),
        KeyFrom::Payload => {
            // `plan` has checked both.
            let [offset, length] = [plan.key.offset, plan.key.length].map(|value| u32::from(value.unwrap_or(0)));
            let offset = view.udp() + UDP_HEADER + offset;
            let load = Expression::Payload { base: Header::Transport, offset, length, to: KEY };
            (vec![load], format!("@th,{},{}", offset * 8, length * 8), length)
        }
    }
}

fn gate() -> Rule {
    Rule {
        text: format!("meta nfproto vmap @{CANARY_GATE}"),
        expressions: vec![
            Expression::LoadMeta { key: Meta::NfProto, to: VALUE },
            Expression::VerdictMap { register: VALUE, map: CANARY_GATE.to_owned() },
        ],
    }
}

/// What is done to the packets of the canary arm. In host mode ICMP errors about them come here too: those get the mark only.
fn steered(plan: &Plan, family: Family) -> Vec<Rule> {
    let keep = !plan.mask;
    let mark = Rule {
        // As nft lists it: what is kept includes the bit that is set.
        text: format!("meta mark set meta mark & {:#010x} | {:#010x}", keep | plan.mark, plan.mark),
        expressions: vec![
            Expression::LoadMeta { key: Meta::Mark, to: VALUE },
            Expression::Bitwise { register: VALUE, mask: keep, xor: plan.mark },
            Expression::StoreMark { from: VALUE },
        ],
    };
    let mut rules = vec![mark];
    match plan.mode {
        Mode::Host => {
            rules.push(lead_to(&with_family(COUNTED, family), "meta l4proto udp".to_owned(), is_l4(UDP).into()));
        }
        Mode::Router => rules.extend(counted(plan, family)),
    }
    rules
}

/// The counts and caps of the canary arm's packets.
fn counted(plan: &Plan, family: Family) -> Vec<Rule> {
    let view = View::Own(family);
    let set = with_family("sessions", family);
    let mut expressions = vec![
        view.load_destination(KEY),
        view.load_port(KEY),
        Expression::Update { register: KEY, set: set.clone(), timeout: SESSION_IDLE },
    ];
    expressions.push(Expression::Verdict(Verdict::Return));
    let minutes = SESSION_IDLE.as_secs() / 60;
    let text = format!("update @{set} {{ {} timeout {minutes}m }} return", view.client_text());
    let mut rules = vec![count(CANARY)];
    rules.extend(plan.max_canary_pps.map(too_fast));
    rules.extend([Rule { text, expressions }, count(OVER)]);
    rules
}

/// Counts packets above the cap. A tick of a game sends to all its clients at once: a tenth of a second's worth may come
/// in a burst.
fn too_fast(a_second: u32) -> Rule {
    let burst = (a_second / 10).max(5);
    Rule {
        text: format!("limit rate over {a_second}/second burst {burst} packets counter name \"{TOO_FAST}\""),
        expressions: vec![Expression::Over { a_second, burst }, Expression::Counter { name: TOO_FAST.to_owned() }],
    }
}

fn count(name: &str) -> Rule {
    Rule { text: format!("counter name \"{name}\""), expressions: vec![Expression::Counter { name: name.to_owned() }] }
}

impl View {
    fn family(self) -> Family {
        let (Self::Own(family) | Self::Quoted(family)) = self;
        family
    }

    fn chain(self) -> String {
        match self {
            Self::Own(family) => with_family("assign", family),
            Self::Quoted(family) => with_family("quoted", family),
        }
    }

    /// Where its UDP header begins, from the packet's transport header.
    fn udp(self) -> u32 {
        match self {
            Self::Own(_) => 0,
            Self::Quoted(Family::V4) => ICMP_HEADER + 20,
            Self::Quoted(Family::V6) => ICMP_HEADER + 40,
        }
    }

    fn load_destination(self, to: Register) -> Expression {
        let (base, offset) = self.address_place();
        Expression::Payload { base, offset, length: address_length(self.family()), to }
    }

    /// Where its destination address begins.
    fn address_place(self) -> (Header, u32) {
        let offset = destination_offset(self.family());
        match self {
            Self::Own(_) => (Header::Network, offset),
            Self::Quoted(_) => (Header::Transport, ICMP_HEADER + offset),
        }
    }

    /// The same in parts that the kernel reads in place.
    fn load_address(self, to: Register) -> Vec<Expression> {
        let (base, offset) = self.address_place();
        let words = address_length(self.family()) / 4;
        let part = |word: u32| Expression::Payload {
            base,
            offset: offset + 4 * word,
            length: 4,
            to: Register(to.0 + word as u8),
        };
        (0..words).map(part).collect()
    }

    /// The client's port into the register after its address.
    fn load_port(self, to: Register) -> Expression {
        let to = Register(to.0 + address_length(self.family()) as u8 / 4);
        Expression::Payload { base: Header::Transport, offset: self.udp() + 2, length: 2, to }
    }

    /// What nft puts before it looks at an address, and needs to tell the type of a list.
    fn is_family(self) -> Vec<Expression> {
        match self {
            Self::Own(family) => is_family(family),
            Self::Quoted(_) => Vec::new(),
        }
    }

    fn destination_text(self) -> String {
        match self {
            Self::Own(Family::V4) => "ip daddr".to_owned(),
            Self::Own(Family::V6) => "ip6 daddr".to_owned(),
            Self::Quoted(_) => self.destination_bytes(),
        }
    }

    /// The same in a rule that does not look at the family.
    fn destination_bytes(self) -> String {
        let (base, offset) = self.address_place();
        raw(base, offset, address_length(self.family()))
    }

    /// The same in the parts of [`View::load_address`].
    fn address_words(self) -> String {
        let (base, offset) = self.address_place();
        let parts = (0..address_length(self.family()) / 4).map(|word| raw(base, offset + 4 * word, 4));
        parts.collect::<Vec<_>>().join(" . ")
    }

    fn port_text(self) -> String {
        match self {
            Self::Own(_) => "th dport".to_owned(),
            Self::Quoted(_) => raw(Header::Transport, self.udp() + 2, 2),
        }
    }

    fn client_text(self) -> String {
        format!("{} . {}", self.destination_bytes(), self.port_text())
    }
}

/// Bytes of a header in nft's words, which count bits.
fn raw(base: Header, offset: u32, length: u32) -> String {
    let base = match base {
        Header::Network => "nh",
        Header::Transport => "th",
    };
    format!("@{base},{},{}", offset * 8, length * 8)
}

/// Of the destination address in the IP header.
const fn destination_offset(family: Family) -> u32 {
    match family {
        Family::V4 => 16,
        Family::V6 => 24,
    }
}

const fn address_length(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// Of the protocol, or next header, in the IP header.
const fn protocol_offset(family: Family) -> u32 {
    match family {
        Family::V4 => 9,
        Family::V6 => 6,
    }
}

fn is_family(family: Family) -> Vec<Expression> {
    vec![
        Expression::LoadMeta { key: Meta::NfProto, to: VALUE },
        Expression::Equal { register: VALUE, value: vec![nfproto(family)] },
    ]
}

fn is_protocol(family: Family, protocol: u8) -> Vec<Expression> {
    let mut expressions = is_family(family);
    expressions.extend(is_l4(protocol));
    expressions
}

fn is_l4(protocol: u8) -> [Expression; 2] {
    [
        Expression::LoadMeta { key: Meta::L4Proto, to: VALUE },
        Expression::Equal { register: VALUE, value: vec![protocol] },
    ]
}

/// Bytes from the transport header on.
fn bytes_are(offset: u32, bytes: &[u8]) -> [Expression; 2] {
    let length = bytes.len() as u32;
    [
        Expression::Payload { base: Header::Transport, offset, length, to: VALUE },
        Expression::Equal { register: VALUE, value: bytes.into() },
    ]
}

/// `meta nfproto`.
pub(super) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

pub(super) fn proto_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
