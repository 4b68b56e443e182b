//! A scenario as a running network, noted in an undo journal before each step and taken down as a whole.
//!
//! Every link, address, route and queue lives inside the lab's namespaces and goes with them, so namespaces and processes are all that a journal
//! has to name. The namespaces carry the lab's id: labs side by side share nothing.

mod way;

use std::{
    ffi::OsStr,
    process::{Child, Command, ExitStatus},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use pathlab_guard::{Guardian, Journal, Leftover, Object, Process, Undone, privilege};

use crate::{
    engine::{
        kernel::{self, Played, Player, Qdiscs, Shapers},
        wire::{Spliced, Wire, WireGrade, Zero},
    },
    error::{Error, Result},
    impairment::Impairment,
    link::{self, End, MacAddress, Route},
    load::Generator,
    netlink::Netlink,
    netns::{self, Namespace},
    qdisc::QdiscStatistics,
    scenario::{Link, LinkEnd, Node, Scenario},
    sysctl,
    traffic::Traffic,
};

/// Verb of a lab's undo journal.
const VERB: &str = "lab";
/// Since Linux 6.11; of both families.
const HASH_SEED: &str = "net.ipv4.fib_multipath_hash_seed";
/// Bits of `fib_multipath_hash_fields`: source and destination address, protocol, source and destination port.
const ADDRESSES_AND_PORTS: &str = "55";

/// A running lab. Dropping it takes everything down, unless it is kept.
#[derive(Debug)]
pub struct Lab {
    id: String,
    scenario: Scenario,
    seed: u64,
    namespaces: Vec<Namespace>,
    /// Who plays each link.
    played: Vec<Played>,
    wire: Option<Wire>,
    zero: Zero,
    journal: Option<Journal>,
    guardian: Option<Guardian>,
}

impl Lab {
    /// Brings a scenario up under the name `id`, which no other lab of this host may have.
    ///
    /// # Errors
    /// Missing privilege, a lab of that name, a kernel without a needed feature. Whatever was made until then is taken down again.
    pub fn up(scenario: &Scenario, id: &str, seed: u64) -> Result<Self> {
        Self::bring_up(scenario, id, seed, None, Player::Auto)
    }

    /// The same with a guardian process, which takes the lab down when this process is killed. `verb` is the hidden verb of this program that ends
    /// in [`pathlab_guard::watch`].
    ///
    /// # Errors
    /// As [`Lab::up`], and a guardian that does not come up.
    pub fn up_guarded(scenario: &Scenario, id: &str, seed: u64, verb: &[&OsStr]) -> Result<Self> {
        Self::bring_up(scenario, id, seed, Some(verb), Player::Auto)
    }

    /// Brings a scenario up with its links played by `player`, and a guardian where a verb for one is given.
    ///
    /// # Errors
    /// As [`Lab::up_guarded`], and [`Error::NotByTheKernel`].
    pub fn up_played(
        scenario: &Scenario,
        id: &str,
        seed: u64,
        guardian: Option<&[&OsStr]>,
        player: Player,
    ) -> Result<Self> {
        Self::bring_up(scenario, id, seed, guardian, player)
    }

    fn bring_up(scenario: &Scenario, id: &str, seed: u64, guardian: Option<&[&OsStr]>, player: Player) -> Result<Self> {
        if !privilege::is_root() {
            return Err(Error::Privilege { action: format!("bringing up lab {id}") });
        }
        check_id(id)?;
        if let Some(what) = scenario.beyond_real_packets() {
            return Err(Error::BeyondRealPackets { scenario: scenario.name.clone(), what });
        }
        let journal = Journal::create(VERB, id).map_err(|error| match error {
            pathlab_guard::Error::JournalExists { .. } => Error::LabExists { id: id.to_owned() },
            other => other.into(),
        })?;
        let guardian = guardian.map(|verb| Guardian::spawn(&journal, verb.iter().copied())).transpose()?;
        let mut lab = Self {
            id: id.to_owned(),
            scenario: scenario.clone(),
            seed,
            namespaces: Vec::new(),
            played: Vec::new(),
            wire: None,
            zero: Zero::default(),
            journal: Some(journal),
            guardian,
        };
        for node in &scenario.nodes {
            lab.add_node(node)?;
        }
        lab.choose_players(player)?;
        for (index, link) in scenario.links.iter().enumerate() {
            lab.add_link(index, link)?;
        }
        lab.start_wire()?;
        for node in &scenario.nodes {
            lab.add_routes(node)?;
        }
        Ok(lab)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it plays.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The seed that it plays with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The namespace of a node.
    ///
    /// # Errors
    /// [`Error::NoNode`].
    pub fn namespace(&self, node: &str) -> Result<&Namespace> {
        let name = namespace_name(&self.id, node);
        let found = self.namespaces.iter().find(|namespace| namespace.name() == name);
        found.ok_or_else(|| Error::NoNode { lab: self.id.clone(), node: node.to_owned() })
    }

    /// Each link with who plays it: node and interface of its ends.
    pub fn played(&self) -> impl Iterator<Item = ([String; 2], &Played)> {
        let places = |link: &Link| [0, 1].map(|end| format!("{}:{}", link.ends[end].node, link.ends[end].dev));
        self.scenario.links.iter().map(places).zip(&self.played)
    }

    /// Ends the wire engine, where it plays a link, and says how well it did; nothing passes those links any more.
    ///
    /// # Errors
    /// What ended it before.
    pub fn stop_wire(&mut self) -> Result<Option<WireGrade>> {
        self.wire.take().map(Wire::stop).transpose()
    }

    /// The scenario's time begins: faults come and go from now on. Only the first call counts; until it, time stands at zero.
    pub fn begin(&self) -> Instant {
        self.zero.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        Instant::now()
    }

    /// Starts the scenario's loads; its time zero is `start`.
    ///
    /// # Errors
    /// A sender that cannot be started.
    pub fn start_loads(&self, start: Instant) -> Result<Vec<Generator>> {
        let loads = self.scenario.loads.iter().enumerate();
        loads
            .map(|(index, load)| {
                let seed = self.seed.wrapping_add(index as u64);
                Generator::start(self.namespace(&load.node)?, load, seed, start)
            })
            .collect()
    }

    /// Starts the scenario's games, bulks and path shifts; its time zero is `start`.
    ///
    /// # Errors
    /// A socket or a thread that cannot be had.
    pub fn start_traffic(&self, start: Instant) -> Result<Traffic> {
        let mut traffic = Traffic::default();
        for game in &self.scenario.games {
            traffic.game(self.namespace(&game.node)?, game, start)?;
        }
        for bulk in &self.scenario.bulks {
            traffic.bulk(self.namespace(&bulk.node)?, self.namespace(&bulk.receiver)?, bulk, start)?;
        }
        for shift in &self.scenario.shifts {
            let node = self.scenario.node(&shift.node).into_iter();
            let own = node.flat_map(|node| &node.routes).find(|route| route.to.network() == shift.to.network());
            let own = own.expect("checked when the scenario was read");
            traffic.shift(self.namespace(&shift.node)?, shift, own, start)?;
        }
        Ok(traffic)
    }

    /// Watches from now on whether the kernel keeps the rates of the links that it plays.
    ///
    /// # Errors
    /// A socket or a thread that cannot be had.
    pub fn watch_shapers(&self) -> Result<Shapers> {
        let ends: Vec<_> = self
            .ends_by_kernel()
            .map(|(end, mtu)| Ok((self.namespace(&end.node)?, end, mtu)))
            .collect::<Result<_>>()?;
        Shapers::watch(ends.into_iter())
    }

    /// The ends at which the kernel plays a rate, each with the MTU of its link.
    fn ends_by_kernel(&self) -> impl Iterator<Item = (&LinkEnd, u32)> {
        let links = self.scenario.links.iter().zip(&self.played).filter(|(_, played)| **played == Played::Kernel);
        links.flat_map(|(link, _)| link.ends.iter().map(|end| (end, link.mtu))).filter(|(end, _)| end.egress.is_some())
    }

    /// Counters of every queue that the kernel plays, with its node and interface; those of the wire engine come with its grade.
    ///
    /// # Errors
    /// An interface that somebody took away.
    pub fn queues(&self) -> Result<Vec<(String, String, QdiscStatistics)>> {
        let counted = |(end, _): (&LinkEnd, u32)| {
            let statistics = Netlink::open(self.namespace(&end.node)?)?.qdisc_statistics(&end.dev)?;
            Ok((end.node.clone(), end.dev.clone(), statistics))
        };
        self.ends_by_kernel().map(counted).collect()
    }

    /// A command that will run inside a node and be killed when the thread that starts it ends.
    ///
    /// `/sys` stays the host's, unlike with `ip netns exec`, so that tracefs is seen.
    ///
    /// # Errors
    /// [`Error::NoNode`], or no descriptor left.
    pub fn command(&self, node: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        self.namespace(node)?.command(program)
    }

    /// Starts a command made by [`Lab::command`] and notes it, so that it is killed with the lab; the guard kills it when dropped.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn spawn(&mut self, mut command: Command) -> Result<Running> {
        let child = command.spawn().map_err(|source| Error::Command {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        let running = Running { child };
        if let (Some(journal), Some(process)) = (&mut self.journal, Process::of(running.child.id())) {
            journal.record(Object::Process(process))?;
        }
        Ok(running)
    }

    /// Leaves the lab up when this value and this process end; [`down`] takes it down.
    ///
    /// # Errors
    /// [`Error::Fleeting`], or a journal that cannot be written; then the lab is taken down.
    pub fn keep(mut self) -> Result<()> {
        let fleeting = self.played().find_map(|([place, _], played)| match played {
            Played::Wire(why) => Some((place, why.clone())),
            _ => None,
        });
        if let Some((place, why)) = fleeting {
            return Err(Error::Fleeting { id: self.id.clone(), place, why });
        }
        if let Some(journal) = self.journal.take() {
            journal.keep()?;
        }
        Ok(())
    }

    /// Takes the lab down and says what was removed.
    ///
    /// # Errors
    /// What could not be taken down stays in the journal for the next [`down`].
    pub fn down(mut self) -> Result<Undone> {
        self.wire.take();
        self.namespaces.clear();
        let journal = self.journal.take().expect("only keep and down take it, and both end the value");
        Ok(journal.undo()?)
    }

    /// A namespace of that name, noted before it is made.
    fn add_namespace(&mut self, name: String) -> Result<Namespace> {
        // Not ours, not to be noted: the journal would remove it.
        if netns::list()?.contains(&name) {
            return Err(Error::NamespaceExists { name });
        }
        let object = Object::Netns { name: name.clone() };
        let journal = self.journal.as_mut().expect("present until the lab goes down");
        journal.record(object.clone())?;
        let mut namespace = match Namespace::create(&name) {
            Err(taken @ Error::NamespaceExists { .. }) => {
                journal.retract(object)?;
                return Err(taken);
            }
            made => made?,
        };
        // The journal removes it.
        namespace.keep();
        Ok(namespace)
    }

    fn add_node(&mut self, node: &Node) -> Result<()> {
        let namespace = self.add_namespace(namespace_name(&self.id, &node.name))?;
        // The host's own settings may be inherited (net.core.devconf_inherit_init_net), so nothing is taken for granted.
        let mut settings = vec![
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv6.conf.all.disable_ipv6", "0"),
            ("net.ipv6.conf.default.disable_ipv6", "0"),
            // For flow labels every packet is hashed by a secret of this boot, and that too is taken for the flow's hash on the way.
            ("net.ipv6.auto_flowlabels", "0"),
        ];
        if !node.any_address.is_empty() {
            settings.push(("net.ipv6.ip_nonlocal_bind", "1"));
        }
        if node.forward {
            settings.extend([("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]);
        }
        for (key, value) in settings {
            sysctl::set(&namespace, key, value)?;
        }
        if node.routes.iter().any(|route| !route.members.is_empty()) {
            // By addresses and ports, as a game's flows differ in ports alone. A packet keeps what its sender's socket hashed it to, a random
            // number where that is connected, and policy 1 takes it for the flow's hash; policy 3 never does. Under that, though, what the kernel
            // answers when it is asked for a route of IPv6 is not where it sends the packet.
            sysctl::set(&namespace, "net.ipv4.fib_multipath_hash_policy", "3")?;
            sysctl::set(&namespace, "net.ipv4.fib_multipath_hash_fields", ADDRESSES_AND_PORTS)?;
            sysctl::set(&namespace, "net.ipv6.fib_multipath_hash_policy", "1")?;
            sysctl::set(&namespace, HASH_SEED, &self.scenario.hash_seed.to_string()).map_err(|_| Error::NoHashSeed)?;
        }
        let mut netlink = Netlink::open(&namespace)?;
        netlink.up("lo")?;
        for address in &node.addresses {
            netlink.add_address("lo", *address)?;
        }
        let own = node.any_address.iter().map(|prefix| Route::local(*prefix));
        for route in own.chain(node.black_hole.iter().map(|prefix| Route::black_hole(*prefix))) {
            netlink.add_route(&route)?;
        }
        self.namespaces.push(namespace);
        Ok(())
    }

    fn choose_players(&mut self, player: Player) -> Result<()> {
        let Some(any) = self.namespaces.first() else { return Ok(()) };
        let (mut netlink, mut qdiscs) = (Netlink::open(any)?, Qdiscs::default());
        let choices = self.scenario.links.iter().map(|link| qdiscs.choose(player, &self.scenario, link, &mut netlink));
        self.played = choices.collect::<Result<_>>()?;
        if self.played.iter().any(|played| matches!(played, Played::Wire(_))) {
            let router = self.add_namespace(router_name(&self.id))?;
            // Nothing of its own is to be heard on the links.
            sysctl::set(&router, "net.ipv6.conf.default.disable_ipv6", "1")?;
            self.namespaces.push(router);
        }
        Ok(())
    }

    fn router(&self) -> Result<&Namespace> {
        let name = router_name(&self.id);
        let found = self.namespaces.iter().find(|namespace| namespace.name() == name);
        found.ok_or_else(|| Error::NoNode { lab: self.id.clone(), node: "of the wire engine".into() })
    }

    /// Starts to play the links that are the wire engine's.
    fn start_wire(&mut self) -> Result<()> {
        let links = self.scenario.links.iter().enumerate().zip(&self.played);
        let spliced: Vec<_> = links
            .filter(|(_, played)| matches!(played, Played::Wire(_)))
            .map(|((index, link), _)| Spliced {
                mtu: link.mtu,
                ends: [0, 1].map(|end| (&link.ends[end], heard_at(index, end))),
                impairments: [0, 1]
                    .map(|end| [false, true].map(|v6| Impairment::new(&self.scenario, &link.ends[end], v6, self.seed))),
            })
            .collect();
        if !spliced.is_empty() {
            self.wire = Some(Wire::start(self.router()?, &spliced, &self.zero)?);
        }
        Ok(())
    }

    fn add_link(&self, index: usize, link: &Link) -> Result<()> {
        let [left, right] = &link.ends;
        let [left_mac, right_mac] = [0, 1].map(|end| mac(index, end));
        let (left_namespace, right_namespace) = (self.namespace(&left.node)?, self.namespace(&right.node)?);
        let left_end = End { namespace: left_namespace, interface: &left.dev, mac: Some(left_mac) };
        let right_end = End { namespace: right_namespace, interface: &right.dev, mac: Some(right_mac) };
        let played = &self.played[index];
        if let Played::Wire(_) = played {
            for (number, own) in [left_end, right_end].into_iter().enumerate() {
                let interface = &heard_at(index, number);
                link::veth(own, End { namespace: self.router()?, interface, mac: None }, link.mtu)?;
            }
        } else {
            link::veth(left_end, right_end, link.mtu)?;
        }
        for (namespace, own, other, other_mac) in
            [(left_namespace, left, right, right_mac), (right_namespace, right, left, left_mac)]
        {
            let mut netlink = Netlink::open(namespace)?;
            for address in &own.addresses {
                netlink.add_address(&own.dev, *address)?;
            }
            for address in &other.addresses {
                netlink.add_neighbour(&own.dev, address.address(), other_mac)?;
            }
            if *played == Played::Kernel {
                let chain = kernel::chain(own, link.mtu);
                netlink.add_qdiscs(&own.dev, &chain.expect("chosen because the kernel can"))?;
            }
        }
        Ok(())
    }

    fn add_routes(&self, node: &Node) -> Result<()> {
        let mut netlink = Netlink::open(self.namespace(&node.name)?)?;
        node.routes.iter().try_for_each(|route| netlink.add_route(route))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.wire.take();
        // An open descriptor would keep a namespace, and the guardian must outlive the journal.
        self.namespaces.clear();
        self.journal.take();
        self.guardian.take();
    }
}

/// A process inside a lab; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// The process, for its pipes and its id.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn wait(mut self) -> std::io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that will run inside the node of a lab that some process brought up, this one or another, and that does not end with its parent.
///
/// # Errors
/// No such lab or node, or missing privilege.
pub fn command(id: &str, node: &str, program: impl AsRef<OsStr>) -> Result<Command> {
    check_id(id)?;
    let namespace = Namespace::open(&namespace_name(id, node)).map_err(|error| match error {
        Error::NamespaceMissing { .. } | Error::NamespaceName { .. } => {
            Error::NoNode { lab: id.to_owned(), node: node.to_owned() }
        }
        other => other,
    })?;
    namespace.command_of_its_own(program)
}

/// A lab as its journal tells of it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// The process that runs it, while it does; `None` for a lab that was kept, or whose process died.
    pub running: Option<Process>,
    /// Left up on purpose.
    pub kept: bool,
    /// Its namespaces, as `ip netns` shows them.
    pub namespaces: Vec<String>,
}

/// All labs of this host.
pub fn list() -> Vec<Listed> {
    let of_labs = pathlab_guard::all().into_iter().flatten().filter(|journal| journal.verb == VERB);
    of_labs.map(|journal| listed(&journal)).collect()
}

/// Takes down a lab that was kept, or whose process died.
///
/// # Errors
/// No such lab, one that its living process still runs, or something that could not be taken down.
pub fn down(id: &str) -> Result<Undone> {
    let found = pathlab_guard::all().into_iter().flatten().find(|journal| journal.verb == VERB && journal.id == id);
    take_down(found.ok_or_else(|| Error::NoLab { id: id.to_owned() })?)
}

/// Takes down every lab, as [`down`]; each with its outcome.
pub fn down_all() -> Vec<(String, Result<Undone>)> {
    let of_labs = pathlab_guard::all().into_iter().flatten().filter(|journal| journal.verb == VERB);
    of_labs.map(|journal| (journal.id.clone(), take_down(journal))).collect()
}

fn take_down(journal: Leftover) -> Result<Undone> {
    if let Some(process) = listed(&journal).running {
        return Err(Error::LabRuns { id: journal.id, pid: process.pid });
    }
    Ok(journal.undo()?)
}

fn listed(journal: &Leftover) -> Listed {
    let namespaces = journal.objects.iter().filter_map(|object| match object {
        Object::Netns { name } => Some(name.clone()),
        _ => None,
    });
    Listed {
        id: journal.id.clone(),
        running: (!journal.is_orphan()).then_some(journal.owner),
        kept: journal.kept,
        namespaces: namespaces.collect(),
    }
}

fn namespace_name(id: &str, node: &str) -> String {
    format!("pathlab-{id}-{node}")
}

/// The wire engine's namespace; no node can be called so.
fn router_name(id: &str) -> String {
    format!("pathlab-{id}.wire")
}

/// The interface in the router's namespace at which the end of a link is heard.
fn heard_at(link: usize, end: usize) -> String {
    format!("{link}-{end}")
}

fn check_id(id: &str) -> Result<()> {
    let usable = (1..=40).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if usable && !id.starts_with('-') { Ok(()) } else { Err(Error::LabName { id: id.to_owned() }) }
}

/// Locally administered; the same in every lab, as no two labs share a wire.
fn mac(link: usize, end: u8) -> MacAddress {
    let [_, .., high, low] = link.to_be_bytes();
    MacAddress([0x02, b'p', b'l', high, low, end + 1])
}
