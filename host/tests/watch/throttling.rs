//! A process that its control group keeps from running is told with the group.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use pathlab_guard::privilege::{root_or_skip, skip};
use pathlab_host::watch::{Watch, WatchOptions};

/// A control group with a limit, and a process in it that would run always.
struct Busy {
    group: PathBuf,
    process: Child,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // a group can be taken away when the kernel is done with its last process
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.group).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// 10 ms of each 100 ms, by version 1 where it is mounted with the controller, else by version 2.
fn limited(name: &str) -> io::Result<PathBuf> {
    let one = Path::new("/sys/fs/cgroup/cpu");
    if one.join("cpu.cfs_quota_us").exists() || one.join("cpu.shares").exists() {
        let group = one.join(name);
        fs::create_dir(&group)?;
        fs::write(group.join("cpu.cfs_quota_us"), "10000")?;
        return Ok(group);
    }
    let two = Path::new("/sys/fs/cgroup");
    fs::write(two.join("cgroup.subtree_control"), "+cpu")?;
    let group = two.join(name);
    fs::create_dir(&group)?;
    fs::write(group.join("cpu.max"), "10000 100000")?;
    Ok(group)
}

#[test]
fn a_limit_that_was_reached_is_told() {
    let test = "throttling::a_limit_that_was_reached_is_told";
    if !root_or_skip(test) {
        return;
    }
    let group = match limited(&format!("pathlab-test-{}", std::process::id())) {
        Ok(group) => group,
        Err(error) => return skip(test, &format!("no control group with a limit can be made: {error}")),
    };
    let mut busy = Command::new("sh");
    let busy = Busy { process: busy.args(["-c", "while :; do :; done"]).spawn().expect("a shell"), group };
    fs::write(busy.group.join("cgroup.procs"), busy.process.id().to_string()).expect("a group");
    let options = WatchOptions { processes: vec![busy.process.id()], ..WatchOptions::default() };
    let watch = Watch::begin(&options).expect("a watch");
    let first = watch.read().expect("a reading");
    let deadline = Instant::now() + Duration::from_secs(60);
    let group = busy.group.display().to_string();
    loop {
        let report = watch.read().expect("a reading").since(&first);
        let told = report.throttling.iter().find(|told| told.cgroup == group);
        if let Some(told) = told.filter(|told| told.throttled >= 3 && told.seconds > 0.0) {
            assert_eq!(told.processes, [busy.process.id()]);
            assert!(told.periods >= told.throttled, "{told:?}");
            let busy: f64 = report.processors.iter().map(|processor| processor.busy).sum();
            assert!(busy > 0.0, "{:?}", report.processors);
            return;
        }
        assert!(Instant::now() < deadline, "not throttled in a minute: {:?}", report.throttling);
        std::thread::sleep(Duration::from_millis(50));
    }
}
