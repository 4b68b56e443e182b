//! Lines of comma-separated values, as spreadsheets, help desks and publishers of tables write them (RFC 4180).

use std::borrow::Cow;

/// The fields of one line; a line break inside quotes is not understood, and a quote that never closes ends with the line.
pub fn fields(line: &str) -> Vec<Cow<'_, str>> {
    let mut out = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',');
            out.push(Cow::Borrowed(&rest[..end.unwrap_or(rest.len())]));
            match end {
                Some(end) => rest = &rest[end + 1..],
                None => return out,
            }
            continue;
        };
        let mut text = String::new();
        let mut left = quoted;
        loop {
            let Some(end) = left.find('"') else {
                text.push_str(left);
                left = "";
                break;
            };
            text.push_str(&left[..end]);
            left = &left[end + 1..];
            match left.strip_prefix('"') {
                Some(more) => {
                    text.push('"');
                    left = more;
                }
                None => break,
            }
        }
        out.push(Cow::Owned(text));
        match left.find(',') {
            Some(comma) => rest = &left[comma + 1..],
            None => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_keep_their_commas() {
        assert_eq!(fields(r#"a,"b, ""c""",,d"#), ["a", r#"b, "c""#, "", "d"]);
        assert_eq!(fields(r#""open"#), ["open"]);
    }
}
