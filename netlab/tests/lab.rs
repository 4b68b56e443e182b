//! Labs go up as their scenario says, and down without a trace, whoever takes them down.

use std::{
    ffi::OsStr,
    fs,
    net::{SocketAddr, UdpSocket},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::Stdio,
    time::Duration,
};

use pathlab_guard::{Process, privilege::root_or_skip};
use pathlab_netlab::{
    engine::kernel::Player,
    lab::{self, Lab},
    link::Route,
    netlink::Netlink,
    netns::{self, Namespace},
    scenario::Scenario,
};

mod support;

use support::{helper, helper_argument, host_state, isolated, wait_until};

fn demo() -> Scenario {
    Scenario::load("demo", None).expect("shipped")
}

/// Three nodes, and a router of the wire engine's for the delays and the fault of their links.
fn faulty() -> Scenario {
    Scenario::load("v6-fault", None).expect("shipped")
}

fn journals() -> usize {
    fs::read_dir(pathlab_guard::undo_dir()).map_or(0, Iterator::count)
}

/// Links of the kernel's queues and links of the wire engine by turns; `PATHLAB_LAB_CYCLES` sets how many, for the soak.
#[test]
fn twenty_cycles_leave_the_host_as_it_was() {
    if !isolated("twenty_cycles_leave_the_host_as_it_was") {
        return;
    }
    let cycles = std::env::var("PATHLAB_LAB_CYCLES").map_or(20, |text| text.parse().expect("a number"));
    let before = host_state();
    for cycle in 0..cycles {
        let (scenario, player, namespaces) =
            if cycle % 2 == 0 { (demo(), Player::Auto, 4) } else { (faulty(), Player::Wire, 4) };
        let lab = Lab::up_played(&scenario, "cycle", 1, None, player).expect("up");
        assert_eq!(netns::list().expect("list").len(), namespaces);
        let undone = lab.down().expect("down");
        assert_eq!(undone.removed.len(), namespaces);
        assert_eq!((journals(), netns::list().expect("list").len()), (0, 0), "cycle {cycle}");
    }
    assert_eq!(host_state(), before);
    let threads = fs::read_dir("/proc/self/task").expect("own threads").count();
    let files = fs::read_dir("/proc/self/fd").expect("own descriptors").count();
    assert!(threads < 8 && files < 32, "{threads} threads and {files} descriptors are left of {cycles} cycles");
}

#[test]
fn two_labs_side_by_side_do_not_touch() {
    if !isolated("two_labs_side_by_side_do_not_touch") {
        return;
    }
    let before = host_state();
    let first = Lab::up(&demo(), "one", 1).expect("up");
    let second = Lab::up(&demo(), "two", 1).expect("up");
    let error = Lab::up(&demo(), "two", 1).expect_err("taken").to_string();
    assert_eq!(error, "lab two is up already; choose another name, or take it down with `pathlab lab down two`");
    // Both have the same addresses; each server hears its own clients only.
    let ears: Vec<_> =
        [&first, &second].map(|lab| socket(lab.namespace("server").expect("node"), "203.0.113.10:862")).into();
    let mouth = socket(first.namespace("clients").expect("node"), "198.18.7.7:40000");
    mouth.send_to(b"x", "203.0.113.10:862").expect("send");
    ears[0].recv(&mut [0; 8]).expect("heard");
    ears[1].set_nonblocking(true).expect("settable");
    assert!(ears[1].recv(&mut [0; 8]).is_err());
    drop(first);
    assert_eq!(netns::list().expect("list").len(), 4);
    assert!(second.namespace("clients").is_ok());
    drop(second);
    assert_eq!(host_state(), before);
}

fn socket(namespace: &Namespace, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("address");
    let socket = namespace.run(|| UdpSocket::bind(address)).expect("enter").expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("settable");
    socket
}

