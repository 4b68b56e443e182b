//! Copies for others to see: pseudonyms in every file of a run or a capture, and the way back for who has the key.

use std::{fs, net::SocketAddr, process::Command};

use jiff::{SignedDuration, Timestamp};
use pathlab_record::{Arm, LogInterval, Run, RunDirectory, SessionKey, verify};
use serde_json::{Value, json};

use super::{bin, report};

#[test]
fn copies_for_others_have_pseudonyms_in_every_file_and_the_key_leads_back() {
    let place = tempfile::tempdir().unwrap();
    let pathlab = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_pathlab")).args(args).current_dir(place.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    const CLIENTS: [&str; 3] = ["203.0.113.7", "203.0.113.9", "2001:db8:77::a"];
    const CARD: &str = "02:42:ac:11:00:02";
    const OTHER: &str = "02:42:ac:99:88:77";
    const HOST: &str = "tyo-game-7.example.net";
    let started: Timestamp = "2026-11-08T10:00:00Z".parse().unwrap();
    let make = |name: &str, inside: Option<&str>| {
        let path = place.path().join(inside.unwrap_or_default()).join(name);
        let mut about = Run::new("probe", started);
        about.options = json!({ "targets": ["203.0.113.7:862", "[2001:DB8:77::A]:862"], "source": "203.0.113.0/24" });
        about.host.insert("name".to_owned(), json!(HOST));
        let mut directory = RunDirectory::create(&path, &about).unwrap();
        for (number, client) in CLIENTS.iter().enumerate() {
            let of = SocketAddr::new(client.parse().unwrap(), 7_000);
            let mut bin = bin("NTT", if of.is_ipv4() { 4 } else { 6 }, Arm::Control, number, started, 20.0, 1);
            (bin.session, bin.key) = (of.to_string(), Some(SessionKey(of)));
            bin.labels.insert("server".to_owned(), json!("game at ::ffff:203.0.113.9"));
            directory.session(&bin).unwrap();
            let labels = [("key".to_owned(), of.to_string())].into();
            let length = SignedDuration::from_mins(10);
            let interval = LogInterval { labels, start: started, length, histogram: bin.rtt.unwrap() };
            directory.interval("rtt", &interval).unwrap();
        }
        directory.artefact("rum.csv", b"key,rtt_ms\n203.0.113.9:7000,20\n2001:0db8:0077:0:0:0:0:a,21\n").unwrap();
        directory.artefact("path-203.0.113.7.txt", b"hop 1 203.0.113.9 (via 203.0.113.7)\n").unwrap();
        let port =
            format!("2: eth0: link/ether {CARD} brd ff:ff:ff:ff:ff:ff\nenx{} of {HOST}\n", CARD.replace(':', ""));
        directory.artefact("link.txt", port.as_bytes()).unwrap();
        directory
            .artefact("neighbours.json", format!("[{{\"lladdr\":\"{}\"}}]\n", OTHER.to_uppercase()).as_bytes())
            .unwrap();
        directory.note(started, Some("noc at 203.0.113.9"), "rollback of 2001:db8:77::a").unwrap();
        directory.note(started, Some("noc@Tyo-Game-7"), "looked at pop-3").unwrap();
        directory.seal(started).unwrap();
        path
    };
    let one = make("one", None);
    make("inner", Some("one"));
    make("two", None);
    // A page names what its runs name.
    report(&[&one], &[]);

    let (code, said, wrong) =
        pathlab(&["evidence", "pseudonymise", "one", "--host", "pop-3", "--key", "key", "--out", "shown"]);
    assert!(said.contains("4 addresses, 2 hardware addresses and 3 names of hosts in "), "{said}{wrong}");
    assert!(code == Some(0) && said.contains("the key is new"), "{said}{wrong}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(place.path().join("key")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = ["evidence", "pseudonymise", "two", "--host", "pop-3", "--key", "key", "--out", "shown", "--json"];
    let (code, said, _) = pathlab(&again);
    let second: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &second["addresses"], &second["key_made"]), (Some(0), &json!(4), &json!(false)), "{said}");

    // Nothing of the true ones in any spelling, in no file and no name of one.
    let mut all = String::new();
    let shown = place.path().join("shown");
    for run in ["one", "one/inner", "two"] {
        for entry in fs::read_dir(shown.join(run)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            all += &format!("\n{}\n", entry.file_name().to_string_lossy());
            all += &fs::read_to_string(entry.path()).unwrap();
        }
        verify(&shown.join(run)).unwrap();
        let mut sums = Command::new("sha256sum");
        sums.args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(shown.join(run));
        assert!(sums.status().unwrap().success(), "sha256sum -c takes the sums of {run}");
    }
    assert!(all.contains("<h2>Evidence</h2>"), "the page went along");
    let cards = ["42:ac:11", "0242ac11", "42-ac-11", "ac:99:88", "tyo-game", "pop-3"];
    for hidden in ["203.0.113", "cb00:71", "cb007107", "3405803783", "db8:77", "db8:0077"].into_iter().chain(cards) {
        assert!(!all.to_lowercase().contains(hidden), "{hidden} in {all}");
    }
    // The same pseudonyms in both, on one /24 as the clients are, and the way back.
    let pseudonyms = |run: &str| {
        let file = shown.join(run).join("sessions.jsonl");
        pathlab_record::read_sessions(&file).unwrap().map(|bin| bin.unwrap().key.unwrap().0.ip()).collect::<Vec<_>>()
    };
    let [first, second, third] = pseudonyms("one")[..] else { panic!("three clients") };
    assert_eq!(pseudonyms("two"), [first, second, third]);
    let of = |address: std::net::IpAddr| pathlab_record::Prefix::new(address, 24).unwrap();
    assert!(first != second && of(first) == of(second) && all.contains(&of(first).to_string()), "{first} {second}");
    let (code, said, _) =
        pathlab(&["evidence", "reveal", &first.to_string(), &second.to_string(), &third.to_string(), "--key", "key"]);
    let back: Vec<&str> = said.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!((code, back), (Some(0), CLIENTS.to_vec()));
    // Cards of one maker share the front of their pseudonyms; they and hosts are led back to as well.
    let neighbours: Value = serde_json::from_slice(&fs::read(shown.join("one/neighbours.json")).unwrap()).unwrap();
    let link = fs::read_to_string(shown.join("two/link.txt")).unwrap();
    let card = link.split_whitespace().nth(3).unwrap();
    let other = neighbours[0]["lladdr"].as_str().unwrap();
    let host = link.split_whitespace().last().unwrap();
    assert!(
        link.contains("brd ff:ff:ff:ff:ff:ff") && link.contains(&format!("enx{}", card.replace(':', ""))),
        "{link}"
    );
    assert!(card[..8] == other[..8] && host.starts_with("host-"), "{card} {other} {host}");
    let (code, said, _) = pathlab(&["evidence", "reveal", card, other, host, "--key", "key"]);
    let back: Vec<&str> = said.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!((code, back), (Some(0), vec![CARD, OTHER, HOST]));
    assert_eq!(pathlab(&["evidence", "reveal", "host-aaaaaaaabbbbbbbb", "--key", "key"]).0, Some(2));
    // The copy says what it was made from, and keeps what was done.
    let copy = verify(&shown.join("one")).unwrap();
    let actions: Vec<&str> = copy.records.iter().map(|record| record.action.as_str()).collect();
    let from = format!("pseudonymise, from {}", verify(&one).unwrap().head);
    assert!(actions.contains(&from.as_str()) && actions[0] == "start" && actions[1].starts_with("rollback of "));
    assert_eq!(copy.sealed, copy.head);

    // Another key, another world; a key beside the copies, or that others may read, is refused; so is a run that was changed.
    let refused = |args: &[&str], code: i32, why: &str| {
        let (got, _, said) = pathlab(&[&["evidence", "pseudonymise"], args].concat());
        assert!(got == Some(code) && said.contains(why), "{args:?}: {got:?} {said}");
    };
    refused(&["two", "--key", "shown/key", "--out", "shown"], 2, "keep it elsewhere");
    refused(&["two", "--key", "key", "--out", "shown"], 1, "is not empty");
    fs::write(place.path().join("open"), "00".repeat(32)).unwrap();
    refused(&["two", "--key", "open", "--out", "other"], 2, "chmod 600 open");
    assert_eq!(pathlab(&["evidence", "pseudonymise", "two", "--key", "third", "--out", "other"]).0, Some(0));
    assert_ne!(
        fs::read(place.path().join("other/two/sessions.jsonl")).unwrap(),
        fs::read(shown.join("two/sessions.jsonl")).unwrap()
    );
    fs::write(one.join("rum.csv"), "").unwrap();
    refused(&["one", "--key", "key", "--out", "again"], 1, "rum.csv is not the file");
}

