//! What a thread takes of its host, one system call a function: timer slack, scheduling class, CPUs, locked memory.
#![allow(unsafe_code)]

use std::io;

/// `prctl(PR_SET_TIMERSLACK)`: how late the kernel may wake this thread, in nanoseconds; 0 gives the default (50 µs) back.
pub(crate) fn set_timer_slack(nanoseconds: libc::c_ulong) {
    // SAFETY: no pointers. It cannot fail: any value is valid.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanoseconds) };
}

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// `sched_getscheduler` and `sched_getparam` of this thread: policy with its flags, and real-time priority (0 where it has none).
pub(crate) fn scheduler() -> io::Result<(libc::c_int, libc::c_int)> {
    // SAFETY: no pointers.
    let policy = done(unsafe { libc::sched_getscheduler(0) })?;
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel writes one `sched_param`, which lives on this frame.
    done(unsafe { libc::sched_getparam(0, &raw mut parameters) })?;
    Ok((policy, parameters.sched_priority))
}

/// `sched_setscheduler` of this thread.
pub(crate) fn set_scheduler(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads one `sched_param`, which lives on this frame.
    done(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) }).map(drop)
}

/// `sched_setaffinity`: this thread runs on these CPUs alone from now on.
pub(crate) fn run_on(cpus: &[u32]) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as u32) {
        // SAFETY: the index is below CPU_SETSIZE, checked above.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    }
    // SAFETY: the kernel reads the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

/// `mlockall` of what is mapped and what will be, each page from its first use on (`MCL_ONFAULT`, Linux 4.4).
pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: no pointers; locking pages changes nothing that a program can see but the time that an access takes.
    done(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// `munlockall`. It cannot fail in a way that matters: what was not locked stays so.
pub(crate) fn unlock_memory() {
    // SAFETY: no pointers.
    unsafe { libc::munlockall() };
}

/// `sched_getaffinity` of this thread: the CPUs that it may run on, lowest first.
pub fn allowed_cpus() -> io::Result<Vec<u32>> {
    // SAFETY: `cpu_set_t` is an array of bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the true size of `set`, which lives on this frame.
    done(unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) })?;
    // SAFETY: every index is below CPU_SETSIZE, the number of bits in the set.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .map(|cpu| cpu as u32)
        .collect())
}
