//! The command line as a contract: bad input is one clear sentence and its exit code, and leaves nothing behind; `--json` is one document.

#[path = "support/isolation.rs"]
mod isolation;
#[path = "support/serving.rs"]
mod serving;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use isolation::{files, host, is_isolated, isolated, pathlab};
use pathlab_guard::privilege;
use serving::{Serving, document, gateway, place, sh};

/// A command line, its exit code, and what its one sentence on stderr must say.
type Row = (&'static str, i32, &'static str);

/// Needs neither privilege nor network.
const WRITTEN_WRONG: &[Row] = &[
    ("prob", 2, "unrecognized subcommand 'prob'; tip: a similar subcommand exists: 'probe'"),
    ("demo --wors", 2, "unexpected argument '--wors' found; tip: a similar argument exists: '--worse'"),
    ("demo --worse --same", 2, "'--worse' cannot be used with '--same'"),
    // probe
    ("probe", 2, "required arguments were not provided: <TARGET[:PORT]>..."),
    ("probe 127.0.0.1:99999", 2, "target 127.0.0.1:99999: `99999` is no port, write 1 to 65535"),
    ("probe 127.0.0.1 --interval 10", 2, "`10` is no duration: write a number with a unit"),
    ("probe 127.0.0.1 --interval 0s", 2, "`0s` is no duration"),
    ("probe 127.0.0.1 --size 20", 2, "--size 20: possible are 44, which these packets take, and 48 to"),
    ("probe 127.0.0.1 --dscp 64", 2, "'--dscp <N>'"),
    ("probe 127.0.0.1 --pace fast", 2, "`fast` is no pace: auto, sleep or spin"),
    (
        "probe 127.0.0.1 --pace spin --coalesce 1ms",
        2,
        "'--pace <auto|sleep|spin>' cannot be used with '--coalesce <DUR>'",
    ),
    ("probe 127.0.0.1 --cpu 9999", 2, "--cpu 9999: this process may run on ["),
    ("probe 127.0.0.1 --sweep 8", 2, "--source-port <P>"),
    (
        "probe 127.0.0.1 --pair",
        2,
        "--pair: give two targets, or one target and two --mark, or one target and two --source",
    ),
    ("probe 127.0.0.1 --mark 1 --mark 2", 2, "--mark twice: a run has one mark, or two that --pair compares"),
    (
        "probe 127.0.0.1 --pair --mark 1 --mark 2 --source-port 4000",
        2,
        "--source-port with two --mark: both sides would send from one port",
    ),
    ("probe 127.0.0.1 --count 3 --duration 3s", 2, "'--count <N>' cannot be used with '--duration <DUR>'"),
    ("probe 127.0.0.1 --fan 0", 2, "0 sessions asked for, possible are 1 to"),
    ("probe 127.0.0.1 --label isp", 2, "`isp` is no label: write NAME=VALUE"),
    ("probe 127.0.0.1 --zone Mars/Base", 2, "`Mars/Base` is no IANA time zone: write such as `Asia/Tokyo`"),
    ("probe --sessions absent.jsonl", 2, "sessions file absent.jsonl: cannot be read: No such file"),
    ("probe --sessions broken.jsonl", 2, "broken.jsonl:1: "),
    (
        "probe 127.0.0.1 --count 1 --out occupied",
        2,
        "occupied exists and is not empty; name another directory with --out",
    ),
    // reflect
    ("reflect --listen localhost", 2, "invalid value 'localhost' for '--listen <ADDR:PORT>'"),
    ("reflect --datapath magic", 2, "[possible values: auto, socket, afxdp, xdp]"),
    ("reflect --datapath xdp", 2, "the xdp datapath works on an interface: say which with --iface"),
    (
        "reflect --datapath xdp --iface lo --stateful",
        2,
        "the driver remembers no sessions: --stateful needs the socket or afxdp",
    ),
    ("reflect --metrics localhost", 2, "`localhost` is no address with a port, and no port"),
    // canary
    ("canary plan", 2, "canary.toml: cannot be read: No such file"),
    ("canary plan -c unknown-key.toml", 2, "unknown-key.toml line 11: unknown field `leese`, expected one of"),
    ("canary plan -c no-toml.toml", 2, "no-toml.toml line 1: "),
    ("canary plan -c no-share.toml", 2, "no-share.toml line 4: `150%` is no share: write a percentage from 0% to 100%"),
    ("canary plan -c above-cap.toml", 2, "experiment.share 50% must be above 0% and at most experiment.cap_share 20%"),
    ("canary plan -c lease.toml", 2, "steer.lease 1µs is outside 100ms to 60s"),
    ("canary plan -c margin.toml", 2, "policy.margin -2ms must be above zero"),
    ("canary plan -c no-seed.toml", 2, "seed file absent: No such file or directory (os error 2): write a number"),
    ("canary plan -c bad-seed.toml", 2, "seed file bad-seed: "),
    ("canary assign 192.0.2.1 -c good.toml", 2, "invalid value '192.0.2.1' for '<KEY>'"),
    ("canary ramp 200% -c good.toml", 2, "`200%` is no share"),
    ("canary judge -c good.toml", 2, "required arguments were not provided: <RUNS>..."),
    ("canary judge -c good.toml absent", 2, "absent: cannot be read: No such file or directory (os error 2)"),
    (
        "canary judge -c good.toml no-run",
        1,
        "no-run/sessions.jsonl: cannot be read: No such file or directory (os error 2)",
    ),
    ("canary judge -c good.toml empty", 1, "no session to judge: the inputs are empty"),
    (
        "canary judge -c good.toml broken",
        1,
        "no session to judge: 2 lines are broken, the first broken/sessions.jsonl:1: ",
    ),
    ("canary replay absent", 2, "absent: cannot be read: No such file"),
    ("canary promote -c good.toml", 2, "--verdict VERDICT: every client would take the canary path at once"),
    ("canary promote -c good.toml --verdict broken.jsonl", 1, "not a verdict of this version"),
    ("canary replay broken.jsonl", 1, "not a verdict of this version"),
    // lab
    ("lab show absent", 2, "no scenario absent; shipped are demo, baseline"),
    ("lab show ./absent.toml", 2, "absent.toml"),
    ("lab show demo --variant absent", 2, "demo.toml has no variant absent; it has same, worse"),
    ("lab down", 2, "required arguments were not provided: <NAME>"),
    ("lab exec absent node true --json", 1, "lab absent has no node node"),
    ("--json lab exec absent node true", 2, "lab exec prints what its command prints: leave out --json"),
    // evidence
    ("evidence verify absent", 2, "absent: no such run directory"),
    ("evidence verify no-run", 1, "no-run was never sealed"),
];

