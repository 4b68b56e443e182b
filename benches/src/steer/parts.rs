//! What each part of steering takes of a packet: rule sets of which each has one part more than the one before, put on the server by turns, the same packets with each.
//! And what other designs of the same steering would take.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use pathlab_canary::Share;
use pathlab_record::Arm;

use super::{
    Mode, Network, PORT, SEED, Steerer,
    cost::{self, ARMS, CHUNK, SESSIONS},
    sessions, share,
    tcx::{self, Tcx},
};
use crate::turns::order;

pub(super) const MARK: u32 = 0x0001_0000;
pub(super) const MASK: u32 = 0x00ff_0000;
/// By family, IPv4 first.
const VIA: [&str; 2] = ["10.2.0.1", "2001:db8:2::1"];
const NFPROTO: [&str; 2] = ["ipv4", "ipv6"];

/// What is put on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Part {
    Nothing,
    /// The routing rules and the table that they lead to.
    Rules,
    /// And a chain without a rule.
    Chain,
    /// And the rules that take packets by port, family and protocol.
    Taken,
    /// And the key and its hash.
    Hashed,
    /// And the comparison of the bucket with the share.
    Compared,
    /// And what the arm has next: control its counter, canary the gate.
    Parted,
    /// And the mark.
    Marked,
    /// And the canary arm's counter and list of sessions.
    Listed,
    /// [`Part::Compared`] with a map of intervals in place of the comparison.
    Mapped,
    /// [`Part::Marked`] in a chain of a type that looks up no route: it steers nothing.
    MarkedOnly,
    /// Everything, as it is.
    Pathlab,
    /// All but routing rules and mark, at the egress of the control path's device: `fwd` takes the packet to the other.
    Forwarded,
    /// The same by a tcx program.
    Redirected,
    /// A tcx program at the ingress of the device that the host behind is at, which marks.
    MarkedEarly,
}

/// Nanoseconds a packet by family, arm and round.
type Figures = [[Vec<f64>; 2]; 2];

/// By mode and part.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Vec<(Mode, Part, Figures)>);

impl Part {
    const ALL: [Self; 15] = [
        Self::Nothing,
        Self::Rules,
        Self::Chain,
        Self::Taken,
        Self::Hashed,
        Self::Compared,
        Self::Parted,
        Self::Marked,
        Self::Listed,
        Self::Mapped,
        Self::MarkedOnly,
        Self::Pathlab,
        Self::Forwarded,
        Self::Redirected,
        Self::MarkedEarly,
    ];

    fn is_of(self, mode: Mode) -> bool {
        match self {
            Self::MarkedOnly => mode == Mode::Host,
            Self::MarkedEarly => mode == Mode::Router,
            _ => true,
        }
    }

    /// Whether canary packets leave by the other device.
    fn steers(self) -> bool {
        matches!(
            self,
            Self::Marked | Self::Listed | Self::Pathlab | Self::Forwarded | Self::Redirected | Self::MarkedEarly
        )
    }

    fn has_rules(self) -> bool {
        !matches!(self, Self::Nothing | Self::Pathlab | Self::Forwarded | Self::Redirected)
    }
}

impl Parts {
    /// What a part adds to a packet, round by round.
    pub(super) fn more(&self, mode: Mode, part: Part, family: usize, arm: Arm) -> Vec<f64> {
        let of = |part| {
            let found = self.0.iter().find(|(m, p, _)| (*m, *p) == (mode, part));
            found.map(|(_, _, figures)| &figures[family][place(arm)][..]).unwrap_or_default()
        };
        of(part).iter().zip(of(Part::Nothing)).map(|(with, without)| with - without).collect()
    }
}

fn place(arm: Arm) -> usize {
    usize::from(arm == Arm::Canary)
}

