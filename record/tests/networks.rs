//! One table of networks, whatever it was read from: text between tabs or commas and a MaxMind DB give the same answers.

use std::{fs, net::IpAddr};

use pathlab_record::{AsnTable, AsnTableBuilder, Network};
use proptest::prelude::*;

#[path = "support/mmdb.rs"]
mod mmdb;
use mmdb::Value;

/// Nested and apart, of both families, one without a name, one of which the name has a comma.
const NETWORKS: [(&str, u8, u32, &str); 8] = [
    ("10.0.0.0", 8, 64500, "Outer"),
    ("10.1.0.0", 16, 64501, "Inner, Inc."),
    ("10.1.2.0", 24, 64502, ""),
    ("10.1.2.3", 32, 64500, "Outer"),
    ("192.0.2.128", 25, 64503, "Half"),
    ("2001:db8::", 32, 2914, "NTT"),
    ("2001:db8:1::", 48, 2516, "KDDI"),
    ("2001:db8:1::9", 128, 4_200_000_000, "One"),
];

const ADDRESSES: [&str; 19] = [
    "9.255.255.255",
    "10.0.0.0",
    "10.0.255.255",
    "10.1.0.0",
    "10.1.1.255",
    "10.1.2.2",
    "10.1.2.3",
    "10.1.2.4",
    "10.1.3.0",
    "10.255.255.255",
    "11.0.0.0",
    "192.0.2.127",
    "192.0.2.128",
    "2001:db7::1",
    "2001:db8::1",
    "2001:db8:1::8",
    "2001:db8:1::9",
    "::ffff:10.1.9.9",
    "2002:a01:203::1",
];

fn records(version: u8) -> Vec<(IpAddr, u8, Value)> {
    let all = NETWORKS.iter().map(|&(address, length, asn, name)| (address.parse().unwrap(), length, asn, name));
    let of_version = all.filter(|(address, ..): &(IpAddr, _, _, _)| version == 6 || address.is_ipv4());
    of_version.map(|(address, length, asn, name)| (address, length, Value::network(asn, name))).collect()
}

fn read(name: &str, bytes: impl AsRef<[u8]>) -> AsnTable {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    fs::write(&file, bytes).unwrap();
    AsnTable::read(&file).unwrap()
}

#[test]
fn text_and_databases_give_the_same_answers() {
    let tabs: String = NETWORKS.iter().map(|(a, l, asn, name)| format!("{a}/{l}\t{asn}\t{name}\n")).collect();
    let commas: String = NETWORKS.iter().map(|(a, l, asn, name)| format!("{a}/{l},{asn},\"{name}\"\r\n")).collect();
    let header = "network,autonomous_system_number,autonomous_system_organization\r\n";
    let expected = read("asn.tsv", &tabs);
    // By hand, so that all of them are not wrong together.
    let network = |asn, name: &str| Some(Network { asn, name: name.to_owned() });
    let of = |address: &str| expected.of(address.parse().unwrap()).cloned();
    assert_eq!(of("10.1.3.0"), network(64501, "Inner, Inc."));
    assert_eq!(of("10.1.2.2"), network(64502, "AS64502"));
    assert_eq!(of("10.1.2.3"), network(64500, "Outer"));
    assert_eq!(of("2001:db8:1::9"), network(4_200_000_000, "One"));
    assert_eq!((of("192.0.2.127"), of("11.0.0.0")), (None, None));
    let same = |table: &AsnTable, what: &str, addresses: &[&str]| {
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(table.of(address), expected.of(address), "{address} in {what}");
        }
        table.ranges()
    };
    same(&read("asn.csv", header.to_owned() + &commas), "CSV with a header", &ADDRESSES);
    same(&read("asn.csv", &commas), "CSV", &ADDRESSES);
    for bits in [24, 28, 32] {
        let name = format!("a database of {bits} bits");
        // The name of the file tells nothing: a database is known by what it is.
        let ranges = same(&read("asn", mmdb::write(&records(6), 6, bits)), &name, &ADDRESSES);
        // IPv4 within IPv6 is told once, not also under the addresses that stand for it.
        assert_eq!(ranges, expected.ranges(), "{name}");
        let of_v4: Vec<&str> = ADDRESSES.into_iter().filter(|address| !address.contains("2001")).collect();
        same(&read("asn.mmdb", mmdb::write(&records(4), 4, bits)), &format!("{name}, IPv4 alone"), &of_v4);
    }
}

