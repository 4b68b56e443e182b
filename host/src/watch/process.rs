//! Which processes are meant, and how their threads are called: what procfs says.

use std::{fs, os::unix::fs::MetadataExt};

/// `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: u64 = 0xeffffffc;
/// `TASK_COMM_LEN`, without the zero at the end.
const LONGEST_NAME: usize = 15;

/// The processes of this name, as `/proc/PID/comm` has it; of a longer one its first 15 octets count.
pub fn processes_named(name: &str) -> Vec<u32> {
    let wanted = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut named: Vec<u32> = processes
        .filter(|process| fs::read(format!("/proc/{process}/comm")).is_ok_and(|comm| comm.trim_ascii_end() == wanted))
        .collect();
    named.sort_unstable();
    named
}

/// The process to which a process's or thread's number belongs; `None` where there is none.
pub(crate) fn process_of(number: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Absent where it has ended.
pub(crate) fn thread_name(process: u32, thread: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{process}/task/{thread}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// Whether processes have the numbers here that the kernel itself uses.
pub(crate) fn numbers_are_the_kernels() -> bool {
    fs::metadata("/proc/thread-self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn this_process_is_found_by_its_name() {
        let name = thread_name(process::id(), process::id()).expect("alive");
        assert!(processes_named(&name).contains(&process::id()), "{name}");
        assert!(
            processes_named(&format!("{name:0<15}beyond")).iter().all(|found| *found != process::id())
                || name.len() == 15
        );
        let thread = fs::read_link("/proc/thread-self").expect("procfs");
        let thread = thread.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
        assert_eq!((process_of(thread), process_of(u32::MAX)), (Some(process::id()), None));
    }
}
