//! Loads the programs that share `bpf/session.h`, with the plan in their constants, onto the devices of both paths.

use std::{collections::BTreeSet, io, net::IpAddr};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        MapData,
        lpm_trie::{Key as TrieKey, LpmTrie},
    },
    programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use pathlab_guard::{Family, Rtnetlink};
use pathlab_record::Prefix;

use super::{Plan, Result, preflight};
use crate::{KeyFrom, Mode};

/// Why an object was not loaded or attached.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the packets of both paths leave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    /// Index of the canary path's device by family, IPv4 first; 0: that family is not steered.
    pub(crate) canary: [u32; 2],
    /// Names of all devices.
    pub(crate) names: BTreeSet<String>,
}

impl Watched {
    /// The devices of the plan and of the routes to clients, in the calling thread's network namespace.
    pub(crate) fn of(plan: &Plan) -> Result<Self> {
        let mut rtnetlink = Rtnetlink::open(None)?;
        let mut watched = Self::default();
        for (family, devices) in preflight::devices(plan, &mut rtnetlink)? {
            watched.canary[usize::from(family == Family::V6)] = devices.canary.index;
            watched.names.insert(devices.canary.name);
            watched.names.extend(devices.control.map(|device| device.name));
        }
        Ok(watched)
    }
}

/// Loads `object`; `constants` and `entries` of maps are its own, beside those of `session.h`. Which device is the canary's is
/// told by its index.
pub(crate) fn load(
    object: &[u8],
    plan: &Plan,
    canary: [u32; 2],
    constants: &[(&str, u32)],
    entries: &[(&str, u32)],
) -> std::result::Result<Ebpf, Failure> {
    let key_from: u32 = match plan.key.from {
        KeyFrom::ClientAddrPort => 0,
        KeyFrom::ClientAddr => 1,
        KeyFrom::Payload => 2,
    };
    let [offset, length] = [plan.key.offset, plan.key.length].map(|value| u32::from(value.unwrap_or(0)));
    let shared = [
        ("SEED", plan.seed),
        ("KEY_FROM", key_from),
        ("KEY_OFFSET", offset),
        ("KEY_LENGTH", length),
        ("SERVER_PORT", plan.server_port.unwrap_or(0).into()),
        ("ROUTER", u32::from(plan.mode == Mode::Router)),
        ("HAS_INCLUDE", u32::from(!plan.include.is_empty())),
        ("HAS_EXCLUDE", u32::from(!plan.exclude.is_empty())),
        ("CANARY_V4", canary[0]),
        ("CANARY_V6", canary[1]),
    ];
    let mut loader = EbpfLoader::new();
    for (name, value) in shared.iter().chain(constants) {
        loader.override_global(name, value, true);
    }
    let most = |prefixes: &[Prefix]| prefixes.len().max(1) as u32;
    loader.map_max_entries("INCLUDE", most(&plan.include)).map_max_entries("EXCLUDE", most(&plan.exclude));
    for (name, entries) in entries {
        loader.map_max_entries(name, *entries);
    }
    let mut ebpf = loader.load(object)?;
    for (name, prefixes) in [("INCLUDE", &plan.include), ("EXCLUDE", &plan.exclude)] {
        let map = ebpf.map_mut(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut trie = LpmTrie::<&mut MapData, [u8; 20], u32>::try_from(map)?;
        for prefix in prefixes {
            trie.insert(&trie_key(prefix), 1, 0)?;
        }
    }
    Ok(ebpf)
}

/// Loads a program of the object. For the kernel's own measure of it, too.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> std::result::Result<&'a mut SchedClassifier, Failure> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?.try_into()?;
    program.load()?;
    Ok(program)
}

/// Attaches a loaded program to a device by a link that is not pinned: it goes with the process.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    device: &str,
    to: TcAttachType,
) -> std::result::Result<(), Failure> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    program
        .attach_with_options(device, to, order)
        .map_err(|refused| without_tcx(device, to).unwrap_or(refused.into()))?;
    Ok(())
}

/// Says so where the kernel has no tcx at all: then it does not know the question either.
fn without_tcx(device: &str, to: TcAttachType) -> Option<Failure> {
    match SchedClassifier::query_tcx(device, to) {
        Err(ProgramError::SyscallError(unknown)) if unknown.io_error.raw_os_error() == Some(libc::EINVAL) => {
            Some("the kernel has no tcx (Linux 6.6)".into())
        }
        _ => None,
    }
}

/// `struct prefix`: the family first, then the address, an IPv4 one as its IPv4-mapped IPv6 address.
fn trie_key(prefix: &Prefix) -> TrieKey<[u8; 20]> {
    let length = u32::from(prefix.length());
    let (family, bits, address) = match prefix.address() {
        IpAddr::V4(address) => (4, 96 + length, address.to_ipv6_mapped()),
        IpAddr::V6(address) => (6, length, address),
    };
    let mut key = [0; 20];
    key[0] = family;
    key[4..].copy_from_slice(&address.octets());
    TrieKey::new(32 + bits, key)
}