#[test]
fn what_is_written_wrong_is_one_sentence_and_leaves_nothing() {
    let place = place();
    refused(WRITTEN_WRONG, place.path(), |args| pathlab(place.path(), args));
}

/// In a network namespace of its own: `d0` leads to a link without a gateway; 192.0.2.0/24 is a black hole, 198.51.100.0/24 unreachable,
/// 203.0.113.128/25 prohibited; no other route.
const HOST_CANNOT: &[Row] = &[
    // unreachable targets
    (
        "probe 127.0.0.1:9 --count 3",
        1,
        "127.0.0.1:9: port unreachable, says 127.0.0.1: the host is there, but nothing listens",
    ),
    ("probe [::1]:9 --count 3", 1, "[::1]:9: port unreachable, says ::1: the host is there, but nothing listens"),
    ("probe 127.0.0.1 --count 3 --out a/b/c", 1, "port unreachable"),
    ("probe 127.0.0.1 --count 3 --out bare", 1, "port unreachable"),
    ("probe 127.0.0.1 --count 3 --out bare/c", 1, "port unreachable"),
    ("probe 8.8.8.8 --count 3", 1, "network unreachable; check this host's routes with `ip route get`"),
    ("probe 2001:db8::1 --count 3", 1, "network unreachable; check this host's routes with `ip route get`"),
    ("probe 192.0.2.1 --count 3", 1, "no way to send there, as with a blackhole route; check its routes"),
    ("probe 198.51.100.1 --count 3", 1, "host unreachable; check the address and that the host is up"),
    ("probe 203.0.113.200 --count 3", 1, "sending is forbidden; look at this host's packet filter and routes"),
    (
        "probe 203.0.113.3 --count 3 --timeout 100ms",
        1,
        "neither a reply nor an ICMP error came; check that a STAMP reflector",
    ),
    ("probe no-such-host.invalid --count 3", 1, "target no-such-host.invalid: cannot be resolved"),
    // interfaces, addresses and ports
    (
        "probe 127.0.0.1 --iface nic7 --count 3",
        2,
        "interface nic7: not found in this network namespace; `ip -brief link`",
    ),
    ("probe 127.0.0.1 --source 10.9.9.9/32", 2, "source 10.9.9.9: not an address of this host; `ip -brief address`"),
    ("reflect --iface nic7", 2, "interface nic7: not found in this network namespace; `ip -brief link`"),
    ("reflect --datapath xdp --iface nic7", 2, "no interface \"nic7\" in this network namespace; see `ip link`"),
    ("reflect --listen 192.0.2.77:862", 2, "192.0.2.77:862: no interface of this host has that address"),
    ("reflect --listen 127.0.0.1:8620", 1, "127.0.0.1:8620: the port is in use; see who has it with `ss"),
    ("reflect --metrics 192.0.2.77:9862", 2, "metrics on 192.0.2.77:9862: Cannot assign requested address"),
    (
        "reflect --datapath xdp --xdp-mode native --iface lo",
        1,
        "lo cannot run XDP in native mode: its driver has no XDP",
    ),
    // steering
    ("canary start -c no-seed.toml", 2, "seed file absent: No such file"),
    ("canary start -c no-device.toml", 2, "device nic7 of the canary path does not exist: `ip link`"),
    (
        "canary start -c good.toml",
        1,
        "gateway 203.0.113.2 does not answer on d0: the canary path would lose every packet",
    ),
    ("canary status -c good.toml", 1, "no steerer of `e2e` is running on this host: `pathlab canary start` starts one"),
    ("canary ramp 20% -c good.toml", 1, "no steerer of `e2e` is running"),
    ("canary rollback -c good.toml", 1, "no steerer of `e2e` is running"),
    // labs
    ("lab up demo --name a_b", 2, "\"a_b\" cannot name a lab: use 1 to 40 letters, digits or `-`"),
    ("lab down absent", 1, "no lab absent; `pathlab lab list` shows those that are up"),
    ("demo --out occupied", 2, "occupied exists and is not empty; name another directory with --out"),
];