pub(super) fn measure(network: &Network, pathlab: &Path, rounds: usize, chunks: usize) -> Result<Parts> {
    let modes = Mode::ALL.into_iter();
    let all =
        modes.flat_map(|mode| Part::ALL.into_iter().filter(move |part| part.is_of(mode)).map(move |part| (mode, part)));
    let mut parts = Parts(all.map(|(mode, part)| (mode, part, Default::default())).collect());
    for round in 0..rounds {
        for turn in order(parts.0.len(), round) {
            let (mode, part, figures) = &mut parts.0[turn];
            let on_server = OnServer::put(network, pathlab, *mode, *part)?;
            for (family, figures) in figures.iter_mut().enumerate() {
                let socket = network.socket(*mode, family)?;
                for arm in ARMS {
                    let before = left_by_canary(network)?;
                    let figure = cost::nanoseconds(&socket, &sessions(family, arm, SESSIONS, false), chunks)?;
                    let (left, sent) = (left_by_canary(network)? - before, (chunks * CHUNK) as u64);
                    // The first may wait for their neighbour's address, and neighbours talk beside.
                    let sound = if part.steers() && arm == Arm::Canary { left >= sent - 1_000 } else { left < 1_000 };
                    ensure!(
                        sound,
                        "{mode:?} mode, {part:?}, family {family}, {arm:?}: {left} of {sent} packets left by the canary path"
                    );
                    figures[place(arm)].push(figure);
                }
            }
            on_server.take_off()?;
        }
    }
    Ok(parts)
}

/// Packets that were sent by the canary path's device.
fn left_by_canary(network: &Network) -> Result<u64> {
    let devices = network.server.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("eth1:")).context("eth1")?;
    line.split_whitespace().nth(9).and_then(|packets| packets.parse().ok()).context("packets of eth1")
}

/// A part in its place; gone when dropped, at the latest.
struct OnServer<'a> {
    network: &'a Network,
    rules: bool,
    /// Family and name of the table.
    table: Option<&'static str>,
    _tcx: Option<Tcx>,
    steerer: Option<Steerer>,
}

impl<'a> OnServer<'a> {
    fn put(network: &'a Network, pathlab: &Path, mode: Mode, part: Part) -> Result<Self> {
        let mut put = Self { network, rules: false, table: None, _tcx: None, steerer: None };
        if part.has_rules() {
            put.rules = true;
            for line in routing("add") {
                put.run(&line)?;
            }
        }
        match part {
            Part::Nothing | Part::Rules => {}
            Part::Pathlab => put.steerer = Some(Steerer::start(network, pathlab, mode, 20_000)?),
            Part::Redirected => put._tcx = Some(network.server.run(|| tcx::redirect(mode))??),
            Part::MarkedEarly => put._tcx = Some(network.server.run(tcx::mark)??),
            Part::Forwarded => put.load("netdev parts", &forwarded())?,
            _ => put.load("inet parts", &rule_set(mode, part))?,
        }
        Ok(put)
    }

    fn load(&mut self, table: &'static str, text: &str) -> Result<()> {
        let mut nft = self.network.server.command("nft")?;
        let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
        child.stdin.take().context("its stdin")?.write_all(text.as_bytes())?;
        ensure!(child.wait()?.success(), "nft does not take this:\n{text}");
        self.table = Some(table);
        Ok(())
    }

    fn run(&self, line: &str) -> Result<()> {
        let mut command: Command = self.network.server.command("ip")?;
        let output = command.args(line.split(' ')).output().context("iproute2")?;
        ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn take_off(mut self) -> Result<()> {
        if let Some(steerer) = self.steerer.take() {
            steerer.roll_back()?;
        }
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        if let Some(table) = self.table.take() {
            let deleted = self.network.server.command("nft")?.arg(format!("delete table {table}")).status()?;
            ensure!(deleted.success(), "nft delete table {table}");
        }
        if std::mem::take(&mut self.rules) {
            routing("del").iter().rev().try_for_each(|line| self.run(line))?;
        }
        Ok(())
    }
}

impl Drop for OnServer<'_> {
    fn drop(&mut self) {
        drop(self.clear());
    }
}

/// As `canary start` has them.
fn routing(verb: &str) -> [String; 4] {
    let [v4, v6] = VIA;
    [
        format!("-4 route {verb} default via {v4} dev eth1 table 222"),
        format!("-6 route {verb} default via {v6} dev eth1 table 222"),
        format!("-4 rule {verb} fwmark {MARK:#x}/{MASK:#x} table 222 priority 10000"),
        format!("-6 rule {verb} fwmark {MARK:#x}/{MASK:#x} table 222 priority 10000"),
    ]
}

fn jhash(family: usize) -> String {
    let key = ["@nh,128,32", "@nh,192,32 . @nh,224,32 . @nh,256,32 . @nh,288,32"][family];
    format!("jhash {key} . th dport mod {} seed {SEED:#x}", Share::BUCKETS)
}

