//! A server with two transits, in namespaces of its own: what leaves over a transit is noted there, session by session.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use pathlab_canary::Mode;
use pathlab_guard::in_netns;

/// The game server's port.
pub(crate) const PORT: u16 = 7777;
/// Packets to client ports from here on are not noted but delivered.
pub(crate) const DELIVERED: u16 = 60_000;

/// The server's own addresses, which both transits accept.
pub(crate) const OWN_V4: &str = "203.0.113.10";
pub(crate) const OWN_V6: &str = "2001:db8:f::10";

/// Tests that measure times run without any other: the kernel detaches programs one after another, for all namespaces.
static BESIDE_OTHERS: RwLock<()> = RwLock::new(());

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// `server` with devices `eth0` (default route) and `eth1`, each to the namespace of a transit that plays all clients.
pub(crate) struct Network {
    pub(crate) server: String,
    pub(crate) transit_a: String,
    pub(crate) transit_b: String,
    /// Behind the server, which forwards for it.
    pub(crate) game: String,
    _company: Company,
}

/// Whether other networks may stand beside this one.
enum Company {
    Others(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    None(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

pub(crate) type Sessions = BTreeSet<SocketAddr>;

pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Session number `i`, in 198.18.0.0/15 or 2001:db8:c::/48.
pub(crate) fn session(v6: bool, i: u32) -> SocketAddr {
    let address = if v6 {
        IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_000c_0000_0000_0000_0000_0000 + u128::from(i / 3)))
    } else {
        IpAddr::from(Ipv4Addr::from_bits(0xc612_0000 + i / 3))
    };
    SocketAddr::new(address, 1_024 + (i.wrapping_mul(7_919) % 50_000) as u16)
}

/// The client address whose packets to [`DELIVERED`] and up a socket in a transit can receive.
pub(crate) fn listener(v6: bool) -> IpAddr {
    session(v6, 15).ip()
}

impl Network {
    pub(crate) fn new() -> Self {
        Self::in_company(Company::Others(BESIDE_OTHERS.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// With no other network beside it, for times that are measured.
    pub(crate) fn alone() -> Self {
        Self::in_company(Company::None(BESIDE_OTHERS.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn in_company(company: Company) -> Self {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let name = |role| format!("plst{}-{number}-{role}", std::process::id());
        let network = Self {
            server: name("srv"),
            transit_a: name("a"),
            transit_b: name("b"),
            game: name("game"),
            _company: company,
        };
        let Self { server, transit_a, transit_b, game, .. } = &network;
        for ns in [server, transit_a, transit_b, game] {
            // Without duplicate address detection: addresses must not still be changing when a test looks.
            sh(&format!(
                "ip netns add {ns}; ip -n {ns} link set lo up; \
                 nsenter --net=/run/netns/{ns} sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 \
                 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
            ));
        }
        for (dev, ns, n) in [("eth0", transit_a, 1), ("eth1", transit_b, 2)] {
            sh(&format!(
                "ip -n {server} link add name {dev} type veth peer s netns {ns}
                 ip -n {server} addr add 10.{n}.0.2/24 dev {dev}
                 ip -n {server} addr add 2001:db8:{n}::2/64 dev {dev} nodad
                 ip -n {ns} addr add 10.{n}.0.1/24 dev s; ip -n {ns} addr add 2001:db8:{n}::1/64 dev s nodad
                 ip -n {server} link set {dev} up; ip -n {ns} link set s up
                 ip -n {ns} route add local 198.18.0.0/15 dev lo
                 ip -n {ns} -6 route add local 2001:db8:c::/48 dev lo
                 ip -n {ns} addr add {}/128 dev lo
                 nsenter --net=/run/netns/{ns} nft -f - <<END
                 table inet seen {{
                     set v4 {{ type ipv4_addr . inet_service; size 1000000; flags dynamic; }}
                     set v6 {{ type ipv6_addr . inet_service; size 1000000; flags dynamic; }}
                     counter noted {{ }}
                     chain note {{
                         type filter hook prerouting priority 0;
                         udp sport {PORT} udp dport < {DELIVERED} add @v4 {{ ip daddr . udp dport }} counter name noted drop
                         udp sport {PORT} udp dport < {DELIVERED} add @v6 {{ ip6 daddr . udp dport }} counter name noted drop
                     }}
                 }}
END",
                listener(true)
            ));
        }
        sh(&format!(
            "ip -n {server} link add name g type veth peer s netns {game}
             ip -n {server} addr add 10.3.0.1/24 dev g; ip -n {server} addr add 2001:db8:3::1/64 dev g nodad
             ip -n {game} addr add 10.3.0.2/24 dev s; ip -n {game} addr add 2001:db8:3::2/64 dev s nodad
             ip -n {server} link set g up; ip -n {game} link set s up
             ip -n {game} route add default via 10.3.0.1; ip -n {game} -6 route add default via 2001:db8:3::1
             ip -n {server} addr add {OWN_V4}/32 dev lo; ip -n {server} addr add {OWN_V6}/128 dev lo nodad
             ip -n {server} route add default via 10.1.0.1 src {OWN_V4}
             ip -n {server} -6 route add default via 2001:db8:1::1 src {OWN_V6}
             nsenter --net=/run/netns/{server} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        ));
        network.warm_up();
        network
    }

    /// Sends to one client until it arrives: neighbours are known then, and devices pass packets.
    fn warm_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        for from in [&self.server, &self.game] {
            loop {
                self.send(from, [session(false, 0), session(true, 0)], |_| Vec::new());
                if self.take().0.len() == 2 {
                    break;
                }
                assert!(Instant::now() < deadline, "the network of the test does not come up");
            }
        }
    }

    /// What must be the same before and after.
    pub(crate) fn state(&self) -> String {
        let state = sh(&format!(
            "in='nsenter --net=/run/netns/{}'; $in nft list ruleset; \
             for f in -4 -6; do $in ip $f rule; $in ip $f route show table all; done; \
             $in cat /proc/sys/net/ipv4/fwmark_reflect /proc/sys/net/ipv6/fwmark_reflect",
            self.server
        ));
        // The kernel's word on the carrier of a device that a test took down and up follows within a second, by itself.
        state.replace(" linkdown", "")
    }

    /// Whether the kernel has the tcx (Linux 6.6) that the programs on devices need.
    pub(crate) fn has_tcx(&self) -> bool {
        in_netns(Some(&self.server), || Ok(SchedClassifier::query_tcx("eth0", TcAttachType::Egress).is_ok())).unwrap()
    }

    /// How many programs look at what leaves by each transit.
    pub(crate) fn programs(&self) -> [usize; 2] {
        ["eth0", "eth1"].map(|dev| {
            let programs = in_netns(Some(&self.server), || Ok(SchedClassifier::query_tcx(dev, TcAttachType::Egress)));
            programs.unwrap().map_or(0, |(_, programs)| programs.len())
        })
    }

    /// Runs a command in the server's namespace.
    pub(crate) fn on_server(&self, command: &str) -> String {
        sh(&format!("nsenter --net=/run/netns/{} {command}", self.server))
    }

    /// Whose packets are steered in this mode.
    pub(crate) fn sender(&self, mode: Mode) -> &str {
        if mode == Mode::Router { &self.game } else { &self.server }
    }

    /// Sends one packet to each session, from the server or from the game host behind it.
    pub(crate) fn send(
        &self,
        from: &str,
        sessions: impl IntoIterator<Item = SocketAddr>,
        payload: impl Fn(&SocketAddr) -> Vec<u8>,
    ) -> usize {
        let [v4, v6] = self.sockets(from, PORT);
        let mut sent = 0;
        for to in sessions {
            let socket = if to.is_ipv4() { &v4 } else { &v6 };
            socket.send_to(&payload(&to), to).unwrap();
            sent += 1;
        }
        sent
    }

    /// Sockets on all addresses of a namespace.
    pub(crate) fn sockets(&self, ns: &str, port: u16) -> [UdpSocket; 2] {
        in_netns(Some(ns), || Ok([bind(Ipv4Addr::UNSPECIFIED.into(), port).unwrap(), v6_only(port)])).unwrap()
    }

    /// The one of them that is of this family, so that another may hold the other.
    pub(crate) fn socket(&self, ns: &str, v6: bool, port: u16) -> UdpSocket {
        in_netns(Some(ns), || Ok(if v6 { v6_only(port) } else { bind(Ipv4Addr::UNSPECIFIED.into(), port).unwrap() }))
            .unwrap()
    }

    /// The sessions that left over transit A and over transit B since the last call, and the number of packets.
    pub(crate) fn take(&self) -> (Sessions, Sessions, usize) {
        let mut packets = 0;
        let mut of = |ns: &str| {
            let nft = format!("nsenter --net=/run/netns/{ns} nft");
            packets += count(&sh(&format!("{nft} -j reset counter inet seen noted")));
            let mut sessions = Sessions::new();
            for set in ["v4", "v6"] {
                sessions.extend(listed(&sh(&format!(
                    "{nft} -j list set inet seen {set}; {nft} flush set inet seen {set}"
                ))));
            }
            sessions
        };
        let (a, b) = (of(&self.transit_a), of(&self.transit_b));
        (a, b, packets)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for ns in [&self.server, &self.transit_a, &self.transit_b, &self.game] {
            drop(Command::new("ip").args(["netns", "del", ns]).stderr(Stdio::null()).status());
        }
    }
}

/// A process that another test has just forked holds a closed socket open until it executes its program.
fn bind(address: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match UdpSocket::bind((address, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

/// A socket for IPv6 alone beside one for IPv4: bound to an address that is no wildcard, as std offers no
/// `IPV6_V6ONLY`.
fn v6_only(port: u16) -> UdpSocket {
    let addresses = [OWN_V6, "2001:db8:3::2"];
    let mut bound = addresses.iter().filter_map(|address| bind(address.parse().unwrap(), port).ok());
    bound.next().expect("the server and the game host have one of them")
}

fn count(json: &str) -> usize {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let objects = json["nftables"].as_array().unwrap();
    objects.iter().find_map(|object| object["counter"]["packets"].as_u64()).unwrap() as usize
}

fn listed(json: &str) -> Vec<SocketAddr> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let set = json["nftables"].as_array().unwrap().iter().find_map(|object| object.get("set")).unwrap();
    let elements = set["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
    let session = |element: &serde_json::Value| {
        let fields = &element["concat"];
        SocketAddr::new(fields[0].as_str().unwrap().parse().unwrap(), fields[1].as_u64().unwrap() as u16)
    };
    elements.iter().map(session).collect()
}