#[test]
fn a_capture_for_others_has_pseudonyms_and_sums_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let capture = place.path().join("pack");
    for folder in ["proc/net", "more", "port/enx0242ac110002"] {
        fs::create_dir_all(capture.join(folder)).unwrap();
    }
    fs::write(
        capture.join("capture.json"),
        "{\"schema\":\"pathlab.host.capture/1\",\"ports\":[\"enx0242ac110002\"],\"window_ms\":0}\n",
    )
    .unwrap();
    fs::write(capture.join("proc/net/udp"), "  12: 077100CB:1F40 00000000:0000 07 00000000:00000000 00:00000000\n")
        .unwrap();
    fs::write(capture.join("more/addresses"), "link/ether 02:42:ac:11:00:02\n inet 203.0.113.7/24 on tyo-game-7\n")
        .unwrap();
    fs::write(capture.join("port/enx0242ac110002/irqs.entries"), "24\n").unwrap();
    fs::write(capture.join("SHA256SUMS"), "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pathlab"));
    command.args(["evidence", "pseudonymise", "pack", "--host", "tyo-game-7", "--key", "key", "--out", "shown"]);
    let output = command.current_dir(place.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("a capture of 4 files"), "{said}{output:?}");
    let shown = place.path().join("shown/pack");
    let mut sums = Command::new("sha256sum");
    assert!(sums.args(["--strict", "--quiet", "-c", "SHA256SUMS"]).current_dir(&shown).status().unwrap().success());
    let all = Command::new("grep").args(["-rc", "."]).current_dir(&shown).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&all.stdout).lines().count(), 5);
    let left = Command::new("sh")
        .args([
            "-c",
            "{ find . ; cat $(find . -type f); } | grep -iE '203\\.0\\.113|077100CB|0242ac11|42:ac:11|tyo-game'",
        ])
        .current_dir(&shown)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    // The port has one name in its description and in the names of folders.
    let about: Value = serde_json::from_slice(&fs::read(shown.join("capture.json")).unwrap()).unwrap();
    assert!(shown.join("port").join(about["ports"][0].as_str().unwrap()).join("irqs.entries").is_file());
}
