//! Finds the compiler under any of the names that distributions give it, because Debian alone has ten.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

/// A clang on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clang(PathBuf);

/// There is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What the variable `CLANG` asked for, when it was set.
    asked: Option<OsString>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Some(asked) => write!(f, "CLANG={}: no such program", asked.display()),
            None => write!(f, "clang is missing, and the BPF programs are compiled with it: apt-get install clang"),
        }
    }
}

impl std::error::Error for Missing {}

impl Clang {
    /// `asked` (the variable `CLANG`) when it is set; otherwise `clang`, otherwise the newest `clang-NN`, in the folders of `path`.
    ///
    /// # Errors
    /// [`Missing`], whose text is the sentence for the user.
    pub fn find(asked: Option<&OsStr>, path: Option<&OsStr>) -> Result<Self, Missing> {
        let folders: Vec<PathBuf> = path.map(|path| env::split_paths(path).collect()).unwrap_or_default();
        if let Some(asked) = asked {
            // A name with a slash stands for itself: joining it to a folder that is absolute leaves it as it is.
            let found = folders
                .iter()
                .map(|folder| folder.join(asked))
                .chain([PathBuf::from(asked)])
                .find(|file| file.is_file());
            return found.map(Self).ok_or_else(|| Missing { asked: Some(asked.to_owned()) });
        }
        let plain = folders.iter().map(|folder| folder.join("clang")).find(|file| file.is_file());
        let numbered = || {
            folders.iter().flat_map(|folder| numbered(folder)).max_by_key(|(version, _)| *version).map(|(_, file)| file)
        };
        plain.or_else(numbered).map(Self).ok_or(Missing { asked: None })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Every `clang-NN` of a folder, with its NN.
fn numbered(folder: &Path) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("clang-")?.parse().ok()?;
            Some((version, entry.path()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        names.iter().for_each(|name| fs::write(dir.path().join(name), "").expect("file"));
        dir
    }

    #[test]
    fn plain_name_first_then_the_newest() {
        let old = folder(&["clang-9", "clang-14", "clang-14-helper", "clang-format"]);
        let new = folder(&["clang-19"]);
        let plain = folder(&["clang", "clang-22"]);
        let find = |folders: &[&tempfile::TempDir]| {
            let path = env::join_paths(folders.iter().map(|dir| dir.path())).expect("a PATH");
            Clang::find(None, Some(&path)).map(|clang| clang.0)
        };
        assert_eq!(find(&[&old]), Ok(old.path().join("clang-14")));
        assert_eq!(find(&[&old, &new]), Ok(new.path().join("clang-19")));
        assert_eq!(find(&[&old, &new, &plain]), Ok(plain.path().join("clang")));
    }

    #[test]
    fn the_variable_wins_and_is_not_replaced() {
        let dir = folder(&["clang", "clang-15"]);
        let path = Some(dir.path().as_os_str());
        assert_eq!(Clang::find(Some("clang-15".as_ref()), path), Ok(Clang(dir.path().join("clang-15"))));
        let absolute = dir.path().join("clang");
        assert_eq!(Clang::find(Some(absolute.as_os_str()), None), Ok(Clang(absolute)));
        let missing = Clang::find(Some("clang-16".as_ref()), path).expect_err("not there");
        assert_eq!(missing.to_string(), "CLANG=clang-16: no such program");
    }

    #[test]
    fn missing_is_one_sentence_with_the_package() {
        let dir = folder(&["gcc"]);
        let missing = Clang::find(None, Some(dir.path().as_os_str())).expect_err("not there").to_string();
        assert!(missing.ends_with("apt-get install clang"), "{missing}");
        assert_eq!(missing.lines().count(), 1);
        assert!(Clang::find(None, None).is_err());
    }
}
