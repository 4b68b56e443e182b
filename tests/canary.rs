//! Steering as an operator does it: what is written down of each change, and what is left when steerer and guardian both die.

#[path = "support/isolation.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod isolation;
#[path = "support/serving.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod serving;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use isolation::{host, isolated, pathlab};
use serde_json::Value;
use serving::{Serving, document, gateway, place, sh};

#[test]
fn what_a_dead_steerer_and_its_dead_guardian_left_is_listed_and_rolled_back() {
    if !isolated("what_a_dead_steerer_and_its_dead_guardian_left_is_listed_and_rolled_back") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    let router = include_str!("canary.toml").replace("mode = \"host\"", "mode = \"router\"");
    fs::write(place.path().join("router.toml"), router).unwrap();
    // Route, rule and control socket; in host mode a sysctl.
    for (config, objects) in [("good.toml", 4), ("router.toml", 3)] {
        let run = |args: &str| pathlab(place.path(), &format!("canary {args} -c {config}")).output().unwrap();
        let steerer = Serving::start(place.path(), &format!("canary start -c {config}"));
        let status = document(&run("status --json"), 0);
        assert!(status["leftovers"].as_object().unwrap().is_empty(), "{status}");
        let mut watch = pathlab(place.path(), &format!("canary status --watch --json -c {config}"));
        let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
        let looks = BufReader::new(watch.stdout.take().unwrap()).lines().take(2);
        for look in looks.map(|look| serde_json::from_str::<Value>(&look.unwrap()).unwrap()) {
            assert_eq!(
                (&look["schema"], &look["status"]["pid"]),
                (&"pathlab.canary/1".into(), &status["status"]["pid"])
            );
        }
        sh(&format!("kill -INT {}", watch.id()));
        assert!(watch.wait().unwrap().success());
        sh(&format!("kill -KILL {}", status["status"]["guardian"]));
        drop(steerer.signalled("KILL"));
        let left = run("status");
        let text = String::from_utf8_lossy(&left.stdout);
        assert_eq!(left.status.code(), Some(1), "{text}");
        assert!(text.starts_with("e2e: not running\ne2e: left by a steerer that died, inert"), "{text}");
        assert!(text.contains("203.0.113.2 dev d0 table 222") && text.contains("fwmark 0x10000/0xff0000"), "{text}");
        let listed = document(&run("status --json"), 1);
        assert_eq!(listed["leftovers"]["e2e"].as_array().map(Vec::len), Some(objects), "{listed}");
        assert_ne!(host(), before);
        let removed = run("rollback");
        let text = String::from_utf8_lossy(&removed.stdout);
        assert_eq!((removed.status.code(), text.matches("  removed ").count()), (Some(0), objects), "{text}");
        assert_eq!(host(), before);
    }
}

