//! `pathlab evidence pseudonymise` and `reveal`: runs and captures for others to see, in which addresses and hosts' names are pseudonyms, and the way
//! back for who has the key.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use pathlab_record::{
    AddressKey, Pseudonyms, RecordedRun, hardware_address, hardware_text, pseudonymised, pseudonymised_tree,
};
use serde_json::json;

use crate::{
    Global,
    exit::{Exit, Misuse},
    output,
};

/// Who makes the copies, in their chains.
const ACTOR: &str = concat!("pathlab ", env!("CARGO_PKG_VERSION"), " evidence");

/// What makes a folder a capture of `host capture` or of the provider's pack.
const CAPTURE: &str = "capture.json";

/// Copies every run, and the runs inside it, and every capture, to a directory of its name in `out`; `hosts` are names to hide beside those that the
/// runs tell.
pub(super) fn pseudonymise(
    runs: &[PathBuf],
    hosts: &[String],
    key: &Path,
    out: &Path,
    global: &Global,
) -> Result<Exit> {
    apart(key, runs.iter().map(PathBuf::as_path).chain([out]))?;
    let (key, made) = key_of(key, true)?;
    let mut pseudonyms = Pseudonyms::new(&key);
    hosts.iter().for_each(|host| pseudonyms.hide_host(host));
    // Of all before the first is copied: one may name another's host.
    for run in runs {
        hide_hosts(run, &mut pseudonyms)?;
    }
    let mut copies = Vec::new();
    for run in runs {
        let name = run.canonicalize().ok().and_then(|run| Some(run.file_name()?.to_string_lossy().into_owned()));
        let name = name.with_context(|| format!("{}: has no name", run.display()))?;
        let to = out.join(pseudonyms.text(&name).replace([':', '/'], "-"));
        if run.join(CAPTURE).is_file() && !run.join("run.json").is_file() {
            let files = pseudonymised_tree(run, &to, &mut pseudonyms)?;
            copies.push(Copy { from: run.clone(), to, head: None, files: Some(files) });
        } else {
            copy(run, &to, &mut pseudonyms, &mut copies)?;
        }
    }
    let met = pseudonyms.met();
    if global.json {
        let document = json!({
            "copies": copies, "addresses": met.addresses, "hardware_addresses": met.hardware, "hosts": met.hosts,
            "places": met.places, "key_made": made,
        });
        output::json("evidence", &document)?;
        return Ok(Exit::Done);
    }
    for Copy { to, head, files, .. } in &copies {
        match (head, files) {
            (Some(head), _) => outln!("{}  sealed {head}", to.display()),
            (None, files) => outln!("{}  a capture of {} files", to.display(), files.unwrap_or(0)),
        }
    }
    outln!(
        "{} addresses, {} hardware addresses and {} names of hosts in {} places are pseudonyms",
        met.addresses,
        met.hardware,
        met.hosts,
        met.places
    );
    if made {
        outln!("the key is new: keep it, and keep it to yourself; with it the next runs get the same pseudonyms");
    }
    Ok(Exit::Done)
}

/// A copy that was made.
#[derive(serde::Serialize)]
struct Copy {
    #[serde(rename = "run")]
    from: PathBuf,
    #[serde(rename = "copy")]
    to: PathBuf,
    /// Of a run.
    head: Option<String>,
    /// Of a capture.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<usize>,
}

/// Those on which a run and the runs in it were made.
fn hide_hosts(run: &Path, pseudonyms: &mut Pseudonyms<'_>) -> Result<()> {
    if run.join("run.json").is_file() {
        let about = RecordedRun::open(run)?.run;
        if let Some(name) = about.host.get("name").and_then(serde_json::Value::as_str) {
            pseudonyms.hide_host(name);
        }
    }
    inside(run)?.iter().try_for_each(|inner| hide_hosts(inner, pseudonyms))
}

/// The runs in a run.
fn inside(run: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(run).with_context(|| run.display().to_string())?;
    let mut inside: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    inside.retain(|path| path.is_dir() && path.join("SHA256SUMS").is_file());
    inside.sort();
    Ok(inside)
}

