//! What a scenario file says that cannot be is refused with file, line, key and what would be right: one sentence each.

use std::{fs, path::Path};

use pathlab_netlab::scenario::Scenario;

/// The complaint about a shipped scenario in which `from` is replaced by `to`, without its place, which must be the line where `at` stands.
fn complaint(name: &str, from: &str, to: &str, at: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.toml"));
    let text = fs::read_to_string(path).expect("shipped");
    assert!(text.contains(from), "{name}: {from}");
    let text = text.replacen(from, to, 1);
    let error = Scenario::parse("s.toml", &text, None).expect_err(to).to_string();
    let line = 1 + text.find(at).map_or_else(|| panic!("{at}"), |place| text[..place].matches('\n').count());
    let place = format!("s.toml:{line}: ");
    error.strip_prefix(&place).unwrap_or_else(|| panic!("{error:?} should begin with {place:?}")).to_owned()
}

#[test]
fn conditions_of_links() {
    for (from, to, problem) in [
        ("burst = 3.0", "burst = 1.0", "burst: a burst is the mean length of a run of losses, above 1"),
        ("loss = \"1.5%\", ", "", "burst: a burst needs a loss beside it, such as loss = \"1%\""),
        ("loss = \"1.5%\"", "loss = \"90%\"", "burst: runs of 3 losses cannot make up 90 % of the packets"),
        (", hold = \"15ms\"", "", "reorder: reordering needs a hold beside it, such as hold = \"3ms\""),
        ("reorder = \"2%\", ", "", "hold: a hold needs a share beside it, such as reorder = \"1%\""),
        ("loss = \"1.5%\"", "loss = \"1.5\"", "loss: \"1.5\" is no share, such as \"15%\""),
    ] {
        assert_eq!(complaint("lossy-last-mile", from, to, "node = \"isp\", dev = \"home\""), problem);
    }
    let problem = complaint("small-ring", "descriptors = 64", "descriptors = 0", "ring = {");
    assert_eq!(problem, "descriptors: a ring has one descriptor at least");
}

#[test]
fn routes_and_their_next_hops() {
    let both = complaint(
        "ecmp-fault",
        "\"203.0.113.0/24\", hops",
        "\"203.0.113.0/24\", via = \"192.0.2.10\", hops",
        "via = \"192.0.2.10\", hops",
    );
    assert_eq!(both, "to: a route has via and dev, or two hops or more, each with via and dev");
    let unseeded =
        complaint("ecmp-fault", "needs = [\"multipath_hash_seed\"]", "needs = []", "{ to = \"203.0.113.0/24\", hops");
    assert_eq!(
        unseeded,
        "to: a fixed choice of next hops takes a seed of the kernel's hash; list it as needs = [\"multipath_hash_seed\"]"
    );
    let weightless = complaint("ecmp-fault", "dev = \"m1\" },\n", "dev = \"m1\", weight = 0 },\n", "weight = 0");
    assert_eq!(weightless, "weight: a weight is 1 to 255");
    let nowhere =
        complaint("path-shift", "\nto = \"203.0.113.0/24\"", "\nto = \"203.0.114.0/24\"", "to = \"203.0.114.0/24\"");
    assert_eq!(nowhere, "to: node edge has no route to 203.0.114.0/24 that could shift");
    let family =
        complaint("path-shift", "via = \"192.0.2.10\"", "via = \"2001:db8:b::2\"", "via = \"2001:db8:b::2\"\ndev");
    assert_eq!(family, "via: 2001:db8:b::2 is not of the family of 203.0.113.0/24");
}

#[test]
fn faults() {
    for (from, to, at, problem) in [
        (
            "add_delay = \"30ms\"\nloss = \"5%\"\n",
            "",
            "name = \"v6 transit\"",
            "name: fault v6 transit harms nothing: give it add_delay, loss, reorder or down",
        ),
        (
            "at = \"server:isp\" ",
            "at = \"server\" ",
            "at = \"server\"",
            "at: \"server\" is no place: write node:interface, of the end that sends",
        ),
        ("at = \"server:isp\"", "at = \"server:isq\"", "at = \"server:isq\"", "at: node server has no interface isq"),
        ("family = 6\nadd", "family = 5\nadd", "family = 5", "family: a family is 4 or 6"),
        ("off = \"3s\" ", "", "on = \"2s\"", "on: what comes and goes has both: on = \"2s\", off = \"3s\""),
        ("on = \"2s\"", "on = \"2us\"", "on = \"2us\"", "on: what comes and goes stays for a millisecond at least"),
        (
            "during = [\"fault\"]",
            "during = [\"faults\"]",
            "during = [\"faults\"]",
            "during: no window is called faults",
        ),
    ] {
        assert_eq!(complaint("v6-fault", from, to, at), problem);
    }
}

