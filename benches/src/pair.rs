//! Two programs, or two settings of one, run by turns: the median ratio of the pairs with its interval, and exact counts of instructions beside it.
//!
//! Blocks of runs one after the other differ by several percent where nothing differs, because the machine does; pairs drift together. Only counts may gate:
//! time informs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use pathlab_stats::{Confidence, Interval, paired_median};
use tempfile::TempDir;

use crate::sys;

/// Where A and B stand in the command.
const PLACE: &str = "{}";

/// What is compared.
#[derive(Debug)]
pub struct Pair {
    /// What takes the place of `{}` in the command, for A and for B.
    values: [String; 2],
    command: Vec<String>,
    /// Holds copies of programs whose paths are equally long: a longer path moves the stack, and with it the counts.
    _copies: Option<TempDir>,
}

/// What the pairs came to; ratios are B over A.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Of elapsed times.
    pub elapsed: Interval,
    /// Of processor time, the program's own and the kernel's for it; absent where one of them took less than the kernel counts in.
    pub processor: Option<Interval>,
    /// How both ended.
    pub status: ExitStatus,
}

/// Instructions of one run each, equal in two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// A's.
    pub a: u64,
    /// B's.
    pub b: u64,
}

impl Counts {
    /// B over A.
    pub fn ratio(&self) -> f64 {
        self.b as f64 / self.a as f64
    }
}

impl Pair {
    /// `{}` in `command` is A in one run and B in the other. A folder with a `Cargo.toml` is a checkout, and stands for its `target/release/pathlab`.
    ///
    /// # Errors
    /// A command without `{}`, or a checkout that was not built.
    pub fn new(values: [&str; 2], command: Vec<String>) -> Result<Self> {
        ensure!(
            command.iter().any(|word| word.contains(PLACE)),
            "the command is the same for A and B: write {{}} where they differ, such as `-- {{}} lab run evening`"
        );
        let programs = [program(values[0])?, program(values[1])?];
        let [Some(a), Some(b)] = programs else {
            return Ok(Self { values: values.map(str::to_owned), command, _copies: None });
        };
        let copies = tempfile::tempdir()?;
        let copy = |from: &Path, folder: &str| -> Result<String> {
            let to = copies.path().join(folder);
            fs::create_dir(&to)?;
            let to = to.join("program");
            fs::copy(from, &to).with_context(|| from.display().to_string())?;
            Ok(to.display().to_string())
        };
        Ok(Self { values: [copy(&a, "a")?, copy(&b, "b")?], command, _copies: Some(copies) })
    }

    /// Runs each `pairs` times by turns, the one that comes first changing; their output goes nowhere.
    ///
    /// # Errors
    /// A command that cannot be started, or A and B that do not end alike.
    pub fn compare(&self, pairs: u32) -> Result<Compared> {
        let (mut elapsed, mut processor) = (Vec::new(), Vec::new());
        let mut status = None;
        for turn in 0..pairs {
            let first = usize::from(turn % 2 == 1);
            let mut runs = [(0.0, 0.0); 2];
            for which in [first, 1 - first] {
                let began = Instant::now();
                let ended = sys::wait(self.quiet(&self.words(which)).spawn().with_context(|| self.name(which))?)?;
                runs[which] = (began.elapsed().as_secs_f64(), ended.processor.as_secs_f64());
                let before = *status.get_or_insert(ended.status);
                ensure!(
                    before == ended.status,
                    "{} ended with {}, others with {before}",
                    self.name(which),
                    ended.status
                );
            }
            elapsed.push((runs[0].0, runs[1].0));
            processor.push((runs[0].1, runs[1].1));
        }
        let (Some(elapsed), Some(status)) = (ratio(&elapsed), status) else {
            bail!("no pair, or a clock that stood still")
        };
        Ok(Compared { elapsed, processor: ratio(&processor), status })
    }

    /// Counts the instructions of A and of B by valgrind, twice each.
    ///
    /// # Errors
    /// No valgrind, or a program whose counts differ from run to run, as with several threads: nothing exact could be said of it.
    pub fn count(&self) -> Result<Counts> {
        let exact = |which| -> Result<u64> {
            let (once, again) = (self.instructions(which)?, self.instructions(which)?);
            ensure!(once == again, "{}: {once} and {again} instructions in two runs: not exact", self.name(which));
            Ok(once)
        };
        Ok(Counts { a: exact(0)?, b: exact(1)? })
    }