fn copy(run: &Path, to: &Path, pseudonyms: &mut Pseudonyms<'_>, copies: &mut Vec<Copy>) -> Result<()> {
    let head = pseudonymised(run, to, pseudonyms, Timestamp::now(), ACTOR)?;
    copies.push(Copy { from: run.to_owned(), to: to.to_owned(), head: Some(head.to_string()), files: None });
    for inner in inside(run)? {
        let name = inner.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copy(&inner, &to.join(pseudonyms.text(&name).replace([':', '/'], "-")), pseudonyms, copies)?;
    }
    Ok(())
}

/// A pseudonym, as a copy has it.
#[derive(Clone, Debug)]
pub(super) enum Pseudonym {
    Address(IpAddr),
    Hardware(Vec<u8>, char),
    Host(String),
}

impl std::str::FromStr for Pseudonym {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some((octets, part)) = hardware_address(text) {
            return Ok(Self::Hardware(octets, part));
        }
        let host = text.starts_with("host-").then(|| Self::Host(text.to_owned()));
        host.ok_or_else(|| "is no pseudonym: neither an address nor a name that begins with host-".to_owned())
    }
}

/// Prints what is behind pseudonyms.
pub(super) fn reveal(pseudonyms: &[Pseudonym], key: &Path, global: &Global) -> Result<Exit> {
    let (key, _) = key_of(key, false)?;
    let of = |pseudonym: &Pseudonym| match pseudonym {
        Pseudonym::Address(address) => Ok(("address", address.to_string(), key.reveal(*address).to_string())),
        Pseudonym::Hardware(octets, part) => {
            Ok(("address", hardware_text(octets, *part), hardware_text(&key.reveal_hardware(octets), *part)))
        }
        Pseudonym::Host(name) => {
            let host = key.reveal_host(name);
            host.map(|host| ("host", name.clone(), host))
                .ok_or_else(|| Misuse(format!("{name}: was not made with this key")).into())
        }
    };
    let revealed: Vec<_> = pseudonyms.iter().map(of).collect::<Result<_>>()?;
    if global.json {
        let list: Vec<_> = revealed.iter().map(|(what, from, to)| json!({ "pseudonym": from, *what: to })).collect();
        output::json("evidence", &json!({ "revealed": list }))?;
    } else {
        revealed.iter().for_each(|(_, from, to)| outln!("{from}  {to}"));
    }
    Ok(Exit::Done)
}

/// The key must not travel with what it protects.
fn apart<'p>(key: &Path, places: impl Iterator<Item = &'p Path>) -> Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).map(|path| path.canonicalize().unwrap_or(path));
    let folder = absolute(key.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?;
    for place in places {
        if folder.starts_with(absolute(place)?) {
            let (key, place) = (key.display(), place.display());
            return Err(Misuse(format!("--key {key} lies in {place}, which others will see: keep it elsewhere")).into());
        }
    }
    Ok(())
}

/// Reads a key that nobody else can read, or makes one; whether it was made.
fn key_of(file: &Path, make: bool) -> Result<(AddressKey, bool)> {
    let name = file.display();
    match File::open(file) {
        Ok(mut opened) => {
            let mode = opened.metadata().with_context(|| name.to_string())?.permissions().mode();
            if mode & 0o077 != 0 {
                let mode = mode & 0o777;
                return Err(Misuse(format!("{name}: others may read it (mode {mode:03o}): chmod 600 {name}")).into());
            }
            let mut text = String::new();
            opened.read_to_string(&mut text).with_context(|| name.to_string())?;
            let key = text.trim().parse().map_err(|why| Misuse(format!("{name}: {why}")))?;
            Ok((key, false))
        }
        Err(error) if make && error.kind() == ErrorKind::NotFound => {
            let mut octets = [0; 32];
            File::open("/dev/urandom")
                .and_then(|mut source| source.read_exact(&mut octets))
                .context("/dev/urandom: cannot be read")?;
            let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
            let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            let written = made.as_mut().map_err(|error| std::io::Error::from(error.kind()));
            written.and_then(|file| writeln!(file, "{text}")).with_context(|| format!("{name}: cannot be written"))?;
            Ok((AddressKey::new(&octets), true))
        }
        Err(error) => Err(Misuse(format!("{name}: cannot be read: {error}")).into()),
    }
}