/// The rules up to a part, as those of `canary start` but for the map behind the comparison.
fn rule_set(mode: Mode, part: Part) -> String {
    let has = |least: Part| match part {
        Part::Mapped => least <= Part::Hashed,
        Part::MarkedOnly => least <= Part::Marked,
        _ => least <= part,
    };
    let edge = share().buckets();
    let mut text = String::from("table inet parts {\ncounter control { }\ncounter canary { }\ncounter over { }\n");
    for (family, address) in ["ip daddr", "ip6 daddr"].into_iter().enumerate() {
        let (n, kind) = ([4, 6][family], ["ipv4_addr", "ipv6_addr"][family]);
        text += &format!("set sessions{n} {{ type {kind} . inet_service; size 20000; flags dynamic,timeout; }}\n");
        let mut steered = String::new();
        if has(Part::Marked) {
            let keep = !MASK | MARK;
            steered += &format!("meta mark set meta mark & {keep:#x} | {MARK:#x}; ");
        }
        if has(Part::Listed) {
            steered += "counter name \"canary\"; ";
            steered +=
                &format!("update @sessions{n} {{ {address} . th dport timeout 1m }} return; counter name \"over\"; ");
        }
        text += &format!("chain steered{n} {{ {steered} }}\n");
    }
    // A lease that does not run out meanwhile.
    text += "map gate { type nf_proto : verdict; flags timeout; elements = { ipv4 timeout 1h : goto steered4, ipv6 timeout 1h : goto steered6 } }\n";
    text += &format!("chain canary {{ {} }}\n", if has(Part::Parted) { "meta nfproto vmap @gate;" } else { "" });
    text += "chain control { }\n";
    let mut entries = String::new();
    for (family, nfproto) in NFPROTO.into_iter().enumerate() {
        let (n, hash) = ([4, 6][family], jhash(family));
        let mut assign = match part {
            // One bucket in ten thousand, so that something is asked about it.
            Part::Hashed => format!("{hash} == {};", Share::BUCKETS - 1),
            Part::Mapped => {
                format!("{hash} vmap {{ 0-{} : goto canary, {edge}-{} : goto control }};", edge - 1, Share::BUCKETS - 1)
            }
            _ if has(Part::Compared) => format!("{hash} < {edge} goto canary;"),
            _ => String::new(),
        };
        if has(Part::Parted) {
            assign += "counter name \"control\";";
        }
        text += &format!("chain assign{n} {{ {assign} }}\n");
        let asks = if family == 0 { format!("meta nfproto {nfproto} ") } else { String::new() };
        entries += &format!("th sport {PORT} {asks}meta l4proto udp goto assign{n}; ");
    }
    let (kind, hook) = match mode {
        Mode::Host if part == Part::MarkedOnly => ("filter", "output"),
        Mode::Host => ("route", "output"),
        Mode::Router => ("filter", "prerouting"),
    };
    if !has(Part::Taken) {
        entries.clear();
    }
    text + &format!("chain steer {{ type {kind} hook {hook} priority mangle; {entries} }}\n}}\n")
}

/// All that the rules do, at the egress of the control path's device.
fn forwarded() -> String {
    let edge = share().buckets();
    let mut text = String::from("table netdev parts {\ncounter control { }\ncounter canary { }\ncounter over { }\n");
    let (mut gates, mut assigns, mut entries) = (Vec::new(), String::new(), String::new());
    for (family, ether) in ["ip", "ip6"].into_iter().enumerate() {
        let (n, kind, via) = ([4, 6][family], ["ipv4_addr", "ipv6_addr"][family], VIA[family]);
        text += &format!("set sessions{n} {{ type {kind} . inet_service; size 20000; flags dynamic,timeout; }}\n");
        text += &format!("chain full{n} {{ counter name \"over\"; fwd {ether} to {via} device eth1; }}\n");
        text += &format!(
            "chain steered{n} {{ counter name \"canary\"; update @sessions{n} {{ {ether} daddr . udp dport timeout 1m }} fwd {ether} to {via} device eth1; goto full{n}; }}\n"
        );
        gates.push(format!("{ether} timeout 1h : goto steered{n}"));
        assigns +=
            &format!("chain assign{n} {{ {} < {edge} goto canary; counter name \"control\"; }}\n", jhash(family));
        entries += &format!("meta protocol {ether} th sport {PORT} meta l4proto udp goto assign{n}; ");
    }
    text +=
        &format!("map gate {{ type ether_type : verdict; flags timeout; elements = {{ {} }} }}\n", gates.join(", "));
    text += "chain canary { meta protocol vmap @gate; }\n";
    text + &assigns + &format!("chain steer {{ type filter hook egress device eth0 priority 0; {entries} }}\n}}\n")
}
