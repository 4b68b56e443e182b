//! The way back, traced by the reflector's own replies: real routers, real ICMP, both families.

use std::{fs, os::unix::fs::PermissionsExt, thread};

use serde_json::Value;
use tempfile::tempdir;

use super::{
    diamond::{Diamond, TARGETS, flows, loss, names_no_other, run},
    isolation::{isolated, pathlab},
};

/// The losing branch's addresses towards r3.
const B: [&str; 2] = ["192.0.2.21", "2001:db8:b2::1"];

/// 30 % of the replies that come by one branch are lost there. Flows whose replies do name that link, others nothing; on the way there nobody
/// is blamed; and the server has sent no packet more than one for each request.
#[test]
fn the_way_back_is_traced_by_replies_that_end_on_it() {
    if !isolated("reverse::the_way_back_is_traced_by_replies_that_end_on_it") {
        return;
    }
    let keys = tempdir().expect("a temporary directory");
    let file = keys.path().join("key.toml");
    fs::write(&file, format!("default = \"{}\"\n", "5a".repeat(32))).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    let key = format!("--auth-key-file {}", file.display());
    let mut diamond = Diamond::with(false, &format!("{key} --allow-reverse-trace"));
    diamond.lose("b", 30, "meta l4proto udp udp sport 862");
    // Both families at the same time: 180 replies a second of each are to end on their way, of 200.
    let reports = thread::scope(|scope| {
        let [v4, v6] = TARGETS.map(|target| {
            let out = diamond.place.path().join(target.replace(':', "-"));
            let command = diamond.lab.command("client", env!("CARGO_BIN_EXE_pathlab")).expect("a node");
            let args = format!("{target} --reverse {key} --flows 6 --count 150 --interval 100ms");
            scope.spawn(move || run(command, &args, &out))
        });
        [v4, v6].map(|trace| trace.join().expect("a trace"))
    });
    let (mut by, mut named) = ([0, 0], 0);
    for (family, report) in reports.iter().enumerate() {
        let report: Value = serde_json::from_slice(report).expect("one JSON document");
        for flow in flows(&report) {
            let way = &flow["reverse"];
            assert_eq!((&way["distance"], &flow["destination"]["lost_forward"]), (&4.into(), &0.into()), "{flow:#}");
            let by_b = way["hops"][1]["addresses"][0] == B[family];
            by[usize::from(by_b)] += 1;
            let (sent, lost) = loss(&way["loss"]);
            assert!(sent > 100, "{flow:#}");
            if by_b {
                let verdict = &way["verdict"];
                if names_no_other(verdict, [2, 3]) {
                    let ends = (&verdict["from"]["address"], &verdict["direction"]);
                    assert_eq!(ends, (&B[family].into(), &"return".into()), "{flow:#}");
                    named += 1;
                }
            } else {
                assert_eq!((&way["verdict"]["kind"], lost), (&"none".into(), 0), "{flow:#}");
            }
        }
    }
    eprintln!("flows whose replies come by a and b: {by:?}; {named} name the link");
    let account = diamond.reflector.take().expect("running").stop();
    assert_eq!(account["received"], account["replied"], "{account:#}");
    let traced = &account["return_trace"];
    let count = |name: &str| traced[name].as_u64().expect("a count");
    assert!(count("limited") > 3000 && count("answered") > 2000, "{traced}");
    // One by itself may be unsure, or name a stretch around it.
    assert!(named * 2 >= by[1], "{named} of {by:?}");
    assert!(by[1] > 0, "all twelve flows by one branch: one case of 2,000: {by:?}");
}

#[test]
fn who_may_ask_is_said_before_anything_is_opened() {
    let place = tempdir().expect("a temporary directory");
    let file = place.path().join("key.toml");
    fs::write(&file, format!("protects = \"extensions\"\ndefault = \"{}\"\n", "5a".repeat(32))).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
    for (args, why) in [
        ("reflect --allow-reverse-trace --stateful", "--auth-key-file"),
        ("reflect --allow-reverse-trace --auth-key-file key.toml", "--stateful"),
        ("reflect --allow-reverse-trace --stateful --auth-key-file key.toml", "only authenticated packets may ask"),
        (
            "reflect --allow-reverse-trace --stateful --auth-key-file key.toml --datapath afxdp --iface lo",
            "socket datapath",
        ),
        ("trace 127.0.0.1 --reverse", "--auth-key-file"),
        ("trace 127.0.0.1 --reverse --auth-key-file key.toml", "a default key that protects packets"),
    ] {
        let output = pathlab(place.path(), args).output().expect("pathlab was built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{args}: {:?}: {said}", output.status.code());
    }
}
