//! What steering costs and how fast it ends: a server with two transits in namespaces, `pathlab canary start` on it, and the same packets with it and without.
//!
//! ```text
//!                         ┌─ eth0 ── bench-a ─┐  control, default route
//!  bench-g ── g ─ bench-s ┤                   ├─ clients; what is not listened for is dropped first thing
//!  (router mode)          └─ eth1 ── bench-b ─┘  canary
//! ```

mod cost;
mod flips;
mod many;
mod parts;
mod runs;
mod table;
mod tcx;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use pathlab_canary::{
    KeyFrom, Share, arm, bucket,
    steer::{self, Options},
};
use pathlab_netlab::{netns::Namespace, sysctl};
use pathlab_record::{Arm, SessionKey};
use tempfile::TempDir;

pub use table::measure;

/// The game server's port.
pub const PORT: u16 = 7777;
/// Packets to client ports from here on are delivered to a socket in the transit's namespace.
const DELIVERED: u16 = 60_000;
const SEED: u32 = 0x5eed_0001;
const NAME: &str = "bench";
/// Share of the sessions on the canary arm.
const SHARE: &str = "15%";

const OWN: [&str; 2] = ["203.0.113.10", "2001:db8:f::10"];
const GAME: [&str; 2] = ["10.3.0.2", "2001:db8:3::2"];

/// Whose packets are steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The server's own.
    Host,
    /// Those of a host behind it.
    Router,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Host, Self::Router];

    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Router => "router",
        }
    }
}

/// The namespaces; gone when dropped.
#[derive(Debug)]
pub struct Network {
    server: Namespace,
    transits: [Namespace; 2],
    game: Namespace,
    dir: TempDir,
}

impl Network {
    /// Makes them.
    ///
    /// # Errors
    /// No root, no iproute2 or nft, or a bench that still runs and has the names.
    pub fn new() -> Result<Self> {
        let another =
            "another bench runs, or one was killed: `ip netns del` takes back bench-s, bench-a, bench-b, bench-g";
        let make = |name| Namespace::create(name).context(another);
        let network = Self {
            server: make("bench-s")?,
            transits: [make("bench-a")?, make("bench-b")?],
            game: make("bench-g")?,
            dir: tempfile::tempdir()?,
        };
        let Self { server, transits, game, .. } = &network;
        for namespace in [server, &transits[0], &transits[1], game] {
            for (key, value) in [
                ("net.ipv6.conf.all.accept_dad", "0"),
                ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv4.conf.all.rp_filter", "0"),
                ("net.ipv4.conf.default.rp_filter", "0"),
            ] {
                sysctl::set(namespace, key, value)?;
            }
            ip(&format!("-n {} link set lo up", namespace.name()))?;
        }
        let s = server.name();
        for (transit, n) in transits.iter().zip([1, 2]) {
            let (t, dev) = (transit.name(), format!("eth{}", n - 1));
            for line in [
                format!("-n {s} link add name {dev} type veth peer s netns {t}"),
                format!("-n {s} addr add 10.{n}.0.2/24 dev {dev}"),
                format!("-n {s} addr add 2001:db8:{n}::2/64 dev {dev} nodad"),
                format!("-n {t} addr add 10.{n}.0.1/24 dev s"),
                format!("-n {t} addr add 2001:db8:{n}::1/64 dev s nodad"),
                format!("-n {s} link set {dev} up"),
                format!("-n {t} link set s up"),
                format!("-n {t} route add local 198.18.0.0/15 dev lo"),
                format!("-n {t} -6 route add local 2001:db8:c::/48 dev lo"),
                format!("-n {t} addr add {}/128 dev lo", client(1, 0)),
            ] {
                ip(&line)?;
            }
            let sink = format!(
                "table inet sink {{ chain first {{ type filter hook prerouting priority raw; udp sport {PORT} udp dport < {DELIVERED} drop; }}; }}"
            );
            let loaded = transit.command("nft")?.arg(sink).status()?;
            ensure!(loaded.success(), "nft in {t}");
        }
        let g = game.name();
        for line in [
            format!("-n {s} link add name g type veth peer s netns {g}"),
            format!("-n {s} addr add 10.3.0.1/24 dev g"),
            format!("-n {s} addr add 2001:db8:3::1/64 dev g nodad"),
            format!("-n {g} addr add {}/24 dev s", GAME[0]),
            format!("-n {g} addr add {}/64 dev s nodad", GAME[1]),
            format!("-n {s} link set g up"),
            format!("-n {g} link set s up"),
            format!("-n {g} route add default via 10.3.0.1"),
            format!("-n {g} -6 route add default via 2001:db8:3::1"),
            format!("-n {s} addr add {}/32 dev lo", OWN[0]),
            format!("-n {s} addr add {}/128 dev lo nodad", OWN[1]),
            format!("-n {s} route add default via 10.1.0.1 src {}", OWN[0]),
            format!("-n {s} -6 route add default via 2001:db8:1::1 src {}", OWN[1]),
        ] {
            ip(&line)?;
        }
        sysctl::set(server, "net.ipv4.ip_forward", "1")?;
        sysctl::set(server, "net.ipv6.conf.all.forwarding", "1")?;
        Ok(network)
    }

