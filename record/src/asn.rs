//! Which network an address belongs to, from an offline table: for sessions that no label places, for clients whose packets are watched, and for
//! the routers of a path.
//!
//! A table is text (`rows`) or a MaxMind DB (`mmdb`), several files may make one, and all become the same ranges: of nested prefixes the longest
//! counts, whatever file it came from. Nothing is asked over the network.

mod mmdb;
mod rows;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{Error, Prefix, prefix::of_bits};
use rows::{Columns, Row};

/// Who announces an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// AS number (RFC 6793); never 0.
    pub asn: u32,
    /// Its name in the table, or `AS` and the number where it has none.
    pub name: String,
}

/// Addresses as numbers: IPv4 in 32 bits, IPv6 in 128.
type Range = (u128, u128);

/// A table of address ranges, each with its network.
#[derive(Clone, Debug, Default)]
pub struct AsnTable {
    networks: Vec<Network>,
    /// Disjoint and ascending, for IPv4 and IPv6: first, last, place in the networks.
    ranges: [Vec<(u128, u128, u32)>; 2],
}

impl AsnTable {
    /// Reads one file: text, or a MaxMind DB as its bytes tell.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Line`] with the line that is wrong, [`Error::Asn`] for a MaxMind DB that is damaged or
    /// holds no AS numbers.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(Error::reading(path))?;
        let mut table = AsnTableBuilder::default();
        if mmdb::is(&bytes) {
            let why = |why| Error::Asn { file: path.to_owned(), why };
            table.mmdb(&bytes).map_err(why)?;
        } else {
            table.text(path, &bytes)?;
        }
        Ok(table.build())
    }

    /// The network of an address. An IPv4 address that is mapped into IPv6 is one of IPv4.
    pub fn of(&self, address: IpAddr) -> Option<&Network> {
        let (family, number) = number(address.to_canonical());
        let ranges = &self.ranges[family];
        let (_, last, place) = *ranges[..ranges.partition_point(|(first, ..)| *first <= number)].last()?;
        (number <= last).then(|| &self.networks[place as usize])
    }

    /// How many ranges it has, of both families.
    pub fn ranges(&self) -> usize {
        self.ranges.iter().map(Vec::len).sum()
    }
}

/// A table on its way, of one file or several.
#[derive(Clone, Debug, Default)]
pub struct AsnTableBuilder {
    networks: BTreeMap<Network, u32>,
    /// As given: possibly nested.
    ranges: [Vec<(Range, u32)>; 2],
    /// Of the text that is being read.
    columns: Columns,
}

impl AsnTableBuilder {
    /// A new file of text begins: the header of the one before is forgotten.
    pub fn begin(&mut self) {
        self.columns = Columns::default();
    }

    /// One line of text, without its line break. Blank lines, comments and headers are nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        if let Some(Row { range, asn, name }) = self.columns.row(text)? {
            self.put(range, asn, &name);
        }
        Ok(())
    }

    /// All of a MaxMind DB.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it is in the table then.
    pub fn mmdb(&mut self, bytes: &[u8]) -> Result<(), String> {
        for (prefix, network) in mmdb::read(bytes)? {
            self.put(ends(prefix), network.asn, &network.name);
        }
        Ok(())
    }

    /// Whether a line is the header of a table in text, and of nothing else that pathlab reads.
    pub fn is_header(line: &[u8]) -> bool {
        std::str::from_utf8(line).is_ok_and(|text| Columns::of(text).is_some())
    }

    /// The table of all that was read: of nested ranges the shorter one counts, of equal ones the last.
    pub fn build(self) -> AsnTable {
        let mut networks: Vec<_> = self.networks.into_iter().map(|(network, place)| (place, network)).collect();
        networks.sort_unstable_by_key(|(place, _)| *place);
        let networks = networks.into_iter().map(|(_, network)| network).collect();
        AsnTable { networks, ranges: self.ranges.map(disjoint) }
    }

    fn text(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        self.begin();
        for (line, at) in bytes.split(|byte| *byte == b'\n').zip(1..) {
            self.line(line).map_err(|why| Error::Line { file: PathBuf::from(path), line: at, why })?;
        }
        Ok(())
    }

    /// The AS number 0 is nobody's (RFC 7607). Both ends are of one family.
    fn put(&mut self, (first, last): (IpAddr, IpAddr), asn: u32, name: &str) {
        if asn == 0 {
            return;
        }
        let name = if name.is_empty() { format!("AS{asn}") } else { name.to_owned() };
        let next = self.networks.len() as u32;
        let place = *self.networks.entry(Network { asn, name }).or_insert(next);
        let ((family, first), (_, last)) = (number(first), number(last));
        self.ranges[family].push(((first, last), place));
    }
}

/// First and last address of a prefix.
fn ends(prefix: Prefix) -> (IpAddr, IpAddr) {
    let hosts = u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
    let last = prefix.bits() | hosts;
    (prefix.address(), of_bits(last, prefix.address()))
}

