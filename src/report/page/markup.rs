//! Markup that cannot be injected into: tags and names of attributes are constants of this program, whatever else there is goes through one escape.
//!
//! Text of others (labels, host names, errors) is shown as what it is: markup characters as entities, control and direction characters as visible
//! signs, and what is longer than a reader can use is cut, with its length told.

use std::fmt::{self, Display, Write};

/// Characters of a text that are shown.
const LONGEST: usize = 600;

/// A document, or a part of one, as it grows.
#[derive(Default)]
pub(super) struct Markup(String);

/// Attributes of a tag.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

impl Markup {
    /// Markup of this program's own.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, escaped.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        let _ = write!(self.0, "{}", Escaped(&text.to_string()));
        self
    }

    /// A start tag.
    pub(super) fn open(&mut self, name: &'static str, attributes: Attributes<'_>) -> &mut Self {
        self.tag(name, attributes);
        self.0.push('>');
        self
    }

    /// An end tag.
    pub(super) fn close(&mut self, name: &'static str) -> &mut Self {
        let _ = write!(self.0, "</{name}>");
        self
    }

    /// An element without content.
    pub(super) fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) -> &mut Self {
        self.tag(name, attributes);
        self.0.push_str("/>");
        self
    }

    /// An element with text.
    pub(super) fn element(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) -> &mut Self {
        self.open(name, attributes).text(text).close(name)
    }

    /// Another part.
    pub(super) fn append(&mut self, part: &Self) -> &mut Self {
        self.0.push_str(&part.0);
        self
    }

    /// The document.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn tag(&mut self, name: &'static str, attributes: Attributes<'_>) {
        let _ = write!(self.0, "<{name}");
        for (name, value) in attributes {
            // Values are the program's own, mostly figures: they are not cut as texts are.
            let _ = write!(self.0, " {name}=\"");
            value.to_string().chars().for_each(|character| push(&mut self.0, character));
            self.0.push('"');
        }
    }
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.0.len().min(2 * LONGEST));
        let whole = self.0.chars().count();
        self.0.chars().take(LONGEST).for_each(|character| push(&mut text, character));
        if whole > LONGEST {
            let _ = write!(text, "… ({whole} characters)");
        }
        f.write_str(&text)
    }
}

fn push(out: &mut String, character: char) {
    match character {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        // The pictures of control characters stand in their order.
        '\0'..='\x1f' => out.push(char::from_u32(0x2400 + character as u32).unwrap_or('\u{fffd}')),
        '\x7f' => out.push('\u{2421}'),
        _ if is_invisible(character) => {
            let _ = write!(out, "⟨U+{:04X}⟩", character as u32);
        }
        other => out.push(other),
    }
}

/// Characters that change what their neighbours look like, or look like nothing.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The same for a terminal: nothing of others may move its cursor.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(LONGEST) {
        match character {
            '\0'..='\x1f' | '\x7f' => push(&mut out, character),
            _ if is_invisible(character) => push(&mut out, character),
            other => out.push(other),
        }
    }
    if text.chars().count() > LONGEST {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_others_wrote_is_shown_as_text() {
        let mut markup = Markup::default();
        markup.element("td", &[("class", &"a\"><script>")], "<script>alert('x')</script>\x1b[31m\u{202e}\0");
        assert_eq!(
            markup.into_string(),
            "<td class=\"a&quot;&gt;&lt;script&gt;\">&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\u{241b}[31m⟨U+202E⟩\u{2400}</td>"
        );
        assert_eq!(plain("a\x1b[2Jb\n"), "a\u{241b}[2Jb\u{240a}");
    }

    #[test]
    fn what_is_too_long_is_cut_and_its_length_told() {
        let mut markup = Markup::default();
        markup.text("x".repeat(10_000));
        let text = markup.into_string();
        assert!(text.len() < 700 && text.ends_with("… (10000 characters)"), "{text}");
    }

    proptest! {
        #[test]
        fn no_text_opens_a_tag_or_leaves_an_attribute(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut markup = Markup::default();
            markup.open("p", &[("title", &text)]).text(&text).close("p");
            let out = markup.into_string();
            prop_assert_eq!(out.matches('<').count(), 2);
            prop_assert_eq!(out.matches('"').count(), 2);
            prop_assert!(!out.chars().any(|character| character.is_control()));
        }
    }
}
