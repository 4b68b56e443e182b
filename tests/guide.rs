//! The guides do what they say: every command of their console blocks runs, in order, in one directory.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/isolation.rs"]
mod isolation;

use pathlab_guard::privilege::skip;

const GUIDE: &str = include_str!("../docs/reproduce-a-bad-evening.md");

/// The lines with a `$` of the blocks that are marked as console.
fn commands() -> Vec<Vec<String>> {
    let mut inside = false;
    let mut commands = Vec::new();
    for line in GUIDE.lines() {
        match line.strip_prefix("```") {
            Some(mark) => inside = mark == "console",
            None if inside => commands.extend(line.strip_prefix("$ pathlab ").map(words)),
            None => {}
        }
    }
    commands
}

/// Words parted by spaces, those between quotes together.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[test]
fn every_command_of_the_guide_runs() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for args in commands {
        let output = isolation::pathlab(place.path(), "").args(&args).output().expect("pathlab was built");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "pathlab {args:?}: {}\n{said}", output.status);
        match args[1].as_str() {
            "run" => {
                assert!(said.contains("holds") && !said.contains("FAILS"), "{said}");
                let directory =
                    place.path().join(&args[args.iter().position(|arg| arg == "--out").expect("given") + 1]);
                let truth = fs::read_to_string(directory.join("truth.json")).expect("written");
                assert!(truth.contains("\"schema\": \"pathlab.truth/1\""), "{truth}");
            }
            "compare" => assert!(said.contains("B − A"), "{said}"),
            _ => {}
        }
    }
}

/// Every scenario that is shipped has its place in the guide, and the guide names no other.
#[test]
fn the_guide_knows_every_scenario() {
    for name in pathlab_netlab::scenario::Scenario::shipped().filter(|name| !["demo", "baseline"].contains(name)) {
        assert!(GUIDE.contains(&format!("`{name}`")), "{name}");
    }
}

/// The lines with a `$` of a guide's console blocks, as a shell takes them.
fn lines(guide: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in guide.lines() {
        match line.strip_prefix("```") {
            Some(mark) => inside = mark == "console",
            None if inside => lines.extend(line.strip_prefix("$ ")),
            None => {}
        }
    }
    lines
}

/// The README's commands, and those in the guides' blocks of `sh`, are of hosts that a test has not got, or serve until they are stopped: their verbs and options are there,
/// and so are the scripts. Whatever else a guide shows in a block is run by the tests below, and by `tests/trace.rs`.
#[test]
fn no_page_names_a_verb_option_or_script_that_is_not() {
    const PAGES: [(&str, &str); 9] = [
        ("README", include_str!("../README.md")),
        ("formats", include_str!("../docs/formats.md")),
        ("is-the-other-transit-better", include_str!("../docs/is-the-other-transit-better.md")),
        ("operations", include_str!("../docs/operations.md")),
        ("performance", include_str!("../docs/performance.md")),
        ("reproduce-a-bad-evening", GUIDE),
        ("tune-a-host", include_str!("../docs/tune-a-host.md")),
        ("which-link-is-it", include_str!("../docs/which-link-is-it.md")),
        ("wire-or-host", include_str!("../docs/wire-or-host.md")),
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let guides = fs::read_dir(folder).expect("a folder").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "md"))
    });
    assert_eq!(guides.count() + 1, PAGES.len(), "every page is looked at");
    let (mut commands, mut scripts) = (0, 0);
    for (page, text) in PAGES {
        let mut mark = None;
        for line in text.lines() {
            if let Some(found) = line.strip_prefix("```") {
                mark = if mark.is_some() { None } else { Some(found) };
                continue;
            }
            let shown = match mark {
                Some("sh") => line,
                Some("console") if page == "README" => line.strip_prefix("$ ").unwrap_or_default(),
                _ => continue,
            };
            let line = shown.split(" #").next().unwrap_or_default().split(" > ").next().unwrap_or_default().trim();
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            match line.split_once(' ').unwrap_or((line, "")) {
                ("", _) => {}
                ("pathlab", args) => {
                    // What is wrong with a command line is told before its help is; what stands behind `--` is another verb's.
                    let own = args.split(" -- ").next().unwrap_or_default();
                    let mut known = isolation::pathlab(Path::new("."), "");
                    let output = known.args(words(own)).arg("--help").output().expect("pathlab was built");
                    assert!(output.status.success(), "{page}: {line}: {}", String::from_utf8_lossy(&output.stderr));
                    commands += 1;
                }
                (script, _) if script.trim_start_matches("./").starts_with("scripts/") => {
                    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(script).is_file(), "{page}: {line}");
                    scripts += 1;
                }
                // A key, as tests/trace.rs writes it by itself.
                ("(echo", rest) => assert!(rest.ends_with("trace.key"), "{page}: {line}"),
                _ => panic!("{page}: nobody looks at {line:?}"),
            }
        }
    }
    assert!(commands > 18 && scripts > 2, "{commands} commands and {scripts} scripts");
}

