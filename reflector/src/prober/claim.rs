//! What the probe's thread takes of its host for the length of a run, and gives back: real-time scheduling, one CPU, locked memory.

use super::{
    ProbeError,
    pace::{Class, Pace, Pacing},
    sys,
};
use crate::sys::allowed_cpus;

/// The lowest real-time priority: before all that is not real time, behind all that is.
const PRIORITY: i32 = 1;

/// Held while the run goes on; dropping it gives everything back. For the calling thread alone.
pub(super) struct Claim {
    scheduler_before: Option<(i32, i32)>,
    cpus_before: Option<Vec<u32>>,
    memory_locked: bool,
    /// Why it is not real time, where that was wanted.
    why_not: Option<String>,
}

impl Claim {
    /// Takes what `pacing` asks for and this host allows.
    ///
    /// # Errors
    /// What was asked for by name is not allowed here.
    pub(super) fn take(pacing: Pacing, coalescing: bool) -> Result<Self, ProbeError> {
        let mut claim = Self { scheduler_before: None, cpus_before: None, memory_locked: false, why_not: None };
        if let Some(cpu) = pacing.cpu {
            let before = allowed_cpus().map_err(|source| ProbeError::System { call: "sched_getaffinity", source })?;
            if !before.contains(&cpu) {
                let limit = format!("this process may run on {before:?}");
                return Err(ProbeError::Option { option: "--cpu", value: cpu.to_string(), limit });
            }
            sys::run_on(&[cpu]).map_err(|source| ProbeError::System { call: "sched_setaffinity", source })?;
            claim.cpus_before = Some(before);
        }
        match pacing.class {
            Class::Other => return Ok(claim),
            Class::Auto if pacing.pace == Pace::Spin => {
                claim.why_not = Some("it never sleeps, and real time would leave nothing to others".to_owned());
            }
            Class::Auto if coalescing => claim.why_not = Some("slots are sent together".to_owned()),
            class => match claim.real_time() {
                Ok(()) => {}
                Err(error) if class == Class::Fifo => {
                    let limit = format!("{error}; give CAP_SYS_NICE, or raise RLIMIT_RTPRIO to 1");
                    return Err(ProbeError::Option { option: "--class", value: "fifo".into(), limit });
                }
                Err(error) => claim.why_not = Some(format!("{error}; it takes CAP_SYS_NICE, or RLIMIT_RTPRIO of 1")),
            },
        }
        // A page that was swapped out is fetched at the worst moment; what is not allowed is said in the report.
        claim.memory_locked = sys::lock_memory().is_ok();
        Ok(claim)
    }

    fn real_time(&mut self) -> std::io::Result<()> {
        let before = sys::scheduler()?;
        sys::set_scheduler(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY)?;
        self.scheduler_before = Some(before);
        Ok(())
    }

    /// Whether memory is locked.
    pub(super) fn memory_locked(&self) -> bool {
        self.memory_locked
    }

    /// The scheduling class as the kernel has it now, and why it is not another.
    pub(super) fn scheduler(&self) -> (String, Option<String>) {
        let name = match sys::scheduler() {
            Ok((policy, priority)) => match policy & !libc::SCHED_RESET_ON_FORK {
                libc::SCHED_OTHER => "SCHED_OTHER".to_owned(),
                libc::SCHED_BATCH => "SCHED_BATCH".to_owned(),
                libc::SCHED_IDLE => "SCHED_IDLE".to_owned(),
                libc::SCHED_FIFO => format!("SCHED_FIFO {priority}"),
                libc::SCHED_RR => format!("SCHED_RR {priority}"),
                other => format!("policy {other}"),
            },
            Err(error) => format!("unknown: {error}"),
        };
        (name, self.why_not.clone())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // None of it can fail in a way that anybody could mend: less is asked for than is held.
        if let Some((policy, priority)) = self.scheduler_before {
            let _ = sys::set_scheduler(policy, priority);
        }
        if let Some(cpus) = &self.cpus_before {
            let _ = sys::run_on(cpus);
        }
        if self.memory_locked {
            sys::unlock_memory();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back() {
        let (scheduler, cpus) = (sys::scheduler().unwrap(), allowed_cpus().unwrap());
        let pacing = Pacing { class: Class::Auto, cpu: Some(cpus[0]), ..Pacing::default() };
        let claim = Claim::take(pacing, false).unwrap();
        assert_eq!(allowed_cpus().unwrap(), [cpus[0]]);
        let (name, why_not) = claim.scheduler();
        assert!((name == "SCHED_FIFO 1") == why_not.is_none(), "{name}: {why_not:?}");
        drop(claim);
        assert_eq!((sys::scheduler().unwrap(), allowed_cpus().unwrap()), (scheduler, cpus));
    }

    #[test]
    fn what_gives_nothing_back_is_not_made_real_time_unasked() {
        for (pace, coalescing) in [(Pace::Spin, false), (Pace::Auto, true)] {
            let pacing = Pacing { pace, class: Class::Auto, cpu: None };
            let (name, why_not) = Claim::take(pacing, coalescing).unwrap().scheduler();
            assert!(!name.contains("FIFO") && why_not.is_some(), "{name}");
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let pacing = Pacing { cpu: Some(100_000), ..Pacing::default() };
        let error = Claim::take(pacing, false).err().unwrap().to_string();
        assert!(error.starts_with("--cpu 100000: this process may run on ["), "{error}");
    }
}