#[test]
fn any_session_reaches_the_server_and_its_answer_takes_the_way_that_the_server_chooses() {
    if !isolated("any_session_reaches_the_server_and_its_answer_takes_the_way_that_the_server_chooses") {
        return;
    }
    let scenario = demo();
    let lab = Lab::up(&scenario, "ways", 1).expect("up");
    let server = lab.namespace("server").expect("node");
    let ears = ["203.0.113.10:862", "[2001:db8:1::10]:862"].map(|address| socket(server, address));
    // Clients of the second ISP are answered by transit B.
    let canary = &scenario.arms.as_ref().expect("has arms").canary;
    let mut netlink = Netlink::open(server).expect("netlink");
    for (prefix, hop) in scenario.isps[1].prefixes.iter().zip([&canary.v4, &canary.v6]) {
        let hop = hop.as_ref().expect("both families");
        netlink.add_route(&Route::via(*prefix, hop.via, &hop.dev)).expect("route");
    }
    let sent = |node: &str| {
        let queues = lab.queues().expect("statistics");
        queues.iter().find(|(owner, _, _)| owner == node).map_or(0, |(_, _, queue)| queue.packets)
    };
    let sessions = scenario.sessions(3);
    for session in sessions.iter().step_by(13) {
        let transit = if session.isp == scenario.isps[0].name { "transit-a" } else { "transit-b" };
        let before = sent(transit);
        let client = socket(lab.namespace("clients").expect("node"), &session.source.to_string());
        client.send_to(b"there", session.target).expect("send");
        let ear = &ears[usize::from(session.family() == 6)];
        let mut buffer = [0; 16];
        let (length, from) = ear.recv_from(&mut buffer).expect("heard");
        assert_eq!((&buffer[..length], from), (&b"there"[..], session.source));
        ear.send_to(b"back", from).expect("answer");
        assert_eq!(client.recv(&mut buffer).expect("answered"), 4, "{session:?}");
        assert!(sent(transit) > before, "{session:?} was not answered by {transit}");
    }
}