    /// The server's socket, or that of the host behind it; IPv4 is family 0.
    fn socket(&self, mode: Mode, family: usize) -> Result<UdpSocket> {
        let (namespace, own) = match mode {
            Mode::Host => (&self.server, OWN),
            Mode::Router => (&self.game, GAME),
        };
        let address: IpAddr = own[family].parse()?;
        Ok(namespace.run(|| UdpSocket::bind((address, PORT)))??)
    }

    /// A client's socket behind a transit; 0 is the control path's.
    fn listen(&self, transit: usize, client: SocketAddr) -> Result<UdpSocket> {
        Ok(self.transits[transit].run(|| UdpSocket::bind(client))??)
    }
}

/// The address of client number `n`.
fn client(family: usize, n: u32) -> IpAddr {
    match family {
        0 => Ipv4Addr::from_bits(0xc612_0000 + n).into(),
        _ => Ipv6Addr::from_bits(0x2001_0db8_000c_0000_0000_0000_0000_0000 + u128::from(n)).into(),
    }
}

/// The arm of a session.
fn arm_of(session: SocketAddr) -> Arm {
    let bucket = bucket(SEED, &SessionKey(session), KeyFrom::ClientAddrPort).expect("a key of address and port");
    arm(bucket, share())
}

fn share() -> Share {
    SHARE.parse().expect("a share")
}

/// So many sessions of an arm: dropped by the transits, or delivered.
fn sessions(family: usize, of: Arm, count: usize, delivered: bool) -> Vec<SocketAddr> {
    let all = (0_u32..).map(|n| {
        if delivered {
            SocketAddr::new(client(family, 0), DELIVERED + (n % 5_000) as u16)
        } else {
            SocketAddr::new(client(family, n / 4), 1_024 + (n % 4) as u16)
        }
    });
    all.filter(|session| arm_of(*session) == of).take(count).collect()
}

/// `pathlab canary start` on the server, steering.
struct Steerer {
    child: Child,
}

impl Steerer {
    fn start(network: &Network, pathlab: &Path, mode: Mode, most_sessions: u32) -> Result<Self> {
        let dir = network.dir.path();
        fs::write(dir.join("seed"), format!("{SEED:#x}\n"))?;
        let config = dir.join("canary.toml");
        fs::write(&config, toml(mode, most_sessions))?;
        let out: PathBuf = tempfile::tempdir_in(dir)?.keep().join("run");
        let mut command: Command = network.server.command(pathlab)?;
        let child = command.args(["canary", "start", "-c"]).arg(config).arg("--out").arg(out);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("its stderr")?).lines();
        let mut heard = String::new();
        let steering = said.by_ref().map_while(std::io::Result::ok).any(|line| {
            heard = format!("{heard}{line}\n");
            line.contains("leave by the canary path")
        });
        if !steering {
            child.wait()?;
            anyhow::bail!("canary start: {heard}");
        }
        // So that its last words find a reader.
        std::thread::spawn(move || said.for_each(drop));
        Ok(Self { child })
    }

    /// Back to control and the host as it was.
    fn roll_back(mut self) -> Result<()> {
        steer::rollback(NAME, &options())?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Steerer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        // What the guardian has not yet taken back.
        drop(steer::rollback(NAME, &options()));
    }
}

fn options() -> Options {
    Options::with_guardian([""; 0])
}

fn toml(mode: Mode, most_sessions: u32) -> String {
    format!(
        r#"
[experiment]
name = "{NAME}"
seed_file = "seed"
share = "{SHARE}"
cap_share = "20%"
[steer]
mode = "{}"
lease = "500ms"
mark_mask = "0x00ff0000"
priority = 10000
server_port = {PORT}
max_canary_sessions = {most_sessions}
[steer.canary]
v4 = {{ via = "10.2.0.1", dev = "eth1" }}
v6 = {{ via = "2001:db8:2::1", dev = "eth1" }}
[windows]
evening = "19:00-24:00"
zone = "Asia/Tokyo"
evenings = 2
bin = "10min"
[policy]
metric = "rtt.p95"
margin = "2ms"
target = {{ isp = ["NTT"] }}
"#,
        mode.name()
    )
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("iproute2")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
