//! `pathlab evidence`: is a run directory what its chain says, and who vouches for it?
//!
//! Signatures are those of `ssh-keygen -Y`, over `SHA256SUMS`, which holds the head of the chain: with keys that people have, checked by a program
//! that they have.

mod pseudonyms;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use pathlab_canary::Given;
use pathlab_record::{Error, Head, Unsealed};
use serde_json::json;

use crate::{
    Global,
    exit::{Exit, Misuse},
    output,
};

/// What is signed, and what `ssh-keygen -Y sign` makes of it.
const SUMS: &str = "SHA256SUMS";
const SIGNATURE: &str = "SHA256SUMS.sig";
/// The namespace of the signature: one that was made for something else does not pass.
const NAMESPACE: &str = "pathlab";

/// Check run directories against their evidence chains, sign them, and hide whose addresses are in them
#[derive(Args)]
pub(crate) struct EvidenceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Name the record or file that was changed, removed, reordered or cut off
    Verify {
        /// Run directories, each with the runs in it
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// A head that was printed and kept elsewhere, as `record 8 sha256 3f5a...`: it has to be in the chain of every run named
        #[arg(long, value_name = "HEAD")]
        head: Option<Head>,
        /// Check the signature too: whom to believe, a file as ssh-keygen(1) calls it under ALLOWED SIGNERS
        #[arg(long, value_name = "FILE", requires = "identity")]
        signers: Option<PathBuf>,
        /// Who has to have signed, as the file of signers names them
        #[arg(long, value_name = "NAME", requires = "signers")]
        identity: Option<String>,
    },
    /// Sign a run directory with an SSH key (ssh-keygen -Y sign); a report made later asks for a new signature
    Sign {
        /// Run directories, each with the runs in it
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// The private key, or the public one of a key that ssh-agent holds
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Copy runs for others to see: addresses, hardware addresses and hosts' names become pseudonyms, the same in all copies; addresses keep the prefixes they share
    Pseudonymise {
        /// Run directories, those inside them go along; or captures of `host capture` and of the provider's pack
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// A host's name to hide beside those that the runs tell of themselves; may be repeated
        #[arg(long = "host", value_name = "NAME")]
        hosts: Vec<String>,
        /// The secret map between addresses and pseudonyms, made where there is none: give it to nobody
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Directory for the copies, each under the name of its run
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Print the addresses and names behind pseudonyms
    Reveal {
        /// Pseudonyms, as the copies have them
        #[arg(required = true)]
        pseudonyms: Vec<pseudonyms::Pseudonym>,
        /// The key that they were made with
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// Exits with 0 when everything is as it was sealed, with 1 when anything is not; every run is looked at.
pub(crate) fn run(args: &EvidenceArgs, global: &Global) -> Result<Exit> {
    if let Action::Verify { runs, .. } | Action::Sign { runs, .. } | Action::Pseudonymise { runs, .. } = &args.action
        && let Some(run) = runs.iter().find(|run| !run.is_dir())
    {
        return Err(Misuse(format!("{}: no such run directory", run.display())).into());
    }
    match &args.action {
        Action::Verify { runs, head, signers, identity } => {
            let signers = signers.as_deref().zip(identity.as_deref());
            verify(runs, head.as_ref(), signers, global)
        }
        Action::Sign { runs, key } => {
            let runs = with_those_inside(runs)?;
            for (run, _) in &runs {
                pathlab_record::verify(run)?;
            }
            for (run, _) in &runs {
                sign(run, key)?;
            }
            let runs: Vec<_> = runs.into_iter().map(|(run, _)| run).collect();
            if global.json {
                output::json("evidence", &json!({ "signed": runs }))?;
            } else {
                runs.iter().for_each(|run| outln!("{}: signed, {SIGNATURE}", run.display()));
            }
            Ok(Exit::Done)
        }
        Action::Pseudonymise { runs, hosts, key, out } => pseudonyms::pseudonymise(runs, hosts, key, out, global),
        Action::Reveal { pseudonyms, key } => pseudonyms::reveal(pseudonyms, key, global),
    }
}

fn verify(runs: &[PathBuf], head: Option<&Head>, signers: Option<(&Path, &str)>, global: &Global) -> Result<Exit> {
    let mut documents = Vec::new();
    let mut whole = true;
    let runs = with_those_inside(runs)?;
    for (run, named) in &runs {
        match look(run, head.filter(|_| *named), signers) {
            Ok((document, text)) => {
                documents.push(document);
                if !global.json {
                    out!("{text}");
                }
            }
            // Of several, every one is looked at.
            Err(error) => {
                whole = false;
                eprintln!("pathlab: {error:#}");
                let mut document = json!({ "run": run, "fault": format!("{error:#}") });
                if matches!(error.downcast_ref(), Some(Error::Unsealed { .. })) && run.join("run.json").is_file() {
                    let found = Unsealed::read(run)?;
                    eprint!("{}", remains(&found));
                    document["remains"] = as_json(&found);
                }
                documents.push(document);
            }
        }
    }
    if global.json {
        output::json("evidence", &json!({ "verified": documents }))?;
    }
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

/// What a run that was killed holds, and where it is cut.
fn remains(found: &Unsealed) -> String {
    let files = found.files.iter().map(|file| format!("  {file}\n"));
    std::iter::once(format!("  {}\n", found.chain())).chain(files).collect()
}

fn as_json(found: &Unsealed) -> serde_json::Value {
    let file = |file: &pathlab_record::Remains| json!({ "name": file.name, "lines": file.lines, "cut": file.cut });
    let files: Vec<_> = found.files.iter().map(file).collect();
    json!({ "records": found.records.len(), "broken": found.broken, "files": files })
}

/// The runs with those that lie in them, at any depth, each once; whether it was named itself.
fn with_those_inside(named: &[PathBuf]) -> Result<Vec<(PathBuf, bool)>> {
    let mut runs: Vec<(PathBuf, bool)> = Vec::new();
    let mut open: Vec<(PathBuf, bool)> = named.iter().rev().map(|run| (run.clone(), true)).collect();
    while let Some((run, is_named)) = open.pop() {
        if let Some((_, known)) = runs.iter_mut().find(|(known, _)| *known == run) {
            *known |= is_named;
            continue;
        }
        let entries = fs::read_dir(&run).with_context(|| run.display().to_string())?;
        let mut inside: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|entry| entry.join("run.json").is_file())
            .collect();
        inside.sort_unstable_by(|a, b| b.cmp(a));
        runs.push((run, is_named));
        open.extend(inside.into_iter().map(|run| (run, false)));
    }
    Ok(runs)
}

/// Files on which the verdict of a run rests and which lie neither in it nor beside it.
///
/// # Errors
/// One that lies there and is another than was judged.
fn not_here(run: &Path) -> Result<Vec<String>> {
    let file = run.join("verdict.json");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(Vec::new()) };
    let inputs = Given::read(&text).map(|verdict| verdict.inputs().to_vec());
    let mut missing = Vec::new();
    for input in inputs.with_context(|| file.display().to_string())? {
        let places = [run.join(&input.name), run.join("..").join(&input.name)];
        let Some(place) = places.iter().find(|place| place.is_file()) else {
            missing.push(input.name);
            continue;
        };
        let found = pathlab_record::Digest::of_file(place).with_context(|| place.display().to_string())?;
        if found.to_string() != input.sha256 {
            bail!("{}: {} is not the file that was judged", run.display(), input.name);
        }
    }
    Ok(missing)
}

/// One run that is as it was sealed, as JSON and as text.
fn look(run: &Path, head: Option<&Head>, signers: Option<(&Path, &str)>) -> Result<(serde_json::Value, String)> {
    let found = pathlab_record::verify(run)?;
    if let Some(head) = head.filter(|head| !found.holds(head)) {
        bail!("{}: {head} is not in its chain: the whole directory was written anew since", run.display());
    }
    let signature = match (run.join(SIGNATURE).is_file(), signers) {
        (true, Some((file, identity))) => {
            check(run, file, identity)?;
            format!("signed by {identity}")
        }
        (false, Some(_)) => bail!("{}: not signed: there is no {SIGNATURE}", run.display()),
        (true, None) => "signed, by whom was not asked (--signers)".to_owned(),
        (false, None) => "not signed".to_owned(),
    };
    let unlisted: Vec<_> = found.unlisted.iter().filter(|name| *name != SIGNATURE).collect();
    let mut text =
        format!("{}: unchanged, {} records, head {}, {signature}\n", run.display(), found.records.len(), found.head);
    for name in &unlisted {
        text += &format!("  {name} is not part of the evidence\n");
    }
    let missing = if found.is_pseudonymised() { Vec::new() } else { not_here(run)? };
    for name in &missing {
        text += &format!("  its verdict rests on {name}, which is neither in it nor beside it: not checked\n");
    }
    let document = json!({
        "run": run, "head": found.head.to_string(), "unlisted": unlisted, "signature": signature, "not_here": missing,
    });
    Ok((document, text))
}

fn sign(run: &Path, key: &Path) -> Result<()> {
    // ssh-keygen asks before it writes over a signature.
    match fs::remove_file(run.join(SIGNATURE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| run.join(SIGNATURE).display().to_string());
        }
        _ => {}
    }
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(run.join(SUMS));
    called(keygen.stdin(Stdio::inherit()), &format!("{}: not signed", run.display()))
}

fn check(run: &Path, signers: &Path, identity: &str) -> Result<()> {
    let sums = File::open(run.join(SUMS)).with_context(|| run.join(SUMS).display().to_string())?;
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-Y", "verify", "-n", NAMESPACE, "-I", identity, "-f"]).arg(signers);
    keygen.arg("-s").arg(run.join(SIGNATURE)).stdin(sums);
    called(&mut keygen, &format!("{}: the signature is not {identity}'s over these files", run.display()))
}

fn called(keygen: &mut Command, otherwise: &str) -> Result<()> {
    let output =
        keygen.output().context("ssh-keygen of OpenSSH 8.1 or newer is needed: apt-get install openssh-client")?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    bail!("{otherwise}: {}", said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}