#[test]
fn what_changes_the_steering_is_written_down_and_a_promotion_has_its_own_way_back() {
    if !isolated("what_changes_the_steering_is_written_down_and_a_promotion_has_its_own_way_back") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    let hidden = include_str!("canary.toml").replace("cap_share", "disclose_seed = \"at_end\"\ncap_share");
    fs::write(place.path().join("hidden.toml"), hidden).unwrap();
    fs::write(place.path().join("seed"), "0x1badcafe\n").unwrap();
    let run = |args: &str| pathlab(place.path(), args).output().unwrap();
    let plan = run("canary plan -c hidden.toml");
    assert!(plan.status.success() && !String::from_utf8_lossy(&plan.stdout).contains("badcafe"));
    assert!(String::from_utf8_lossy(&run("canary plan -c good.toml").stdout).contains("seed 0x1badcafe"));

    let path = place.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut steerer = pathlab(place.path(), "canary start -c hidden.toml --out log")
        .envs([("NOTIFY_SOCKET", path.as_os_str()), ("WATCHDOG_USEC", "1000000".as_ref())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for said in [&b"READY=1"[..], b"WATCHDOG=1", b"WATCHDOG=1"] {
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..length], said);
    }
    let written = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
    assert!(!(written("log/run.json") + &written("log/evidence.jsonl")).contains("badcafe"));
    assert!(run("canary ramp 20% -c hidden.toml").status.success());
    assert!(run("canary rollback -c hidden.toml").status.success());
    assert!(steerer.wait().unwrap().success());
    assert_eq!(host(), before);
    let plan: Value = serde_json::from_str(&written("log/plan/plan.json")).unwrap();
    assert_eq!((&plan["schema"], &plan["experiment"]["experiment"]["name"]), (&"pathlab.plan/1".into(), &"e2e".into()));
    assert!(run("evidence verify log/plan").status.success());
    let chain: Vec<Value> =
        written("log/evidence.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let by_operator: Vec<_> = chain
        .iter()
        .filter(|record| record["actor"].as_str().unwrap().starts_with("uid 0"))
        .map(|record| record["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        by_operator,
        [
            "start: every session on control -> 15% of the sessions on the canary path",
            "ramp: 15% of the sessions on the canary path -> 20% of the sessions on the canary path",
            "rollback: 20% of the sessions on the canary path -> every session on control",
        ]
    );
    assert!(chain.iter().any(|record| record["action"].as_str().unwrap().ends_with(" 0x1badcafe`")));
    // Registered before anything was steered.
    let at = |is: fn(&str) -> bool| chain.iter().position(|record| is(record["action"].as_str().unwrap())).unwrap();
    assert!(at(|action| action.starts_with("the plan is registered: ")) < at(|action| action.starts_with("start: ")));
    assert!(run("evidence verify log").status.success());

    let promoted = run("canary promote -c good.toml --out promoted --without-verdict");
    let text = String::from_utf8_lossy(&promoted.stdout);
    assert!(text.contains("ip -4 rule add ipproto udp sport 862 lookup 223 priority 10001 protocol 222"), "{text}");
    assert!(text.contains("on your own word, no verdict"), "{text}");
    assert!(run("evidence verify promoted").status.success());
    let status = run("canary status -c good.toml");
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("e2e: promoted"));
    let ended = run("canary rollback -c good.toml");
    let text = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && text.starts_with("e2e: the promotion ended: clients are back on today's path\n"));
    assert!(text.contains("  removed ip -4 rule ipproto udp sport 862 lookup 223"), "{text}");
    assert_eq!(host(), before);
}

#[test]
fn a_dead_guardian_a_hung_steerer_and_what_others_left_are_told_as_they_are() {
    if !isolated("a_dead_guardian_a_hung_steerer_and_what_others_left_are_told_as_they_are") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    fs::write(place.path().join("other.toml"), include_str!("canary.toml").replace("\"e2e\"", "\"other\"")).unwrap();
    let run = |args: &str| pathlab(place.path(), &format!("canary {args}")).output().unwrap();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let steerer = Serving::start(place.path(), "canary start -c good.toml --out run");
    let status = document(&run("status --json -c good.toml"), 0);
    sh(&format!("kill -KILL {}", status["status"]["guardian"]));
    assert!(said(&run("status -c good.toml")).contains("its guardian died"));
    let pid = steerer.child.id();
    sh(&format!("kill -STOP {pid}"));
    // It is stopped once every thread is.
    sh(&format!(
        "timeout 20 sh -c 'while grep -L \"^State:.*stopped\" /proc/{pid}/task/*/status | grep -q .; do :; done'"
    ));
    let hung = run("status -c good.toml");
    let text = said(&hung);
    assert_eq!(hung.status.code(), Some(1), "{text}");
    assert!(text.starts_with(&format!("e2e: the steerer (pid {pid}) does not answer; its lease")), "{text}");
    let ended = run("rollback -c good.toml");
    let text = said(&ended);
    let unsealed = place.path().canonicalize().unwrap().join("run");
    let first = format!(
        "e2e: the steerer (pid {pid}) hung and was killed; every session is on control; its run {} is unsealed\n",
        unsealed.display()
    );
    assert!(ended.status.success() && text.starts_with(&first), "{text}");
    drop(steerer);
    assert_eq!(host(), before);

    let steerer = Serving::start(place.path(), "canary start -c other.toml");
    let status = document(&run("status --json -c other.toml"), 0);
    sh(&format!("kill -KILL {}", status["status"]["guardian"]));
    drop(steerer.signalled("KILL"));
    let mine = run("rollback -c good.toml");
    let text = String::from_utf8_lossy(&mine.stderr);
    assert!(mine.status.code() == Some(1) && text.contains("`canary rollback --name other`"), "{text}");
    let removed = run("rollback --name other");
    assert!(said(&removed).starts_with("other: its steerer (pid "), "{}", said(&removed));
    assert_eq!(host(), before);
}
