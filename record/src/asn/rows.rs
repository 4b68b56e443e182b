//! Tables of networks in text, one row a line.
//!
//! Between tabs, or between commas with quotes as in CSV. Without a header: `PREFIX ASN NAME`, or `FIRST LAST ASN COUNTRY NAME` as iptoasn.com
//! publishes it. With a header, columns are found by the names that GeoLite2 and IPinfo give them, and others are passed over. `#` begins a
//! comment.

use std::{borrow::Cow, net::IpAddr};

use super::ends;
use crate::{Prefix, PrefixError, csv};

/// Names of the column with the prefix, of the one with the AS number, and of the one with its name.
const NETWORK: [&str; 2] = ["network", "prefix"];
const ASN: [&str; 2] = ["asn", "autonomous_system_number"];
const NAME: [&str; 3] = ["name", "as_name", "autonomous_system_organization"];

/// What a line tells of a network.
pub(super) struct Row<'t> {
    /// First and last address, of one family.
    pub(super) range: (IpAddr, IpAddr),
    pub(super) asn: u32,
    /// Empty where the table has none.
    pub(super) name: Cow<'t, str>,
}

/// Where a file has what, if it has a header.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns(Option<Named>);

/// Places of prefix, AS number and name.
#[derive(Clone, Copy, Debug)]
struct Named {
    network: usize,
    asn: usize,
    name: Option<usize>,
}

impl Columns {
    /// The columns that a header names; `None` when the line is none.
    pub(super) fn of(line: &str) -> Option<Self> {
        let names = fields(line.trim_start_matches('\u{feff}'));
        let place = |known: &[&str]| names.iter().position(|name| known.iter().any(|it| name.eq_ignore_ascii_case(it)));
        Some(Self(Some(Named { network: place(&NETWORK)?, asn: place(&ASN)?, name: place(&NAME) })))
    }

    /// Reads a line; `None` where it has no row.
    pub(super) fn row<'t>(&mut self, line: &'t str) -> Result<Option<Row<'t>>, String> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        if let Some(header) = Self::of(line) {
            *self = header;
            return Ok(None);
        }
        let mut fields = fields(line);
        let (range, asn, name) = match (self.0, &fields[..]) {
            (Some(named), all) => {
                let of = |place: usize| all.get(place).ok_or_else(|| format!("has {} fields", all.len()));
                (prefix(of(named.network)?)?, of(named.asn)?, named.name)
            }
            (None, [first, last, asn, _, _]) if !first.contains('/') => (between(first, last)?, asn, Some(4)),
            (None, [network, asn, name @ ..]) if name.len() < 2 => (prefix(network)?, asn, Some(2)),
            _ => {
                return Err(
                    "expected PREFIX ASN NAME or FIRST LAST ASN COUNTRY NAME, between tabs or commas".to_owned()
                );
            }
        };
        let asn = number(asn)?;
        let name =
            name.filter(|place| *place < fields.len()).map(|place| fields.swap_remove(place)).unwrap_or_default();
        Ok(Some(Row { range, asn, name }))
    }
}

/// An AS number as people and tables write it, with or without `AS`.
pub(super) fn number(text: &str) -> Result<u32, String> {
    text.trim_start_matches("AS").parse().map_err(|_| format!("`{text}` is no AS number"))
}

fn prefix(text: &str) -> Result<(IpAddr, IpAddr), String> {
    text.parse::<Prefix>().map(ends).map_err(|error: PrefixError| error.to_string())
}

fn between(first: &str, last: &str) -> Result<(IpAddr, IpAddr), String> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("`{text}` is no address"));
    let (from, to) = (address(first)?, address(last)?);
    match from.is_ipv4() == to.is_ipv4() && from <= to {
        true => Ok((from, to)),
        false => Err(format!("`{first}` to `{last}` is no range")),
    }
}

/// The fields of a line, without what is blank around them.
fn fields(line: &str) -> Vec<Cow<'_, str>> {
    if line.contains('\t') {
        return line.split('\t').map(|field| Cow::Borrowed(field.trim())).collect();
    }
    let trimmed = |field| match field {
        Cow::Borrowed(text) => Cow::Borrowed(str::trim(text)),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    };
    csv::fields(line).into_iter().map(trimmed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_the_names_of_those_who_publish_tables() {
        for (header, line, name) in [
            (
                "network,autonomous_system_number,autonomous_system_organization",
                r#"192.0.2.0/24,64500,"Example, Inc.""#,
                "Example, Inc.",
            ),
            (
                "network,country,country_code,continent,continent_code,asn,as_name,as_domain",
                "192.0.2.0/24,Japan,JP,Asia,AS,AS64500,Example,example.net",
                "Example",
            ),
            ("\u{feff}Prefix\tASN", "192.0.2.0/24\t64500", ""),
        ] {
            let mut columns = Columns::default();
            assert!(columns.row(header).unwrap().is_none(), "{header}");
            let row = columns.row(line).unwrap().unwrap();
            let range = (row.range.0.to_string(), row.range.1.to_string());
            assert_eq!(range, ("192.0.2.0".into(), "192.0.2.255".into()));
            assert_eq!((row.asn, row.name.as_ref()), (64500, name), "{line}");
        }
        // What others begin with.
        for header in ["time,session,isp,asn,rtt_ms", "window,arm,complaints", "192.0.2.0/24,64500,x"] {
            assert!(Columns::of(header).is_none(), "{header}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, what) in [
            ("10.0.0.0/8", "expected PREFIX"),
            ("10.0.0.0/8\tx\ty", "no AS number"),
            ("10.0.0.9\t10.0.0.1\t1\tJP\tx", "no range"),
            ("10.0.0.9\t::1\t1\tJP\tx", "no range"),
            ("ten\t::1\t1\tJP\tx", "no address"),
            ("10.0.0.0/33,1,x", "10.0.0.0/33"),
        ] {
            let error = Columns::default().row(line).err().unwrap();
            assert!(error.contains(what), "{line}: {error}");
        }
        let mut columns = Columns::of("network,x,asn").unwrap();
        assert_eq!(columns.row("10.0.0.0/8,1").err().unwrap(), "has 2 fields");
    }
}
