//! The key file: TOML that its owner alone may read.
//!
//! ```toml
//! protects = "authenticated"      # the default; or "extensions": TLVs of unauthenticated packets
//! default = "<64 hexadecimal digits>"
//!
//! [ssid]
//! 42 = "<64 hexadecimal digits>"  # the key of the sessions with this SSID
//! ```

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use serde::{Deserialize, Deserializer, de};
use zeroize::Zeroizing;

use super::{Key, KeyError, Keys, Protection, SHORTEST_KEY};

/// The longest file that is read: 65,536 keys of 64 octets fit.
const LONGEST: u64 = 16 << 20;

impl Keys {
    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, others than its owner may read or write it, a line is wrong or of no field that is known, a key is too
    /// short, or there is none.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        // of the file that was opened, whatever its name points to by now
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode });
        }
        if about.len() > LONGEST {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
        let mut text = Zeroizing::new(String::with_capacity(about.len() as usize + 1));
        (&mut file).take(LONGEST).read_to_string(&mut text).map_err(unreadable)?;
        let keys = Self::parse(path, &text)?;
        if keys.default.is_none() && keys.by_ssid.is_empty() {
            return Err(KeyError::Empty { path: path.to_owned() });
        }
        Ok(keys)
    }

    /// Keys from the text of a key file; a text without one gives none. `path` is what errors call it.
    ///
    /// # Errors
    /// [`KeyError::Line`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, KeyError> {
        let Document { protects, default, ssid } = toml::from_str(text).map_err(|error| KeyError::Line {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            // not the error as it prints itself, which shows the line
            what: without_keys(error.message()),
        })?;
        Ok(Self {
            protection: protects,
            default,
            by_ssid: ssid.into_iter().map(|(Ssid(ssid), key)| (ssid, key)).collect(),
        })
    }
}

/// A message about what is no field may name a key that stands where a field should.
fn without_keys(message: &str) -> String {
    let digits = message.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max();
    match digits.is_some_and(|digits| digits >= SHORTEST_KEY) {
        true => "a key stands where a field should; write `default = \"...\"`".to_owned(),
        false => message.to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    protects: Protection,
    default: Option<Key>,
    #[serde(default)]
    ssid: HashMap<Ssid, Key>,
}

#[derive(PartialEq, Eq, Hash)]
struct Ssid(u16);

impl<'de> Deserialize<'de> for Ssid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ssid;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an SSID, 1 to 65535")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ssid, E> {
                // one way to write it, so that none stands twice
                let number = text.parse().ok().filter(|ssid: &u16| *ssid != 0 && ssid.to_string() == text);
                number.map(Ssid).ok_or_else(|| E::custom("[ssid] has keys by SSID, 1 to 65535"))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key in hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                let secret =
                    hexadecimal(text).ok_or_else(|| E::custom("a key is an even number of hexadecimal digits"))?;
                Key::new(&secret).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

fn hexadecimal(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut octets = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let digit = |byte: u8| char::from(byte).to_digit(16);
    for pair in text.as_bytes().chunks(2) {
        let &[high, low] = pair else { return None };
        octets.push((digit(high)? << 4 | digit(low)?) as u8);
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "00112233445566778899aabbccddeeff";

    fn load(text: &str, mode: u32) -> Result<Keys, KeyError> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("ours");
        Keys::load(file.path())
    }

    #[test]
    fn a_file_gives_a_default_and_keys_by_ssid() {
        let other = SECRET.replace('f', "E");
        let keys = load(&format!("default = \"{SECRET}\"\n[ssid]\n42 = \"{other}\"\n"), 0o600).expect("keys");
        assert!(keys.authenticate());
        let octets: Vec<u8> = (0..16).map(|place| place * 0x11).collect();
        let tag = |ssid| keys.find(ssid).expect("a key").hmac(&[b"x"]);
        assert_eq!(tag(1), Key::new(&octets).expect("long enough").hmac(&[b"x"]));
        assert_ne!(tag(42), tag(1));
        assert!(
            !load(&format!("protects = \"extensions\"\ndefault = \"{SECRET}\""), 0o400).expect("keys").authenticate()
        );
    }

    #[test]
    fn what_is_wrong_is_said_by_line_and_without_a_key() {
        for (text, line, what) in [
            (format!("default = \"{SECRET}\"\nrotate = 1"), 2, "rotate"),
            ("\ndefault = \"0011\"".to_owned(), 2, "2 octets"),
            (format!("default = \"{SECRET}0\""), 1, "even number"),
            (format!("default = \"{}\"", SECRET.replace('0', "g")), 1, "hexadecimal"),
            (format!("[ssid]\n0 = \"{SECRET}\""), 2, "1 to 65535"),
            (format!("[ssid]\n65536 = \"{SECRET}\""), 2, "1 to 65535"),
            (format!("protects = \"all\"\ndefault = \"{SECRET}\""), 1, "authenticated"),
            (format!("default = {SECRET}"), 1, ""),
            (format!("{SECRET} = 1"), 1, "a key stands where a field should"),
        ] {
            let error = load(&text, 0o600).expect_err(&text);
            let said = error.to_string();
            let KeyError::Line { line: at, .. } = &error else { panic!("{text}: {error:?}") };
            assert_eq!(*at, line, "{text}: {said}");
            assert!(said.contains(what), "{text}: {said}");
            let shown = format!("{said} {error:?}");
            assert!(!shown.contains(&SECRET[4..20]), "{shown}");
        }
        assert!(matches!(load("", 0o600), Err(KeyError::Empty { .. })));
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let error = load(&format!("default = \"{SECRET}\""), mode).expect_err("open to others");
            assert!(matches!(error, KeyError::Open { mode: said, .. } if said == mode));
        }
        let none = Keys::load(Path::new("/nonexistent/keys")).expect_err("no file");
        assert!(matches!(none, KeyError::Unreadable { .. }));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(default|ssid|protects|[\\[\\]=\" \n0-9a-f]){0,40}") {
            let _ = Keys::parse(Path::new("keys"), &text);
        }
    }
}
