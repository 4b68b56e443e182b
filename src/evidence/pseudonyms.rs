//! `pathlab evidence pseudonymise` and `reveal`: runs for others to see, in which every address is a pseudonym, and the way back for who has the key.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use pathlab_record::{AddressKey, Pseudonyms, pseudonymised};
use serde_json::json;

use crate::{
    Global,
    exit::{Exit, Misuse},
    output,
};

/// Who makes the copies, in their chains.
const ACTOR: &str = concat!("pathlab ", env!("CARGO_PKG_VERSION"), " evidence");

/// Copies every run, and the runs inside it, to a directory of its name in `out`.
pub(super) fn pseudonymise(runs: &[PathBuf], key: &Path, out: &Path, global: &Global) -> Result<Exit> {
    apart(key, runs.iter().map(PathBuf::as_path).chain([out]))?;
    let (key, made) = key_of(key, true)?;
    let mut pseudonyms = Pseudonyms::new(&key);
    let mut copies = Vec::new();
    for run in runs {
        let name = run.canonicalize().ok().and_then(|run| Some(run.file_name()?.to_string_lossy().into_owned()));
        let name = name.with_context(|| format!("{}: has no name", run.display()))?;
        let to = out.join(pseudonyms.text(&name).replace([':', '/'], "-"));
        copy(run, &to, &mut pseudonyms, &mut copies)?;
    }
    let (addresses, places) = pseudonyms.met();
    if global.json {
        let copies: Vec<_> =
            copies.iter().map(|(from, to, head)| json!({ "run": from, "copy": to, "head": head })).collect();
        let document = json!({ "copies": copies, "addresses": addresses, "places": places, "key_made": made });
        output::json("evidence", &document)?;
        return Ok(Exit::Done);
    }
    for (_, to, head) in &copies {
        outln!("{}  sealed {head}", to.display());
    }
    outln!("{addresses} addresses in {places} places are pseudonyms");
    if made {
        outln!("the key is new: keep it, and keep it to yourself; with it the next runs get the same pseudonyms");
    }
    Ok(Exit::Done)
}

fn copy(
    run: &Path,
    to: &Path,
    pseudonyms: &mut Pseudonyms<'_>,
    copies: &mut Vec<(PathBuf, PathBuf, String)>,
) -> Result<()> {
    let head = pseudonymised(run, to, pseudonyms, Timestamp::now(), ACTOR)?;
    copies.push((run.to_owned(), to.to_owned(), head.to_string()));
    let entries = fs::read_dir(run).with_context(|| run.display().to_string())?;
    let mut inside: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    inside.retain(|path| path.is_dir() && path.join("SHA256SUMS").is_file());
    inside.sort();
    for inner in inside {
        let name = inner.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copy(&inner, &to.join(pseudonyms.text(&name).replace([':', '/'], "-")), pseudonyms, copies)?;
    }
    Ok(())
}

/// Prints the addresses behind pseudonyms.
pub(super) fn reveal(addresses: &[IpAddr], key: &Path, global: &Global) -> Result<Exit> {
    let (key, _) = key_of(key, false)?;
    let revealed: Vec<_> = addresses.iter().map(|address| (*address, key.reveal(*address))).collect();
    if global.json {
        let list: Vec<_> = revealed.iter().map(|(from, to)| json!({ "pseudonym": from, "address": to })).collect();
        output::json("evidence", &json!({ "revealed": list }))?;
    } else {
        revealed.iter().for_each(|(from, to)| outln!("{from}  {to}"));
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
