//! The systemd units: they are sound, and the command line of the baseline does what the unit says, with the rights and the file system that the
//! unit leaves it.

#[path = "support/isolation.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod isolation;
#[path = "support/serving.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod serving;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use isolation::{isolated, pathlab};
use pathlab_guard::privilege::skip;
use serving::{Serving, document, sh};

const INSTANCE: &str = "jp-evening";

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// The values of a key, in their order.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The words of a command line as systemd reads it: quotes are taken off, `%i` is the instance, `%%` and `$$` are one sign (systemd.service(5)).
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut signs = line.chars().peekable();
    while let Some(sign) = signs.next() {
        match (sign, quote) {
            ('\'' | '"', None) => quote = Some(sign),
            (sign, Some(open)) if sign == open => quote = None,
            (' ', None) => words.push(std::mem::take(&mut word)),
            ('%' | '$', _) => match (sign, signs.next()) {
                ('%', Some('i')) => word.push_str(INSTANCE),
                (sign, Some(next)) if sign == next => word.push(sign),
                (sign, next) => panic!("{sign}{next:?} is not known to this test: {line}"),
            },
            (sign, _) => word.push(sign),
        }
    }
    assert!(quote.is_none(), "{line}");
    words.push(word);
    words
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let name = "systemd_finds_no_fault_with_the_units";
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip(name, "needs systemd-analyze: apt-get install systemd");
    }
    if !isolated(name) {
        return;
    }
    // They name the program where `make install` of a host would have it: so for this mount namespace alone.
    let place = tempfile::tempdir().unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_pathlab"), place.path().join("pathlab"))
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_pathlab"), place.path().join("pathlab")).map(drop))
        .unwrap();
    sh(&format!("mount --bind {} /usr/local/bin", place.path().display()));
    for name in ["pathlab-baseline@.service", "pathlab-baseline@.timer", "pathlab-canary@.service"] {
        let instance = place.path().join(name.replace('@', &format!("@{INSTANCE}")));
        for (from, to) in [
            (unit(name), instance.clone()),
            (unit("pathlab-baseline@.service"), place.path().join("pathlab-baseline@.service")),
        ] {
            fs::copy(from, to).unwrap();
        }
        let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&instance).output().unwrap();
        let said = String::from_utf8_lossy(&verify.stderr);
        // It speaks of other units of the host, too.
        let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("pathlab")).collect();
        assert!(verify.status.success() && of_ours.is_empty(), "{name}: {said}");
    }
    // And it would have found one.
    let broken = place.path().join("pathlab-broken.service");
    fs::write(&broken, "[Service]\nExecStart=pathlab-that-is-nowhere\nRestrat=no\n").unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&broken).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(!verify.status.success() && said.contains("pathlab-that-is-nowhere"), "{said}");
}

#[test]
fn the_timer_fires_where_the_evening_of_the_unit_begins() {
    let timer = fs::read_to_string(unit("pathlab-baseline@.timer")).unwrap();
    let service = fs::read_to_string(unit("pathlab-baseline@.service")).unwrap();
    assert_eq!(values(&timer, "OnCalendar"), ["*-*-* 19:00:00 Asia/Tokyo"]);
    // As the guides have it: `19:00-24:00` in `Asia/Tokyo`.
    let environment = values(&service, "Environment")[0];
    assert!(environment.contains("PATHLAB_DURATION=5h") && environment.contains("PATHLAB_ZONE=Asia/Tokyo"));
    let name = "the_timer_fires_where_the_evening_of_the_unit_begins";
    let next = Command::new("systemd-analyze")
        .args(["calendar", "--base-time=2026-11-21 00:00:00 UTC"])
        .arg("*-*-* 19:00:00 Asia/Tokyo")
        .env("TZ", "UTC")
        .output();
    let Ok(next) = next else { return skip(name, "needs systemd-analyze: apt-get install systemd") };
    let said = String::from_utf8_lossy(&next.stdout);
    assert!(next.status.success() && said.contains("2026-11-21 10:00:00 UTC"), "{said}");
}

/// What the unit leaves of the host: everything may be read, its state directories alone be written.
const INSIDE: &str = r#"
root=$1 state=$2; shift 2
mkdir -p "$root" && mount --bind "$root" "$root"
for folder in usr etc proc sys dev var; do mkdir -p "$root/$folder"; done
for folder in bin sbin lib lib64; do [ -L "/$folder" ] && ln -s "usr/$folder" "$root/$folder"; done
mount --rbind /usr "$root/usr" && mount --bind "$root/../program" "$root/usr/local/bin"
mount --rbind /proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev"
mkdir -p "$root/etc/pathlab" "$root/run" "$root/tmp" && cp "$root/../sessions" "$root/etc/pathlab/jp-evening.sessions"
mount -t tmpfs none "$root/tmp" # PrivateTmp
for folder in $state; do mkdir -p "$root/../state/$folder" "$root/var/lib/$folder"; done
mount -o remount,bind,ro "$root" # ProtectSystem=strict
for folder in $state; do mount --bind "$root/../state/$folder" "$root/var/lib/$folder"; done
exec chroot "$root" "$@"
"#;

