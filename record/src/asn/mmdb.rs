//! Networks of a MaxMind DB, the form in which GeoLite2, GeoIP2, DB-IP and IPinfo publish their tables: read whole, so that a damaged file is
//! refused before anything is measured or judged by it.

use std::{collections::HashMap, net::Ipv6Addr};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use super::{Network, rows};
use crate::Prefix;

/// Begins the part that describes the file, which is its last 128 KiB at most (MaxMind DB, "Database Metadata").
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
const DESCRIPTION: usize = 128 << 10;

/// Where a database repeats what it says of IPv4 (MaxMind DB, "IPv4 addresses in an IPv6 tree"): mapped addresses, Teredo and 6to4.
const ALIASES: [(u128, u8); 3] = [(0xffff << 32, 96), (0x2001_0000 << 96, 32), (0x2002 << 112, 16)];

/// Of a record only what names the network; others have cities and much else.
#[derive(Deserialize)]
struct Record {
    /// GeoLite2, GeoIP2, DB-IP.
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<String>,
    /// IPinfo.
    asn: Option<String>,
    as_name: Option<String>,
    name: Option<String>,
}

impl Record {
    fn network(self) -> Result<Option<Network>, String> {
        let asn = match (self.autonomous_system_number, &self.asn) {
            (Some(asn), _) => asn,
            (None, Some(text)) if !text.is_empty() => rows::number(text)?,
            _ => return Ok(None),
        };
        let name = self.autonomous_system_organization.or(self.as_name).or(self.name).unwrap_or_default();
        Ok(Some(Network { asn, name }))
    }
}

/// Whether bytes are a MaxMind DB.
pub(super) fn is(bytes: &[u8]) -> bool {
    let description = &bytes[bytes.len().saturating_sub(DESCRIPTION)..];
    description.windows(MARKER.len()).any(|window| window == MARKER)
}

/// All its networks, a name empty where it has none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(Prefix, Network)>, String> {
    let wrong = |error: MaxMindDbError| error.to_string();
    let reader = Reader::from_source(bytes).map_err(wrong)?;
    // A tree of n nodes ends in n + 1 places, the IPv4 part of it once more for each of the prefixes that stand for it. Where branches
    // meet or turn back there would be many more. Every end has to be told for that: the reader passes over aliases without a word.
    let most = (reader.metadata().node_count as usize + 1) * (1 + ALIASES.len());
    let aliases: Vec<Prefix> =
        ALIASES.iter().filter_map(|(bits, length)| Prefix::new(Ipv6Addr::from(*bits).into(), *length)).collect();
    let every = WithinOptions::default().include_networks_without_data().include_aliased_networks();
    let mut networks = Vec::new();
    let mut records: HashMap<usize, Option<Network>> = HashMap::new();
    for (found, met) in reader.networks(every).map_err(wrong)?.zip(0..) {
        if met == most {
            return Err("its search tree is no tree: branches meet".to_owned());
        }
        let found = found.map_err(wrong)?;
        let Some(offset) = found.offset() else { continue };
        let at = found.network().map_err(wrong)?;
        let prefix = Prefix::new(at.ip(), at.prefix()).ok_or("a prefix is longer than its family")?;
        if aliases.iter().any(|alias| alias.covers(&prefix)) {
            continue;
        }
        let network = match records.get(&offset) {
            Some(known) => known.clone(),
            None => {
                let record: Option<Record> = found.decode().map_err(wrong)?;
                let network = record.map_or(Ok(None), Record::network)?;
                records.insert(offset, network.clone());
                network
            }
        };
        if let Some(network) = network {
            networks.push((prefix, network));
        }
    }
    if networks.is_empty() {
        let kind = &reader.metadata().database_type;
        return Err(format!("`{kind}` holds no AS numbers; give a database of networks, such as GeoLite2-ASN"));
    }
    Ok(networks)
}
