//! What changed, by whom, from what to what: one line of the audit log each, in the order in which it happened.

use std::{fmt, fs};

/// A change of the steering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who asked for it; `None` when the steerer did it by itself.
    pub operator: Option<Operator>,
    /// What was done.
    pub action: &'static str,
    /// How it stood.
    pub before: String,
    /// How it stands.
    pub after: String,
}

/// Who sits at the other end of the control socket, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// User id of the process.
    pub uid: u32,
    /// The user who logged in, whatever became of them since (`sudo`); `None` outside a login.
    pub login_uid: Option<u32>,
    /// Process id.
    pub pid: Option<u32>,
}

/// The kernel's word for no login.
const NO_LOGIN: u32 = u32::MAX;

impl Operator {
    /// The process that runs this.
    pub fn current() -> Self {
        Self::of(own_uid(), Some(std::process::id()))
    }

    pub(super) fn of(uid: u32, pid: Option<u32>) -> Self {
        let login = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
        let login_uid = login.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != NO_LOGIN);
        Self { uid, login_uid, pid }
    }
}

/// The effective user id.
fn own_uid() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(NO_LOGIN)
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        if let Some(login) = self.login_uid {
            write!(f, ", logged in as uid {login}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, ", process {pid}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.action, self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let change = Change { operator: None, action: "ramp", before: "share 10%".into(), after: "share 15%".into() };
        assert_eq!(change.to_string(), "ramp: share 10% -> share 15%");
        let operator = Operator { uid: 0, login_uid: Some(1000), pid: Some(7) };
        assert_eq!(operator.to_string(), "uid 0, logged in as uid 1000, process 7");
        assert_eq!(Operator::current().pid, Some(std::process::id()));
    }
}
