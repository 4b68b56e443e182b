//! A copy of a run for others, in which every address is a pseudonym, sealed by a chain of its own that names the one it was made from.
//!
//! Digests inside the files (of a verdict's inputs, of a report's figures) are those of the original and stay: whoever holds that can check them.
//! So a verdict replays from the original alone.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{Artefact, Chain, FILE, Head, PSEUDONYMISE, SEAL, Sums, verify};
use crate::{
    Digest, Error, Pseudonyms,
    directory::{RUN, is_plain_name, write_sums},
};

/// Copies a sealed run to a directory that is not there or empty. The order of deeds stays, with their times; what was added after the seal is
/// sealed in the copy. `actor` is who makes it, `time` when.
///
/// # Errors
/// Those of [`verify`]; [`Error::Occupied`]; [`Error::Line`] for a file that is no text, for nobody knows what is in it; [`Error::Name`];
/// [`Error::Io`].
pub fn pseudonymised(
    from: &Path,
    to: &Path,
    pseudonyms: &mut Pseudonyms<'_>,
    time: Timestamp,
    actor: &str,
) -> Result<Head, Error> {
    let verified = verify(from)?;
    fs::create_dir_all(to).map_err(Error::writing(to))?;
    if fs::read_dir(to).map_err(Error::reading(to))?.next().is_some() {
        return Err(Error::Occupied { path: to.to_owned() });
    }
    let mut files = BTreeMap::new();
    for record in &verified.records {
        let Some(Artefact { name, .. }) = &record.artefact else { continue };
        let shown = shown(name, pseudonyms);
        if !is_plain_name(&shown) {
            return Err(Error::Name { name: shown, why: "is no plain name" });
        }
        if let Entry::Vacant(place) = files.entry(shown) {
            let digest = copied(&from.join(name), &to.join(place.key()), pseudonyms)?;
            place.insert(digest);
        }
    }
    let mut chain = Chain::default();
    let mut lines = String::new();
    let mut add = |time, actor: &str, action: &str, artefact| {
        let (line, head) = chain.append(time, actor, action, artefact);
        lines.push_str(&line);
        head
    };
    let whole = |name: &String, sha256: &Digest| Some(Artefact { name: name.clone(), sha256: *sha256 });
    for record in verified.records.iter().filter(|record| record.action != SEAL) {
        let begins = record.artefact.as_ref().is_some_and(|artefact| artefact.name == RUN);
        if record.artefact.is_none() || begins {
            let (by, what) = (pseudonyms.text(&record.actor), pseudonyms.text(&record.action));
            let run = files.get_key_value(RUN).filter(|_| begins).and_then(|(name, sha256)| whole(name, sha256));
            add(record.time, &by, &what, run);
        }
    }
    add(time, actor, &format!("{PSEUDONYMISE}, from {}", verified.head), None);
    for (name, sha256) in files.iter().filter(|(name, _)| *name != RUN) {
        add(time, actor, "write", whole(name, sha256));
    }
    let sealed = add(time, actor, SEAL, None);
    let path = to.join(FILE);
    let write = || {
        let mut file = File::create_new(&path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Error::writing(&path))?;
    write_sums(to, sealed, sealed, files)?;
    Ok(sealed)
}

/// Copies a folder of plain files that is no run, such as a capture, with the folders in it and new `SHA256SUMS` where it had some; how many files it has.
///
/// # Errors
/// [`Error::Occupied`]; [`Error::Line`] for a file that is no text; [`Error::Name`] for what is neither file nor folder; [`Error::Io`].
pub fn pseudonymised_tree(from: &Path, to: &Path, pseudonyms: &mut Pseudonyms<'_>) -> Result<usize, Error> {
    fs::create_dir_all(to).map_err(Error::writing(to))?;
    if fs::read_dir(to).map_err(Error::reading(to))?.next().is_some() {
        return Err(Error::Occupied { path: to.to_owned() });
    }
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(from.join(&folder)).map_err(Error::reading(from.join(&folder)))? {
            let entry = entry.map_err(Error::reading(from.join(&folder)))?;
            let (kind, inside) =
                (entry.file_type().map_err(Error::reading(entry.path()))?, folder.join(entry.file_name()));
            let name = inside.to_string_lossy().into_owned();
            let shown = shown(&name, pseudonyms);
            if kind.is_dir() {
                fs::create_dir_all(to.join(&shown)).map_err(Error::writing(to.join(&shown)))?;
                folders.push(inside);
            } else if kind.is_file() && name != Sums::FILE {
                let digest = copied(&entry.path(), &to.join(&shown), pseudonyms)?;
                files.insert(shown, digest);
            } else if !kind.is_file() {
                return Err(Error::Name { name, why: "is neither a file nor a folder" });
            }
        }
    }
    if from.join(Sums::FILE).is_file() {
        let lines: String = files.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        let place = to.join(Sums::FILE);
        fs::write(&place, lines).map_err(Error::writing(place))?;
    }
    Ok(files.len())
}

/// A path with pseudonyms in it, part by part: one of an address has no colon and no further part.
fn shown(path: &str, pseudonyms: &mut Pseudonyms<'_>) -> String {
    let part = |part: &str| pseudonyms.text(part).replace([':', '/'], "-");
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Line by line: no address goes over the end of one.
fn copied(from: &Path, to: &Path, pseudonyms: &mut Pseudonyms<'_>) -> Result<Digest, Error> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(from).map_err(Error::reading(from))?);
    let mut writer = BufWriter::new(File::create_new(to).map_err(Error::writing(to))?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Error::reading(from))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|_| Error::Line {
            file: from.to_owned(),
            line: number,
            why: "is no text, so that addresses in it cannot be found".to_owned(),
        })?;
        writer.write_all(pseudonyms.text(text).as_bytes()).map_err(Error::writing(to))?;
    }
    let file = writer.into_inner().map_err(|error| Error::writing(to)(error.into_error()))?;
    file.sync_all().map_err(Error::writing(to))?;
    Digest::of_file(to).map_err(Error::reading(to))
}