/// Ranges that neither overlap nor could be one, ascending: where some did overlap, the innermost has its way.
fn disjoint(mut ranges: Vec<(Range, u32)>) -> Vec<(u128, u128, u32)> {
    // Longer ones first, so that shorter ones lie above them on the stack; the sort is stable, so the last of equal ones is on top.
    ranges.sort_by_key(|&((first, last), _)| (first, Reverse(last)));
    let mut out = Vec::new();
    let mut open: Vec<(u128, u32)> = Vec::new();
    let mut from = 0;
    let put = |out: &mut Vec<(u128, u128, u32)>, first: u128, last: u128, place: u32| match out.last_mut() {
        _ if first > last => {}
        // Next to each other and of one network: databases cut what lies around a longer prefix into many.
        Some((_, end, of)) if *of == place && end.checked_add(1) == Some(first) => *end = last,
        _ => out.push((first, last, place)),
    };
    for ((first, last), place) in ranges {
        // Those that end before this one begins.
        while let Some(&(end, place)) = open.last().filter(|(end, _)| *end < first) {
            put(&mut out, from, end, place);
            from = from.max(end + 1);
            open.pop();
        }
        if let Some(&(_, place)) = open.last()
            && first > from
        {
            put(&mut out, from, first - 1, place);
        }
        from = first;
        // On top is what ends first, also where ranges lap over each other without being nested.
        open.push((last, place));
        open.sort_by_key(|(end, _)| Reverse(*end));
    }
    while let Some((end, place)) = open.pop() {
        if end >= from {
            put(&mut out, from, end, place);
            let Some(next) = end.checked_add(1) else { break };
            from = next;
        }
    }
    out
}

fn number(address: IpAddr) -> (usize, u128) {
    match address {
        IpAddr::V4(address) => (0, u32::from(address).into()),
        IpAddr::V6(address) => (1, address.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> AsnTable {
        let mut table = AsnTableBuilder::default();
        text.lines().for_each(|line| table.line(line.as_bytes()).unwrap());
        table.build()
    }

    fn name<'t>(table: &'t AsnTable, address: &str) -> Option<&'t str> {
        table.of(address.parse().unwrap()).map(|network| network.name.as_str())
    }

    #[test]
    fn a_wrong_line_of_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# ours\n\n10.0.0.0/8\t64500\n10.0.0.0/33\t64501\n").unwrap();
        let error = AsnTable::read(file.path()).unwrap_err().to_string();
        assert!(error.contains(":4") && error.contains("33"), "{error}");
        fs::write(file.path(), "# ours\n\n10.0.0.0/8\t64500\n").unwrap();
        let table = AsnTable::read(file.path()).unwrap();
        assert_eq!((name(&table, "10.1.1.1"), table.ranges()), (Some("AS64500"), 1));
    }

    #[test]
    fn the_longest_prefix_counts_and_names_fall_back_to_numbers() {
        let table = table(
            "# a comment\n10.0.0.0/8\t64500\tOuter\n10.1.0.0/16\tAS64501\tInner\n10.1.2.0/24\t64502\n\
             2001:db8::/32\t2914\tNTT\n192.0.2.0\t192.0.2.127\t64503\tJP\tRange\n198.51.100.0\t198.51.100.255\t0\tNone\tNot routed",
        );
        for (address, isp) in [
            ("10.0.0.1", Some("Outer")),
            ("10.1.0.1", Some("Inner")),
            ("10.1.2.255", Some("AS64502")),
            ("10.1.3.0", Some("Inner")),
            ("10.2.0.0", Some("Outer")),
            ("10.255.255.255", Some("Outer")),
            ("11.0.0.0", None),
            ("9.255.255.255", None),
            ("192.0.2.127", Some("Range")),
            ("192.0.2.128", None),
            ("198.51.100.1", None),
            ("2001:db8::1", Some("NTT")),
            ("2001:db9::", None),
            ("::ffff:10.1.0.1", Some("Inner")),
        ] {
            assert_eq!(name(&table, address), isp, "{address}");
        }
        assert_eq!(name(&AsnTable::default(), "10.0.0.1"), None);
    }

    #[test]
    fn files_make_one_table_and_a_header_ends_with_its_file() {
        let mut table = AsnTableBuilder::default();
        for line in ["network,asn,as_name", "10.0.0.0/8,AS64500,\"Outer, Inc.\""] {
            table.line(line.as_bytes()).unwrap();
        }
        table.begin();
        table.line(b"2001:db8::/32\t2914\tNTT").unwrap();
        table.line(b"10.1.0.0/16\t64501\tInner").unwrap();
        let table = table.build();
        assert_eq!(table.of("10.9.9.9".parse().unwrap()), Some(&Network { asn: 64500, name: "Outer, Inc.".into() }));
        assert_eq!((name(&table, "10.1.9.9"), name(&table, "2001:db8::1")), (Some("Inner"), Some("NTT")));
    }

    proptest::proptest! {
        /// Against trying every prefix: the longest that holds the address.
        #[test]
        fn it_is_the_longest_prefix(
            prefixes in proptest::collection::vec((0_u32..256, 24_u8..=32), 0..30),
            addresses in proptest::collection::vec(0_u32..300, 1..40),
        ) {
            let text = |address: u32| std::net::Ipv4Addr::from(0x0a00_0000 + address).to_string();
            let mut table = AsnTableBuilder::default();
            let mask = |address: u32, length: u8| (u64::from(address) >> (32 - length) << (32 - length)) as u32;
            // Distinct prefixes, so that only the length decides.
            let prefixes: std::collections::BTreeSet<_> = prefixes.into_iter().map(|(a, l)| (mask(a, l), l)).collect();
            for (address, length) in &prefixes {
                table.line(format!("{}/{length}\t1\t{address}-{length}", text(*address)).as_bytes()).unwrap();
            }
            let table = table.build();
            for address in addresses {
                let holds = |(of, length): &&(u32, u8)| mask(address, *length) == *of;
                let expected = prefixes.iter().filter(holds).max_by_key(|(_, length)| *length).map(|(a, l)| format!("{a}-{l}"));
                let got = name(&table, &text(address));
                proptest::prop_assert_eq!(got, expected.as_deref(), "{}", text(address));
            }
        }
    }
}