#[test]
fn loads() {
    for (name, from, to, at, problem) in [
        (
            "evening",
            "at = \"9s\"",
            "at = \"0s\"",
            "at = \"0s\", share = \"50%\"",
            "at: the points of a curve follow one another in time",
        ),
        (
            "microburst",
            "tick_rate = 60",
            "tick_rate = 0",
            "tick_rate = 0",
            "tick_rate: a tick rate is 1 to 1000 a second",
        ),
        ("microburst", "players = 64", "players = 0", "players = 0", "players: a game has 1 to 10000 players"),
        ("microburst", "every = 60", "every = 0", "every = 0", "every: every tick is 1"),
        (
            "microburst",
            "snapshot = 160",
            "snapshot = 9000",
            "snapshot = 9000",
            "snapshot: a load's payload is 18 to 1452 bytes: neither padded nor fragmented",
        ),
        (
            "bufferbloat-pfifo",
            "to = \"198.18.255.1\"",
            "to = \"192.0.2.99\"",
            "to = \"192.0.2.99\"",
            "to: no node has the address 192.0.2.99",
        ),
        (
            "bufferbloat-pfifo",
            "node = \"server\"\nto",
            "node = \"sever\"\nto",
            "node = \"sever\"",
            "node: no node is called sever",
        ),
    ] {
        assert_eq!(complaint(name, from, to, at), problem);
    }
}

#[test]
fn expectations() {
    for (name, from, to, at, problem) in [
        (
            "v6-fault",
            "what = \"loss.return\"",
            "what = \"lost.return\"",
            "what = \"lost.return\"",
            "what: \"lost.return\" is no figure: use rtt.p50, forward.p95, return.p95, ipdv.p95 or another percentile, loss, loss.forward, loss.return, reordered, goodput, sent, overflowed, dropped, marked, lost, missed or unroutable",
        ),
        (
            "v6-fault",
            "at_most = \"3%\"",
            "at_most = \"3ms\"",
            "at_most = \"3ms\"",
            "at_most: \"3ms\" is no share, such as \"15%\"",
        ),
        (
            "v6-fault",
            "at_most = \"21ms\"",
            "at_most = \"21%\"",
            "at_most = \"21%\"",
            "at_most: \"21%\" is no time, such as \"500ms\" or \"2min\"",
        ),
        (
            "microburst",
            "at_least = \"1000 packets\"",
            "at_least = \"1000\"",
            "at_least = \"1000\"",
            "at_least: \"1000\" is no count, such as \"120 packets\"",
        ),
        (
            "microburst",
            "at = \"isp:home\"\n",
            "",
            "what = \"overflowed\"",
            "what: overflowed needs a place beside it: at = \"node:interface\"",
        ),
        (
            "bufferbloat-pfifo",
            "bulk = \"download\"",
            "bulk = \"upload\"",
            "bulk = \"upload\"",
            "bulk: no bulk is called upload",
        ),
        (
            "ecmp-fault",
            "via = \"edge:m1\"",
            "via = \"edge:m9\"",
            "via = \"edge:m9\"",
            "via: node edge has no interface m9",
        ),
        (
            "baseline",
            "what = \"loss\"\nat_most = \"0%\"",
            "what = \"loss\"",
            "what = \"loss\"",
            "what: an expectation needs a bound: at_least or at_most",
        ),
        (
            "baseline",
            "what = \"unroutable\"",
            "what = \"unroutable\"\nfamily = 4",
            "family = 4",
            "family: unroutable is not of some sessions: leave out family",
        ),
    ] {
        assert_eq!(complaint(name, from, to, at), problem);
    }
}