    fn instructions(&self, which: usize) -> Result<u64> {
        let valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"].map(str::to_owned);
        let output = self.quiet(&[&valgrind[..], &self.words(which)].concat()).stderr(Stdio::piped()).output();
        let output = output.context("valgrind: install it")?;
        let said = String::from_utf8_lossy(&output.stderr);
        collected(&said).with_context(|| format!("{}: valgrind counted nothing:\n{said}", self.name(which)))
    }

    fn words(&self, which: usize) -> Vec<String> {
        self.command.iter().map(|word| word.replace(PLACE, &self.values[which])).collect()
    }

    fn name(&self, which: usize) -> String {
        format!("{}: {}", ["A", "B"][which], self.words(which).join(" "))
    }

    fn quiet(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // An environment of one size, for the same reason as paths.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }
}

/// The program that a value stands for, where it does.
fn program(value: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(value);
    if path.join("Cargo.toml").exists() {
        let built = path.join("target/release/pathlab");
        ensure!(built.exists(), "{}: build it first, with `cargo build --release` in {value}", built.display());
        return Ok(Some(built));
    }
    Ok((value.contains('/') && path.is_file()).then(|| path.to_owned()))
}

/// Median of the ratios after over before with its interval; `None` where a span is zero.
fn ratio(pairs: &[(f64, f64)]) -> Option<Interval> {
    if pairs.iter().any(|(before, after)| *before <= 0.0 || *after <= 0.0) {
        return None;
    }
    // A ratio is a difference of logarithms.
    let logarithms: Vec<_> = pairs.iter().map(|(before, after)| (before.ln(), after.ln())).collect();
    let Interval { estimate, low, high } = paired_median(&logarithms, Confidence::P95)?;
    Some(Interval { estimate: estimate.exp(), low: low.exp(), high: high.exp() })
}

/// `==7== Collected : 122583`, as callgrind says it.
fn collected(said: &str) -> Option<u64> {
    let (_, count) = said.lines().find_map(|line| line.split_once("Collected : "))?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(values: [&str; 2], command: &str) -> Result<Pair> {
        Pair::new(values, command.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn a_ratio_is_that_of_the_pairs_whatever_both_drift_by() {
        // B takes a tenth more, while the machine gets three times slower.
        let pairs: Vec<_> = (0..11).map(|turn| 1.0 + 0.2 * f64::from(turn)).map(|drift| (drift, 1.1 * drift)).collect();
        let Interval { estimate, low, high } = ratio(&pairs).expect("eleven pairs");
        assert!([estimate, low, high].iter().all(|ratio| (ratio - 1.1).abs() < 1e-12), "{estimate} {low} {high}");
        assert_eq!(ratio(&[(0.0, 1.0)]), None);
    }

    #[test]
    fn both_run_as_often_and_must_end_alike() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let log = place.path().join("log").display().to_string();
        let words = ["sh", "-c", "echo $0 >> $1", "{}", &log].map(str::to_owned).to_vec();
        let compared = Pair::new(["one", "two"], words).expect("sound").compare(6).expect("runs");
        assert!(compared.status.success() && compared.elapsed.low.is_finite(), "{compared:?}");
        let order = fs::read_to_string(&log).expect("written");
        assert_eq!(order.replace('\n', " "), "one two two one ".repeat(3));

        let error = pair(["true", "false"], "{}").expect("sound").compare(1).expect_err("false fails").to_string();
        assert!(error.starts_with("B: false ended with exit status: 1"), "{error}");
        let error = pair(["1", "2"], "true").expect_err("no place").to_string();
        assert!(error.starts_with("the command is the same for A and B"), "{error}");
    }

    #[test]
    fn programs_get_paths_of_one_length() {
        let copies = pair(["/bin/true", "/usr/bin/true"], "{} --version").expect("sound");
        assert_eq!(copies.words(0)[0].len(), copies.words(1)[0].len());
        assert!(copies.compare(1).expect("runs").status.success());
    }

    #[test]
    fn the_count_is_read_as_callgrind_says_it() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 122583\n"), Some(122_583));
        assert_eq!(collected("valgrind: no such program"), None);
    }
}