#[test]
fn killed_in_any_phase_of_up_it_leaves_what_down_all_takes() {
    if !isolated("killed_in_any_phase_of_up_it_leaves_what_down_all_takes") {
        return;
    }
    let before = host_state();
    for namespaces in [0, 1, 2, 3, 4] {
        let mut child = helper("brings_up_and_waits", "victim").spawn().expect("helper");
        wait_until("the lab to come up", || journals() > 0 && netns::list().expect("list").len() >= namespaces);
        child.kill().expect("kill");
        child.wait().expect("reaped");
        for (id, outcome) in lab::down_all() {
            outcome.unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        assert_eq!(host_state(), before, "killed at {namespaces} namespaces");
        assert_eq!(journals(), 0);
    }
}

#[test]
fn killed_in_any_phase_with_the_wire_engine_it_leaves_what_down_all_takes() {
    if !isolated("killed_in_any_phase_with_the_wire_engine_it_leaves_what_down_all_takes") {
        return;
    }
    let before = host_state();
    // Going up: its nodes one by one, its router, its links. Up: while it plays. Going down: when the first namespace is gone.
    for (phase, namespaces) in [("up", 1), ("up", 3), ("up", 4), ("down", 4), ("down", 3), ("down", 1)] {
        let mut child = helper("brings_a_wire_up_and_down", phase).spawn().expect("helper");
        wait_until("the lab to come up", || netns::list().expect("list").len() >= namespaces.max(1));
        if phase == "down" {
            wait_until("the lab to go down", || netns::list().expect("list").len() <= namespaces);
        }
        child.kill().expect("kill");
        child.wait().expect("reaped");
        for (id, outcome) in lab::down_all() {
            outcome.unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        assert_eq!(host_state(), before, "killed going {phase} at {namespaces} namespaces");
        assert_eq!(journals(), 0);
    }
}

#[test]
#[ignore = "the process that other tests kill"]
fn brings_a_wire_up_and_down() {
    loop {
        let lab = Lab::up_played(&faulty(), "victim", 1, None, Player::Wire).expect("up");
        if helper_argument() == "up" {
            std::thread::park();
        }
        lab.down().expect("down");
    }
}

#[test]
fn a_wire_and_a_kernel_lab_side_by_side_do_not_touch() {
    if !isolated("a_wire_and_a_kernel_lab_side_by_side_do_not_touch") {
        return;
    }
    let before = host_state();
    let wire = Lab::up_played(&faulty(), "wire", 1, None, Player::Wire).expect("up");
    let kernel = Lab::up(&demo(), "kernel", 1).expect("up");
    // The same addresses in both; each server hears its own clients only.
    let ears = [&wire, &kernel].map(|lab| socket(lab.namespace("server").expect("node"), "203.0.113.10:862"));
    for (lab, (own, other)) in [&wire, &kernel].into_iter().zip([(0, 1), (1, 0)]) {
        let mouth = socket(lab.namespace("clients").expect("node"), "198.18.7.7:40000");
        mouth.send_to(b"x", "203.0.113.10:862").expect("send");
        ears[own].recv(&mut [0; 8]).expect("heard");
        ears[other].set_nonblocking(true).expect("settable");
        assert!(ears[other].recv(&mut [0; 8]).is_err());
        ears[other].set_nonblocking(false).expect("settable");
    }
    wire.down().expect("down");
    assert_eq!(netns::list().expect("list").len(), 4);
    kernel.down().expect("down");
    assert_eq!(host_state(), before);
}

#[test]
fn a_link_that_the_kernel_cannot_play_is_refused_in_one_sentence() {
    if !isolated("a_link_that_the_kernel_cannot_play_is_refused_in_one_sentence") {
        return;
    }
    let up = |scenario: &Scenario| Lab::up_played(scenario, "kernel", 1, None, Player::Kernel).map(drop);
    let fault = up(&faulty()).expect_err("a fault").to_string();
    let why = "the kernel engine cannot play it:";
    assert!(
        fault.starts_with("isp:home: ")
            || fault == format!("server:isp: {why} it has the fault v6 transit; use --engine wire, or auto"),
        "{fault}"
    );
    let mut rfc = Scenario::load("evening", None).expect("shipped");
    rfc.set(
        "isp:home.queue=codel rfc8289, isp:home.delay=0s, clients:isp.delay=0s, isp:wan.delay=0s, server:isp.delay=0s",
    )
    .expect("a setting");
    assert_eq!(
        up(&rfc).expect_err("no kernel's").to_string(),
        format!("isp:home: {why} no kernel has CoDel as in RFC 8289; use --engine wire, or auto")
    );
    rfc.set("isp:home.queue=codel").expect("a setting");
    match up(&rfc) {
        Ok(()) => eprintln!("this kernel has codel"),
        Err(error) => assert_eq!(
            error.to_string(),
            format!("isp:home: {why} this kernel has no codel qdisc; use --engine wire, or auto")
        ),
    }
    let ring = up(&Scenario::load("small-ring", None).expect("shipped")).expect_err("a ring").to_string();
    assert_eq!(
        ring,
        "scenario small-ring: server:isp has a receive ring, which no engine with real packets plays; use `lab run --engine virtual`"
    );
    assert_eq!((journals(), netns::list().expect("list").len()), (0, 0));
}

#[test]
fn killed_while_it_runs_it_takes_its_processes_along() {
    if !isolated("killed_while_it_runs_it_takes_its_processes_along") {
        return;
    }
    let before = host_state();
    let marker = pathlab_guard::undo_dir().join("pid");
    let mut child = helper("brings_up_spawns_and_waits", marker.to_str().expect("UTF-8")).spawn().expect("helper");
    let mut pid = None;
    wait_until("the lab's process", || {
        pid = fs::read_to_string(&marker)
            .ok()
            .and_then(|text| text.trim_end_matches('.').parse().ok().filter(|_| text.ends_with('.')));
        pid.is_some()
    });
    let sleeper = Process::of(pid.expect("waited for")).expect("runs");
    let running = lab::list();
    assert_eq!(running[0].running.map(|process| process.pid), Some(child.id()));
    let refusal = lab::down("victim").expect_err("runs").to_string();
    assert_eq!(
        refusal,
        format!("lab victim is run by process {}, which takes it down when it ends; stop that", child.id())
    );

    child.kill().expect("kill");
    child.wait().expect("reaped");
    wait_until("the lab's process to die with its parent", || !sleeper.is_alive());
    lab::down("victim").expect("down");
    assert_eq!(host_state(), before);
    assert_eq!(
        lab::down("victim").expect_err("gone").to_string(),
        "no lab victim; `pathlab lab list` shows those that are up"
    );
}

#[test]
fn with_a_guardian_nobody_needs_to_take_it_down() {
    if !isolated("with_a_guardian_nobody_needs_to_take_it_down") {
        return;
    }
    let before = host_state();
    for phase in ["going up", "up"] {
        let mut child = helper("brings_up_guarded_and_waits", "victim").spawn().expect("helper");
        let namespaces = if phase == "up" { 4 } else { 2 };
        wait_until("the lab to come up", || netns::list().expect("list").len() >= namespaces);
        child.kill().expect("kill");
        child.wait().expect("reaped");
        wait_until("the guardian to take the lab down", || journals() == 0);
        assert_eq!(host_state(), before, "killed while {phase}");
    }
}

#[test]
#[ignore = "the process that other tests kill"]
fn brings_up_guarded_and_waits() {
    let verb = ["--exact", "guards", "--ignored", "--nocapture"].map(OsStr::new);
    let _lab = Lab::up_guarded(&demo(), &helper_argument(), 1, &verb).expect("up");
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "the guardian that another test's process starts"]
fn guards() {
    let journal = std::env::args_os().next_back().expect("the journal comes last");
    pathlab_guard::watch(journal.as_ref()).expect("watched");
}

#[test]
#[ignore = "the process that other tests kill"]
fn brings_up_and_waits() {
    let _lab = Lab::up(&demo(), &helper_argument(), 1).expect("up");
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "the process that other tests kill"]
fn brings_up_spawns_and_waits() {
    let mut lab = Lab::up(&demo(), "victim", 1).expect("up");
    let _loads = lab.start_loads(std::time::Instant::now()).expect("loads");
    let mut sleep = lab.command("server", "sleep").expect("command");
    sleep.arg("600");
    let mut running = lab.spawn(sleep).expect("spawn");
    fs::write(helper_argument(), format!("{}.", running.child().id())).expect("written");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_kept_lab_outlives_its_process_and_its_commands_run_inside() {
    if !isolated("a_kept_lab_outlives_its_process_and_its_commands_run_inside") {
        return;
    }
    let before = host_state();
    Lab::up(&demo(), "kept", 1).expect("up").keep().expect("keep");
    let listed = lab::list();
    assert!(listed[0].kept && listed[0].running.is_none());
    assert_eq!(listed[0].namespaces.len(), 4);
    let inside = lab::command("kept", "server", "ip").expect("command").args(["-brief", "link"]).output().expect("ip");
    let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
    assert!(inside.contains("a@") && inside.contains("b@"), "{inside}");
    let error = lab::command("kept", "sever", "ip").expect_err("unknown").to_string();
    assert_eq!(error, "lab kept has no node sever; `pathlab lab list` shows labs with their nodes");
    lab::down("kept").expect("down");
    assert_eq!(host_state(), before);
}

#[test]
fn a_process_of_the_lab_ends_with_it() {
    if !isolated("a_process_of_the_lab_ends_with_it") {
        return;
    }
    let mut lab = Lab::up(&demo(), "child", 1).expect("up");
    let mut sleep = lab.command("clients", "sleep").expect("command");
    sleep.arg("600");
    let mut running = lab.spawn(sleep).expect("spawn");
    lab.down().expect("down");
    let status = running.child().wait().expect("reaped");
    assert_eq!(status.signal(), Some(9));
}

#[test]
fn a_namespace_of_somebody_else_is_not_touched() {
    if !isolated("a_namespace_of_somebody_else_is_not_touched") {
        return;
    }
    let _theirs = Namespace::create("pathlab-x-transit-b").expect("create");
    let error = Lab::up(&demo(), "x", 1).expect_err("taken").to_string();
    assert!(error.starts_with("network namespace pathlab-x-transit-b exists already; "), "{error}");
    assert_eq!(netns::list().expect("list"), ["pathlab-x-transit-b"]);
    assert_eq!(journals(), 0);
}

#[test]
fn without_root_one_sentence_says_so() {
    if !root_or_skip("without_root_one_sentence_says_so") {
        return;
    }
    let output =
        helper("says_why_it_cannot_come_up", "").uid(65534).gid(65534).stdout(Stdio::piped()).output().expect("helper");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "bringing up lab poor needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN); run it with sudo";
    assert!(text.contains(&format!("refused: {expected}\n")), "{text}");
}

#[test]
#[ignore = "run by another test, as nobody"]
fn says_why_it_cannot_come_up() {
    let error = Lab::up(&demo(), "poor", 1).expect_err("no privilege");
    println!("\nrefused: {error}");
}