#[test]
fn the_baselines_command_line_measures_an_evening_with_what_the_unit_leaves_it() {
    if !isolated("the_baselines_command_line_measures_an_evening_with_what_the_unit_leaves_it") {
        return;
    }
    let service = fs::read_to_string(unit("pathlab-baseline@.service")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("program")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_pathlab"), path("program/pathlab")).unwrap();
    let session = |port: u16, isp: &str| {
        format!("{{\"source\":\"127.0.0.1:{port}\",\"target\":\"127.0.0.1:8620\",\"labels\":{{\"isp\":\"{isp}\"}}}}\n")
    };
    fs::write(path("sessions"), session(40_001, "NTT") + &session(40_002, "KDDI")).unwrap();
    let reflector = Serving::start(place.path(), "reflect --listen 127.0.0.1:8620");

    let [line] = values(&service, "ExecStart")[..] else { panic!("one command: {service}") };
    let command = words(line);
    let capabilities = values(&service, "CapabilityBoundingSet")[0];
    assert_eq!(values(&service, "AmbientCapabilities"), [capabilities]);
    let set = capabilities.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let set = format!("-all{}", set.collect::<String>());
    let state = values(&service, "StateDirectory")[0];
    let mut run = Command::new("unshare");
    run.args(["--mount", "--propagation", "private", "sh", "-euc", INSIDE, "sh"]).arg(path("root")).arg(state);
    run.args(["setpriv", &format!("--bounding-set={set}"), &format!("--inh-caps={set}"), "--no-new-privs"]);
    run.args(["sh", "-c", "cd \"$0\" && exec \"$@\"", values(&service, "WorkingDirectory")[0]]).args(&command);
    // As an operator would set them for a short evening: everything else is the unit's.
    run.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("RUST_LOG", "info");
    let environment = values(&service, "Environment")[0].split(' ').filter_map(|pair| pair.split_once('='));
    for (name, value) in environment {
        let value = match name {
            "PATHLAB_DURATION" => "1s",
            "PATHLAB_INTERVAL" => "20ms",
            _ => value,
        };
        run.env(name, value);
    }
    let before = jiff::Timestamp::now();
    let ran = run.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {said}");
    drop(reflector);

    let runs: Vec<PathBuf> =
        fs::read_dir(path("state/pathlab/baseline")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [run] = &runs[..] else { panic!("one run: {runs:?}") };
    let tokyo = before.in_tz("Asia/Tokyo").unwrap();
    // The minute may have changed while it started.
    let minutes = [0, 1]
        .map(|more| (&tokyo + jiff::SignedDuration::from_mins(more)).strftime("jp-evening-%Y%m%d-%H%M").to_string());
    assert!(minutes.contains(&run.file_name().unwrap().to_string_lossy().into_owned()), "{run:?} of {minutes:?}");
    let verified = pathlab(place.path(), "evidence verify").arg(run).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let about: serde_json::Value = serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(about["keep_samples"]["share"], 0.0, "{about}");
    let bins: Vec<_> =
        pathlab_record::read_sessions(&run.join("sessions.jsonl")).unwrap().map(Result::unwrap).collect();
    for isp in ["NTT", "KDDI"] {
        let of: Vec<_> = bins.iter().filter(|bin| bin.labels["isp"] == isp).collect();
        assert!(!of.is_empty() && of.iter().all(|bin| bin.zone == "Asia/Tokyo"), "{bins:?}");
        assert!(of.iter().map(|bin| bin.received).sum::<u64>() >= 40, "{bins:?}");
    }
    // It is what the acceptance reads: one evening or none is not two.
    let windows = "[windows]\nevening = \"00:00-24:00\"\n";
    let experiment = include_str!("canary.toml").replace("[windows]\nevening = \"19:00-24:00\"\n", windows);
    assert!(experiment.contains(windows), "{experiment}");
    let acceptance = "[acceptance]\nrtt_p95 = \"60ms\"\nipdv_p95 = \"10ms\"\nloss = \"1%\"\n";
    fs::write(path("canary.toml"), experiment + acceptance).unwrap();
    fs::write(path("seed"), "7\n").unwrap();
    let accepted = document(&pathlab(place.path(), "canary accept --json").arg(run).output().unwrap(), 3);
    assert_eq!(accepted["acceptance"]["outcome"], "insufficient", "{accepted}");
    assert_eq!(accepted["inputs"].as_array().map(Vec::len), Some(1));
}
