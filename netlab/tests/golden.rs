//! The virtual engine plays every shipped scenario to the same last bit on every machine, under any processor and any optimisation.
//!
//! `PATHLAB_BLESS=1 cargo test -p pathlab-netlab --test golden` writes the file anew, where the engine or a scenario is meant to play otherwise; then
//! say so in CHANGELOG.md.

use std::fmt::Write as _;

use pathlab_netlab::{engine::discrete, scenario::Scenario};
use pathlab_record::Digest;

const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn golden() {
    let mut lines = String::new();
    for name in Scenario::shipped() {
        let scenario = Scenario::load(name, None).unwrap_or_else(|error| panic!("{error}"));
        let outcome = discrete::play(&scenario, scenario.seed, |_| false);
        let _ = writeln!(lines, "{} {name}", Digest::of(outcome.to_text().as_bytes()));
    }
    if std::env::var_os("PATHLAB_BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt"), &lines).expect("written");
        return;
    }
    assert_eq!(lines, GOLDEN, "the virtual engine plays otherwise than it did");
}