#[test]
fn what_this_host_cannot_do_is_one_sentence_and_leaves_nothing() {
    if !isolated("what_this_host_cannot_do_is_one_sentence_and_leaves_nothing") {
        return;
    }
    let place = place();
    sh(
        "ip link add d0 type veth peer d1 && ip link set d0 addrgenmode none up && ip link set d1 addrgenmode none up && ip address add 203.0.113.1/24 dev d0",
    );
    sh(
        "ip route add blackhole 192.0.2.0/24 && ip route add unreachable 198.51.100.0/24 && ip route add prohibit 203.0.113.128/25",
    );
    let _other = Serving::start(place.path(), "reflect --listen 127.0.0.1:8620");
    refused(HOST_CANNOT, place.path(), |args| pathlab(place.path(), args));
}

const NOT_ROOT: &[Row] = &[
    ("demo", 1, "the demo makes network namespaces: run it as root, or with sudo ./scripts/demo"),
    ("lab up demo", 1, "bringing up lab demo needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN); run it with sudo"),
    ("lab down demo", 1, "lab down removes network namespaces: run it as root"),
    ("lab down --all", 1, "lab down removes network namespaces: run it as root"),
    ("canary start -c good.toml", 1, "canary start changes nftables, rules and routes: run it as root"),
    ("reflect --datapath xdp --iface lo", 1, "not permitted to load a BPF program: run as root, or with CAP_BPF"),
    (
        "probe 127.0.0.1 --mark 7 --count 1",
        1,
        "the kernel refused SO_MARK: Operation not permitted (os error 1); it needs root",
    ),
    ("probe 127.0.0.1 --count 1 --out /nowhere/run", 1, "cannot write /nowhere/run: Permission denied (os error 13)"),
];