/// Runs a guide by the shell, in a directory of its own and in namespaces of its own; what is left to the background ends with them.
fn follow(name: &str, guide: &str, least: usize, seen: impl Fn(&str, &Path, &Output)) {
    if !isolation::isolated(name) {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let programs = Path::new(env!("CARGO_BIN_EXE_pathlab")).parent().expect("it lies in a directory");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", line]).current_dir(place.path()).env("PATH", &path);
        shell
    };
    let lines = lines(guide);
    assert!(lines.len() >= least, "{lines:?}");
    let mut background = Vec::new();
    for line in lines {
        if let Some(line) = line.strip_suffix(" &") {
            let ready = place.path().join("ready");
            let mut child = shell(&format!("exec {line} >ready 2>&1"));
            background.push(child.spawn().expect("sh"));
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while fs::read_to_string(&ready).is_ok_and(|text| text.is_empty()) || !ready.exists() {
                assert!(std::time::Instant::now() < deadline, "{line} says nothing");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            continue;
        }
        let output = shell(line).output().expect("sh");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        // A demo that says of itself that it does not stand leaves nothing to show.
        if line.starts_with("pathlab demo") && output.status.code() == Some(5) {
            skip(
                &format!("{name} (from the demo on)"),
                "this machine was too busy: the demo says that it does not stand",
            );
            break;
        }
        assert!(output.status.success(), "{line}: {}\n{}", output.status, String::from_utf8_lossy(&said));
        seen(line, place.path(), &output);
    }
    for mut child in background {
        child.kill().expect("it serves");
        child.wait().expect("it was a child");
    }
}

#[test]
fn wire_or_host_is_told_as_the_guide_says() {
    let guide = include_str!("../docs/wire-or-host.md");
    follow("wire_or_host_is_told_as_the_guide_says", guide, 7, |line, place, _| {
        if line.starts_with("pathlab report") {
            let page = fs::read_to_string(place.join("runs/evening/report.html")).expect("written");
            assert!(page.contains("NTT") && page.contains("Host: audit.json") && page.contains("reflector host"));
        }
    });
}

#[test]
fn an_experiment_is_judged_shown_and_proven_as_the_guide_says() {
    let guide = include_str!("../docs/is-the-other-transit-better.md");
    follow("an_experiment_is_judged_shown_and_proven_as_the_guide_says", guide, 15, |line, _, output| {
        let said = String::from_utf8_lossy(&output.stdout);
        if line.starts_with("pathlab demo") {
            assert!(said.contains("\nreport: runs/demo/report.html\n"), "{said}");
        }
        if line.contains("--signers") {
            assert!(said.contains("signed by noc@example.net"), "{said}");
        }
        if line.starts_with("cat ") {
            assert!(said.contains("are labels of windows, not of the clock"), "{said}");
            assert!(said.contains("| What | rubber-banding |") && said.contains("Network and peering"), "{said}");
        }
    });
}

#[test]
fn a_host_is_tuned_and_is_as_before_as_the_guide_says() {
    let guide = include_str!("../docs/tune-a-host.md");
    follow("a_host_is_tuned_and_is_as_before_as_the_guide_says", guide, 7, |line, _, output| {
        let said = String::from_utf8_lossy(&output.stdout);
        if line.ends_with("host undo") {
            assert!(said.contains("taken back  echo 20000 > /sys/class/net/lo/gro_flush_timeout (was 0)"), "{said}");
        }
    });
}

#[test]
fn operations_are_as_their_page_says() {
    follow("operations_are_as_their_page_says", include_str!("../docs/operations.md"), 4, |_, _, _| {});
}
