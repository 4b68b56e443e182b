//! Which ISP an address belongs to, from an offline table: for sessions that no label places, and for clients whose packets are watched.
//!
//! Lines of tab-separated columns, either `PREFIX ASN NAME` or, as iptoasn.com publishes them, `FIRST LAST ASN COUNTRY NAME`. Of nested
//! prefixes the longest counts. `#` begins a comment; the AS number 0 is nobody's.

use std::{fs, net::IpAddr, path::Path};

use pathlab_record::{Prefix, PrefixError};

use crate::Error;

/// The label of what no row holds.
pub const UNKNOWN: &str = "unknown";

/// Addresses as numbers: IPv4 in 32 bits, IPv6 in 128.
type Range = (u128, u128);

/// A table of address ranges, each with its ISP.
#[derive(Clone, Debug, Default)]
pub struct AsnTable {
    names: Vec<String>,
    /// Disjoint and ascending, for IPv4 and IPv6: first, last, place in the names.
    ranges: [Vec<(u128, u128, usize)>; 2],
}

impl AsnTable {
    /// Reads a whole table; blank lines are nothing.
    ///
    /// # Errors
    /// [`Error::Input`] when it cannot be read, [`Error::Columns`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Input { path: path.to_owned(), source })?;
        let mut table = AsnTableBuilder::default();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = || format!("{}:{}", path.display(), at + 1);
            table.line(line.as_bytes()).map_err(|why| Error::Columns { at: at(), why })?;
        }
        Ok(table.build())
    }

    /// The ISP of an address: its name in the table, or `AS` and the number where it has none.
    pub fn isp(&self, address: IpAddr) -> Option<&str> {
        let (family, number) = number(address.to_canonical());
        let ranges = &self.ranges[family];
        let (_, last, name) = *ranges[..ranges.partition_point(|(first, ..)| *first <= number)].last()?;
        (number <= last).then(|| self.names[name].as_str())
    }
}

/// A table on its way.
#[derive(Debug, Default)]
pub(crate) struct AsnTableBuilder {
    names: std::collections::BTreeMap<String, usize>,
    /// As given: possibly nested.
    ranges: [Vec<(Range, usize)>; 2],
}

impl AsnTableBuilder {
    /// One line that is not blank; a comment is nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned())?;
        if text.starts_with('#') {
            return Ok(());
        }
        let columns: Vec<&str> = text.split('\t').map(str::trim).collect();
        let (family, range, asn, name) = match columns[..] {
            [first, last, asn, _, name] if !first.contains('/') => {
                let address =
                    |text: &str| text.parse::<IpAddr>().map(number).map_err(|_| format!("`{text}` is no address"));
                let ((family, first), (other, last)) = (address(first)?, address(last)?);
                if family != other || last < first {
                    return Err(format!("`{}` to `{}` is no range", columns[0], columns[1]));
                }
                (family, (first, last), asn, name)
            }
            [prefix, asn, ref name @ ..] if name.len() < 2 => {
                let prefix: Prefix = prefix.parse().map_err(|error: PrefixError| error.to_string())?;
                let (family, first) = number(prefix.address());
                let width = if family == 0 { 32 } else { 128 };
                let hosts = u128::MAX.checked_shr(128 - (width - u32::from(prefix.length()))).unwrap_or(0);
                (family, (first & !hosts, first | hosts), asn, name.first().copied().unwrap_or_default())
            }
            _ => return Err("expected PREFIX ASN NAME or FIRST LAST ASN COUNTRY NAME, between tabs".to_owned()),
        };
        let asn: u32 = asn.trim_start_matches("AS").parse().map_err(|_| format!("`{asn}` is no AS number"))?;
        if asn == 0 {
            return Ok(());
        }
        let name = if name.is_empty() { format!("AS{asn}") } else { name.to_owned() };
        let next = self.names.len();
        let name = *self.names.entry(name).or_insert(next);
        self.ranges[family].push((range, name));
        Ok(())
    }

    /// The table: of nested ranges the shorter one counts, of equal ones the last line.
    pub(crate) fn build(self) -> AsnTable {
        let mut names: Vec<_> = self.names.into_iter().map(|(name, place)| (place, name)).collect();
        names.sort_unstable();
        let names = names.into_iter().map(|(_, name)| name).collect();
        AsnTable { names, ranges: self.ranges.map(disjoint) }
    }
}

/// Ranges that do not overlap, ascending: where some did, the innermost has its way.
fn disjoint(mut ranges: Vec<(Range, usize)>) -> Vec<(u128, u128, usize)> {
    // Longer ones first, so that shorter ones lie above them on the stack; the sort is stable, so the last of equal ones is on top.
    ranges.sort_by_key(|&((first, last), _)| (first, std::cmp::Reverse(last)));
    let mut out: Vec<(u128, u128, usize)> = Vec::new();
    let mut open: Vec<(u128, usize)> = Vec::new();
    let mut from = 0;
    let put = |out: &mut Vec<_>, first: u128, last: u128, name| {
        if first <= last {
            out.push((first, last, name));
        }
    };
    for ((first, last), name) in ranges {
        // Those that end before this one begins.
        while let Some(&(end, name)) = open.last().filter(|(end, _)| *end < first) {
            put(&mut out, from, end, name);
            from = from.max(end + 1);
            open.pop();
        }
        if let Some(&(_, name)) = open.last()
            && first > from
        {
            put(&mut out, from, first - 1, name);
        }
        from = first;
        // On top is what ends first, also where ranges lap over each other without being nested.
        open.push((last, name));
        open.sort_by_key(|(end, _)| std::cmp::Reverse(*end));
    }
    while let Some((end, name)) = open.pop() {
        if end >= from {
            put(&mut out, from, end, name);
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

    #[test]
    fn a_wrong_line_of_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# ours\n\n10.0.0.0/8\t64500\n10.0.0.0/33\t64501\n").unwrap();
        let error = AsnTable::read(file.path()).unwrap_err().to_string();
        assert!(error.contains(":4") && error.contains("33"), "{error}");
        fs::write(file.path(), "# ours\n\n10.0.0.0/8\t64500\n").unwrap();
        assert_eq!(AsnTable::read(file.path()).unwrap().isp("10.1.1.1".parse().unwrap()), Some("AS64500"));
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
            assert_eq!(table.isp(address.parse().unwrap()), isp, "{address}");
        }
        assert_eq!(AsnTable::default().isp("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, what) in [
            ("10.0.0.0/8", "expected PREFIX"),
            ("10.0.0.0/8\tx\ty", "no AS number"),
            ("10.0.0.9\t10.0.0.1\t1\tJP\tx", "no range"),
            ("10.0.0.9\t::1\t1\tJP\tx", "no range"),
            ("ten\t::1\t1\tJP\tx", "no address"),
            ("10.0.0.0/33\t1\tx", "10.0.0.0/33"),
        ] {
            let error = AsnTableBuilder::default().line(line.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{line}: {error}");
        }
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
                let got = table.isp(text(address).parse().unwrap());
                proptest::prop_assert_eq!(got, expected.as_deref(), "{}", text(address));
            }
        }
    }
}