#[test]
fn without_root_it_says_so_and_leaves_nothing() {
    let place = place();
    // The build may lie in a home directory that others may not enter.
    let elsewhere = tempfile::tempdir().unwrap();
    let program = elsewhere.path().join("pathlab");
    fs::copy(env!("CARGO_BIN_EXE_pathlab"), &program).unwrap();
    for path in [place.path(), elsewhere.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let unprivileged = |args: &str| {
        let mut command = Command::new("setpriv");
        if privilege::is_root() {
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        command.arg(&program).args(args.split_whitespace()).current_dir(place.path()).stdin(Stdio::null());
        command
    };
    refused(NOT_ROOT, place.path(), unprivileged);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let place = place();
    for args in ["lab list", "lab show demo", "lab show demo --json", "manual pages"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = pathlab(place.path(), args).stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "pathlab {args}: {}: {stderr}", output.status);
    }
}

#[test]
fn a_changed_byte_of_a_sealed_run_is_named() {
    let place = place();
    measured(place.path(), "run", "");
    let samples = place.path().join("run/samples.jsonl");
    let sealed = fs::read(&samples).unwrap();
    let mut changed = sealed.clone();
    *changed.iter_mut().find(|byte| **byte == b'1').unwrap() = b'2';
    fs::write(&samples, changed).unwrap();
    let rows = [
        ("evidence verify run", 1, "samples.jsonl"),
        ("canary judge -c good.toml run", 1, "not judged: what was measured is no longer what was sealed: "),
    ];
    refused(&rows, place.path(), |args| pathlab(place.path(), args));
    fs::write(&samples, sealed).unwrap();
    fs::remove_file(place.path().join("run/rtt.hlog")).unwrap();
    refused(&[("evidence verify run", 1, "rtt.hlog")], place.path(), |args| pathlab(place.path(), args));
}

#[test]
fn a_run_is_checked_with_those_in_it_and_with_what_its_verdict_rests_on() {
    let place = place();
    let path = |name: &str| place.path().join(name);
    let run = |args: &str, code: i32| {
        let output = pathlab(place.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat()
    };
    measured(place.path(), "evening", "");
    run("canary judge -c good.toml evening --out verdict", 3);
    fs::rename(path("evening"), path("verdict/evening")).unwrap();
    let said = run("evidence verify verdict", 0);
    assert!(said.contains("verdict: unchanged") && said.contains("verdict/evening: unchanged"), "{said}");
    run("report verdict -o page.html", 0);

    let inside = path("verdict/evening/sessions.jsonl");
    let sealed = fs::read_to_string(&inside).unwrap();
    fs::write(&inside, format!("{}\n", sealed.lines().next().unwrap())).unwrap();
    let said = run("evidence verify verdict", 1);
    assert!(said.contains("verdict: evening/sessions.jsonl is not the file that was judged"), "{said}");
    assert!(said.contains("verdict/evening: sessions.jsonl is not the file of record"), "{said}");
    let said = run("report verdict -o page.html", 1);
    assert!(
        said.contains("Not as sealed: ") && said.find("Not as sealed").unwrap() < said.find("Hold: ").unwrap(),
        "{said}"
    );

    fs::remove_dir_all(path("verdict/evening")).unwrap();
    let said = run("evidence verify verdict", 0);
    assert!(
        said.contains("its verdict rests on evening/sessions.jsonl, which is neither in it nor beside it"),
        "{said}"
    );
}

#[test]
fn json_of_measuring_and_judging_is_one_document() {
    let place = place();
    let reflected = measured(place.path(), "run", "--json");
    assert_eq!(document(&reflected, 0)["schema"], "pathlab.reflect/1");
    for (args, code, schema) in [
        ("evidence verify run --json", 0, "pathlab.evidence/1"),
        ("canary plan -c good.toml --json", 0, "pathlab.canary/1"),
        ("canary assign 192.0.2.1:4000 -c good.toml --json", 0, "pathlab.canary/1"),
        ("--json canary judge -c good.toml run --out verdict", 3, "pathlab.verdict/1"),
        ("canary replay --json verdict run", 3, "pathlab.canary/1"),
        ("lab show demo --json", 0, "pathlab.lab/1"),
        ("lab list --json", 0, "pathlab.lab/1"),
    ] {
        let output = pathlab(place.path(), args).output().unwrap();
        assert_eq!(document(&output, code)["schema"], schema, "pathlab {args}");
    }
}

#[test]
fn json_of_steering_and_labs_is_one_document() {
    if !isolated("json_of_steering_and_labs_is_one_document") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    let steerer = Serving::start(place.path(), "canary start -c good.toml --json");
    for args in [
        "canary status -c good.toml --json",
        "canary ramp 20% -c good.toml --json",
        "canary rollback -c good.toml --json",
    ] {
        let output = pathlab(place.path(), args).output().unwrap();
        assert_eq!(document(&output, 0)["schema"], "pathlab.canary/1", "pathlab {args}");
    }
    let ended = document(&steerer.ended(), 0);
    assert_eq!((&ended["schema"], &ended["by_command"]), (&"pathlab.canary/1".into(), &true.into()));
    for args in ["lab up demo --name one --json", "lab list --json", "lab down one --json", "lab down --all --json"] {
        let output = pathlab(place.path(), args).output().unwrap();
        assert_eq!(document(&output, 0)["schema"], "pathlab.lab/1", "pathlab {args}");
    }
    assert_eq!(host(), before);
}

#[test]
fn what_serves_ends_cleanly_on_ctrl_c_and_on_sigterm() {
    if !isolated("what_serves_ends_cleanly_on_ctrl_c_and_on_sigterm") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    for (args, said) in [
        ("reflect --datapath xdp --iface d0 --listen 203.0.113.1:862", "received 0, replied 0"),
        ("reflect --listen 203.0.113.1:862", "received 0, replied 0"),
        ("canary start -c good.toml", "e2e: every session on control after"),
    ] {
        for signal in ["INT", "TERM"] {
            let serving = Serving::start(place.path(), args);
            assert_ne!(host(), before, "pathlab {args} put nothing on the host");
            let output = serving.signalled(signal);
            assert_eq!(host(), before, "pathlab {args}, SIG{signal}");
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && stdout.contains(said), "pathlab {args}, SIG{signal}: {stdout}");
        }
    }
}

/// Every thread of a reflector that serves, on every datapath: no capability in any set and no way to gain one; and it still answers, is
/// read, and takes its program back.
#[test]
fn a_reflector_that_serves_has_no_capability_left() {
    if !isolated("a_reflector_that_serves_has_no_capability_left") {
        return;
    }
    let place = place();
    gateway();
    let before = host();
    for args in [
        "reflect --listen 203.0.113.1:862 --metrics 127.0.0.1:9862",
        "reflect --datapath afxdp --iface d0 --listen 203.0.113.1:862 --metrics 127.0.0.1:9862",
        "reflect --datapath xdp --iface d0 --listen 203.0.113.1:862 --metrics 127.0.0.1:9862 --allow 203.0.113.0/24",
    ] {
        let serving = Serving::start(place.path(), args);
        let threads = format!("/proc/{}/task", serving.child.id());
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:\t{:016x}", 0));
        let deadline = Instant::now() + Duration::from_secs(10);
        // It says that it answers just before it gives them up.
        loop {
            let statuses: Vec<String> = fs::read_dir(&threads)
                .unwrap()
                .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok())
                .collect();
            let bare =
                |status: &String| sets.iter().all(|set| status.contains(set)) && status.contains("NoNewPrivs:\t1");
            // main, signals, metrics, and a worker over AF_XDP
            if statuses.len() >= 3 + usize::from(args.contains("iface")) && statuses.iter().all(bare) {
                break;
            }
            assert!(Instant::now() < deadline, "pathlab {args}: {statuses:?}");
        }
        // The maps of the program are written once a second, and must be writable without any.
        let mut scrape = String::new();
        while !scrape.contains("pathlab_reflector_received_datagrams_total") {
            use std::io::{Read, Write};
            assert!(Instant::now() < deadline + Duration::from_secs(10), "{scrape}");
            let mut connection = std::net::TcpStream::connect("127.0.0.1:9862").unwrap();
            connection.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            scrape.clear();
            connection.read_to_string(&mut scrape).unwrap();
        }
        let output = serving.signalled("INT");
        assert!(output.status.success(), "pathlab {args}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(host(), before, "pathlab {args}");
    }
}

/// Runs rows and checks all that is promised of a refusal: code, one sentence, no result, nothing left.
fn refused(rows: &[Row], place: &Path, command: impl Fn(&str) -> Command) {
    let mut broken = Vec::new();
    let state = || {
        let files = files(place).into_iter().map(|(name, content)| format!("{name} {content:?}"));
        files.chain(is_isolated().then(host).unwrap_or_default().lines().map(str::to_owned)).collect::<Vec<_>>()
    };
    let before = state();
    for (args, code, says) in rows {
        let output = command(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        // The log has lines of its own, which begin with their level.
        let sentences: Vec<_> = stderr.lines().filter(|line| !line.starts_with([' '])).collect();
        let [sentence] = sentences[..] else {
            broken.push(format!("pathlab {args}: not one sentence:\n{stderr}"));
            continue;
        };
        let full_stop = sentence.ends_with('.') && !sentence.ends_with("...");
        let after = state();
        let promises = [
            (output.status.code() == Some(*code), "exit code"),
            (output.stdout.is_empty(), "no result on stdout"),
            (sentence.starts_with("pathlab: ") && sentence.contains(says), "what it says"),
            (sentence.len() < 400 && !full_stop && !stderr.contains('\x1b'), "how it says it"),
            (after == before, "nothing left behind"),
        ];
        for (_, promise) in promises.iter().filter(|(kept, _)| !kept) {
            broken.push(format!("pathlab {args}: {promise}: {}, {sentence}", output.status));
        }
        broken.extend(after.iter().filter(|line| !before.contains(line)).map(|line| format!("  new: {line}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A short run against a reflector of our own on a free port; returns what the reflector said.
fn measured(place: &Path, out: &str, more: &str) -> Output {
    let reflector = Serving::start(place, &format!("reflect --listen 127.0.0.1:0 {more}"));
    let target = reflector.said.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap();
    let labels = "--label isp=aoba --label asn=64500 --label window=2026-01-01 --zone Asia/Tokyo";
    let args = format!("probe {target} --fan 8 --count 20 --interval 1ms {labels} --out {out} --json");
    let output = pathlab(place, &args).output().unwrap();
    assert_eq!(document(&output, 0)["schema"], "pathlab.probe/1");
    reflector.signalled("INT")
}
