//! Writes a small MaxMind DB (format 2.0): a binary tree over the bits of addresses, the records that its ends point to, and what describes both.
//! Written from the specification, not from the reader under test.

use std::{collections::HashMap, net::IpAddr};

/// Before the part that describes the file.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// Octets of zero between tree and records.
const SEPARATOR: usize = 16;

/// What a record may hold, as far as databases of networks need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Text(String),
    /// Of this many octets at most: 2, 4 or 8.
    Number(u64, u8),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

impl Value {
    /// A record as in GeoLite2-ASN; without a name where it is empty.
    pub(crate) fn network(asn: u32, name: &str) -> Self {
        let mut map = vec![("autonomous_system_number", Self::Number(asn.into(), 4))];
        if !name.is_empty() {
            map.push(("autonomous_system_organization", Self::Text(name.into())));
        }
        Self::Map(map)
    }

    /// Control octet, size and value ("Output Data Section").
    fn encode(&self, out: &mut Vec<u8>) {
        let control = |kind: u8, size: usize, out: &mut Vec<u8>| {
            let (size, more) = match size {
                0..29 => (size as u8, None),
                29..285 => (29, Some((size - 29) as u8)),
                _ => panic!("longer than this test needs"),
            };
            // Types above 7 have an octet of their own.
            out.push(if kind > 7 { size } else { kind << 5 | size });
            if kind > 7 {
                out.push(kind - 7);
            }
            out.extend(more);
        };
        match self {
            Self::Text(text) => {
                control(2, text.len(), out);
                out.extend(text.as_bytes());
            }
            Self::Number(value, octets) => {
                let bytes = value.to_be_bytes();
                let used = 8 - bytes.iter().take_while(|octet| **octet == 0).count();
                let kind = [(2, 5), (4, 6), (8, 9)].iter().find(|(size, _)| size == octets).expect("2, 4 or 8").1;
                control(kind, used, out);
                out.extend(&bytes[8 - used..]);
            }
            Self::Map(map) => {
                control(7, map.len(), out);
                for (key, value) in map {
                    Self::Text((*key).to_owned()).encode(out);
                    value.encode(out);
                }
            }
            Self::List(values) => {
                control(11, values.len(), out);
                values.iter().for_each(|value| value.encode(out));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Nothing,
    Node(usize),
    /// Offset of a record.
    Record(usize),
}

/// The octets of a database: networks as first address and length, of `version` 4 or 6; IPv4 in a database of version 6 lies in `::/96`.
/// Longer prefixes have their way. `bits` is the size of a place in the tree: 24, 28 or 32.
pub(crate) fn write(networks: &[(IpAddr, u8, Value)], version: u8, bits: u16) -> Vec<u8> {
    let mut sorted: Vec<_> = networks.iter().collect();
    sorted.sort_by_key(|(address, length, _)| depth(*address, *length, version).1);
    let (mut nodes, mut data, mut known) = (vec![[Place::Nothing; 2]], Vec::new(), HashMap::new());
    for (address, length, value) in sorted {
        let offset = *known.entry(value).or_insert_with(|| {
            let offset = data.len();
            value.encode(&mut data);
            offset
        });
        let (path, depth) = depth(*address, *length, version);
        assert!(depth > 0, "the whole space needs no tree");
        put(&mut nodes, path, depth, Place::Record(offset));
    }
    if version == 6
        && let Some(v4) = (0..96).try_fold(0, |node: usize, _| match nodes[node][0] {
            Place::Node(next) => Some(next),
            _ => None,
        })
    {
        // As databases do it: mapped addresses, Teredo and 6to4 lead to what is said of IPv4.
        for (path, depth) in [(0xffff_u128 << 32, 96), (0x2001 << 112, 32), (0x2002 << 112, 16)] {
            put(&mut nodes, path, depth, Place::Node(v4));
        }
    }
    let mut out = Vec::new();
    for node in &nodes {
        let [left, right] = node.map(|place| match place {
            Place::Nothing => nodes.len() as u32,
            Place::Node(node) => node as u32,
            Place::Record(offset) => (nodes.len() + SEPARATOR + offset) as u32,
        });
        let (l, r) = (left.to_be_bytes(), right.to_be_bytes());
        match bits {
            24 => out.extend([l[1], l[2], l[3], r[1], r[2], r[3]]),
            // The octet in the middle has the upper bits of both.
            28 => out.extend([l[1], l[2], l[3], l[0] << 4 | r[0], r[1], r[2], r[3]]),
            32 => out.extend([l, r].concat()),
            _ => panic!("24, 28 or 32"),
        }
    }
    out.extend([0; SEPARATOR]);
    out.extend(data);
    out.extend(MARKER);
    let text = |text: &str| Value::Text(text.into());
    Value::Map(vec![
        ("binary_format_major_version", Value::Number(2, 2)),
        ("binary_format_minor_version", Value::Number(0, 2)),
        ("build_epoch", Value::Number(1_795_255_200, 8)),
        ("database_type", text("pathlab-test-ASN")),
        ("description", Value::Map(vec![("en", text("networks of a test"))])),
        ("ip_version", Value::Number(version.into(), 2)),
        ("languages", Value::List(vec![text("en")])),
        ("node_count", Value::Number(nodes.len() as u64, 4)),
        ("record_size", Value::Number(bits.into(), 2)),
    ])
    .encode(&mut out);
    out
}

/// Makes the way down to a place, and puts there what it is.
fn put(nodes: &mut Vec<[Place; 2]>, path: u128, depth: u8, what: Place) {
    let side = |level: u8| (path >> (127 - level) & 1) as usize;
    let mut node = 0;
    for level in 0..depth - 1 {
        let next = match nodes[node][side(level)] {
            Place::Node(next) => next,
            // What was said of the whole is said of both halves.
            end => {
                nodes.push([end; 2]);
                nodes.len() - 1
            }
        };
        nodes[node][side(level)] = Place::Node(next);
        node = next;
    }
    nodes[node][side(depth - 1)] = what;
}

/// The bits of a prefix from the top, and how many.
fn depth(address: IpAddr, length: u8, version: u8) -> (u128, u8) {
    match (address, version) {
        (IpAddr::V4(address), 4) => (u128::from(address.to_bits()) << 96, length),
        (IpAddr::V4(address), _) => (address.to_bits().into(), 96 + length),
        (IpAddr::V6(address), _) => (address.to_bits(), length),
    }
}