#[test]
fn databases_of_other_publishers_and_of_other_things() {
    let text = |text: &str| Value::Text(text.to_owned());
    let address: IpAddr = "192.0.2.0".parse().unwrap();
    let ipinfo = Value::Map(vec![("asn", text("AS64500")), ("domain", text("example.net")), ("name", text("Example"))]);
    let table = read("ipinfo.mmdb", mmdb::write(&[(address, 24, ipinfo)], 4, 24));
    assert_eq!(table.of(address), Some(&Network { asn: 64500, name: "Example".into() }));
    let refused =
        |record: Value| AsnTableBuilder::default().mmdb(&mmdb::write(&[(address, 24, record)], 4, 24)).unwrap_err();
    let country = Value::Map(vec![("country", Value::Map(vec![("iso_code", text("JP"))]))]);
    assert_eq!(
        refused(country),
        "`pathlab-test-ASN` holds no AS numbers; give a database of networks, such as GeoLite2-ASN"
    );
    assert_eq!(refused(Value::Map(vec![("asn", text("ASx"))])), "`ASx` is no AS number");
}

#[test]
fn a_damaged_database_is_refused_with_its_name() {
    let whole = mmdb::write(&records(6), 6, 28);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("networks.mmdb");
    // The tree points beyond what is left.
    fs::write(&file, &whole[whole.len() / 2..]).unwrap();
    let error = AsnTable::read(&file).unwrap_err().to_string();
    assert!(error.contains("networks.mmdb: no table of networks: "), "{error}");
    // A tree whose branches meet has more ends than a tree can have: both sides of each of 40 nodes are the next one.
    let mut meeting: Vec<u8> = (1..=40_u32).flat_map(|next| [&next.to_be_bytes()[1..]; 2].concat()).collect();
    let address: IpAddr = "::".parse().unwrap();
    let ordinary = mmdb::write(&[(address, 40, Value::network(64500, ""))], 6, 24);
    meeting.extend(&ordinary[meeting.len()..]);
    let error = AsnTableBuilder::default().mmdb(&meeting).unwrap_err();
    assert!(error.contains("branches meet"), "{error}");
}

proptest! {
    /// Against the text with the same prefixes, over addresses around them.
    #[test]
    fn any_prefixes(
        prefixes in prop::collection::btree_map((0_u32..256, 24_u8..=32), 1_u32..5, 1..30),
        addresses in prop::collection::vec(0_u32..300, 1..40),
        bits in prop::sample::select(vec![24_u16, 28, 32]),
        version in prop::sample::select(vec![4_u8, 6]),
    ) {
        let ip = |address: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + address));
        let mask = |address: u32, length: u8| (u64::from(address) >> (32 - length) << (32 - length)) as u32;
        let prefixes: std::collections::BTreeMap<_, _> = prefixes.into_iter().map(|((a, l), asn)| ((mask(a, l), l), asn)).collect();
        let (mut text, mut records) = (AsnTableBuilder::default(), Vec::new());
        for (&(address, length), &asn) in &prefixes {
            text.line(format!("{}/{length}\t{asn}", ip(address)).as_bytes()).unwrap();
            records.push((ip(address), length, Value::network(asn, "")));
        }
        let (text, mut database) = (text.build(), AsnTableBuilder::default());
        database.mmdb(&mmdb::write(&records, version, bits)).unwrap();
        let database = database.build();
        for address in addresses {
            prop_assert_eq!(database.of(ip(address)), text.of(ip(address)), "{}", ip(address));
        }
    }

    /// Whatever a file says, it is a table or an error.
    #[test]
    fn no_damage_makes_it_panic(at: prop::sample::Index, octet: u8, cut: prop::sample::Index) {
        let mut bytes = mmdb::write(&records(6), 6, 24);
        let place = at.index(bytes.len());
        bytes[place] = octet;
        let _ = AsnTableBuilder::default().mmdb(&bytes);
        let _ = AsnTableBuilder::default().mmdb(&bytes[..cut.index(bytes.len())]);
    }
}
