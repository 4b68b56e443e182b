//! What a thread that keeps time takes of its host for the length of a run, and gives back: real-time scheduling, one CPU, locked memory, sharp timers.

use std::io;

use super::{Class, Pace, Pacing, sys};

/// What was asked for by name and is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A CPU on which this process may not run.
    #[error("cpu {cpu}: this process may run on {allowed:?}")]
    Cpu {
        /// The CPU.
        cpu: u32,
        /// Those that it may run on.
        allowed: Vec<u32>,
    },
    /// The host does not allow real time.
    #[error("real-time scheduling: {0}; give CAP_SYS_NICE, or raise RLIMIT_RTPRIO to 1")]
    RealTime(io::Error),
    /// Another refusal.
    #[error("{call}: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The lowest real-time priority: before all that is not real time, behind all that is.
const PRIORITY: i32 = 1;

/// Held while the run goes on; dropping it gives everything back. For the calling thread alone.
#[derive(Debug, Default)]
pub struct Claim {
    scheduler_before: Option<(i32, i32)>,
    cpus_before: Option<Vec<u32>>,
    memory_locked: bool,
    /// Real time was asked for by name.
    insisted: bool,
    /// Why it is not real time, where that was wanted.
    why_not: Option<String>,
}

impl Claim {
    /// Takes what `pacing` asks for and this host allows. `no_need` is a reason not to run in real time unasked.
    ///
    /// # Errors
    /// What was asked for by name is not allowed here.
    pub fn take(pacing: Pacing, no_need: Option<&str>) -> Result<Self, ClaimError> {
        let mut claim = Self::default();
        claim.insisted = pacing.class == Class::Fifo;
        if let Some(cpu) = pacing.cpu {
            let before =
                sys::allowed_cpus().map_err(|source| ClaimError::System { call: "sched_getaffinity", source })?;
            if !before.contains(&cpu) {
                return Err(ClaimError::Cpu { cpu, allowed: before });
            }
            sys::run_on(&[cpu]).map_err(|source| ClaimError::System { call: "sched_setaffinity", source })?;
            claim.cpus_before = Some(before);
        }
        sys::set_timer_slack(1);
        match (pacing.class, no_need) {
            (Class::Other, _) => return Ok(claim),
            (Class::Auto, _) if pacing.pace == Pace::Spin => {
                claim.why_not = Some("it never sleeps, and real time would leave nothing to others".to_owned());
            }
            (Class::Auto, Some(why)) => claim.why_not = Some(why.to_owned()),
            (class, _) => match claim.real_time() {
                Ok(()) => {}
                Err(source) if class == Class::Fifo => return Err(ClaimError::RealTime(source)),
                Err(error) => claim.why_not = Some(format!("{error}; it takes CAP_SYS_NICE, or RLIMIT_RTPRIO of 1")),
            },
        }
        // A page that was swapped out is fetched at the worst moment; what is not allowed is said in the report.
        claim.memory_locked = sys::lock_memory().is_ok();
        Ok(claim)
    }

    /// Real-time scheduling alone, where this host allows it: for one that must also die fast, as memory that is locked takes long
    /// to give back.
    pub fn scheduling() -> Self {
        let mut claim = Self::default();
        sys::set_timer_slack(1);
        if let Err(error) = claim.real_time() {
            claim.why_not = Some(format!("{error}; it takes CAP_SYS_NICE, or RLIMIT_RTPRIO of 1"));
        }
        claim
    }

    fn real_time(&mut self) -> io::Result<()> {
        let before = sys::scheduler()?;
        sys::set_scheduler(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY)?;
        self.scheduler_before = Some(before);
        Ok(())
    }

    /// Gives real time back before the end, for that reason, unless it was asked for by name.
    pub fn give_up_real_time(&mut self, why: &str) {
        if self.insisted {
            return;
        }
        if let Some((policy, priority)) = self.scheduler_before.take() {
            // It cannot fail in a way that anybody could mend: less is asked for than is held.
            let _ = sys::set_scheduler(policy, priority);
            self.why_not = Some(why.to_owned());
        }
    }

    /// Whether memory is locked.
    pub fn memory_locked(&self) -> bool {
        self.memory_locked
    }

    /// The scheduling class as the kernel has it now, and why it is not another.
    pub fn scheduler(&self) -> (String, Option<String>) {
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
        sys::set_timer_slack(0);
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
        let (scheduler, cpus) = (sys::scheduler().unwrap(), sys::allowed_cpus().unwrap());
        let pacing = Pacing { class: Class::Auto, cpu: Some(cpus[0]), ..Pacing::default() };
        let claim = Claim::take(pacing, None).unwrap();
        assert_eq!(sys::allowed_cpus().unwrap(), [cpus[0]]);
        let (name, why_not) = claim.scheduler();
        assert!((name == "SCHED_FIFO 1") == why_not.is_none(), "{name}: {why_not:?}");
        drop(claim);
        assert_eq!((sys::scheduler().unwrap(), sys::allowed_cpus().unwrap()), (scheduler, cpus));
    }

    #[test]
    fn real_time_is_given_up_for_a_reason_unless_it_was_insisted_on() {
        for (class, kept) in [(Class::Auto, false), (Class::Fifo, true)] {
            let Ok(mut claim) = Claim::take(Pacing { class, ..Pacing::default() }, None) else { continue };
            let held = claim.scheduler();
            claim.give_up_real_time("it is late");
            let given_up = ("SCHED_OTHER".to_owned(), Some("it is late".to_owned()));
            assert!(claim.scheduler() == if kept || held.1.is_some() { held } else { given_up }, "{claim:?}");
        }
    }

    #[test]
    fn what_gives_nothing_back_is_not_made_real_time_unasked() {
        for (pace, no_need) in [(Pace::Spin, None), (Pace::Auto, Some("slots are sent together"))] {
            let pacing = Pacing { pace, class: Class::Auto, cpu: None };
            let (name, why_not) = Claim::take(pacing, no_need).unwrap().scheduler();
            assert!(!name.contains("FIFO") && why_not.is_some(), "{name}");
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let pacing = Pacing { cpu: Some(100_000), ..Pacing::default() };
        let error = Claim::take(pacing, None).err().unwrap().to_string();
        assert!(error.starts_with("cpu 100000: this process may run on ["), "{error}");
    }
}
