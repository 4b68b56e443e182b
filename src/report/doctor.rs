//! An examination as text: one line a question, the remedy under what does not work.

use std::fmt::Write;

use crate::doctor::{Answer, Check, Examination, Port};

/// The whole examination.
pub(crate) fn text(examination: &Examination) -> String {
    let Examination { host, loopback, veth, ports } = examination;
    let all = [host, loopback, veth].into_iter().chain(ports.iter().map(|port| &port.checks));
    let width = all.flatten().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    section(&mut text, "host", host, width);
    section(&mut text, "loopback: packets between two sockets", loopback, width);
    section(&mut text, "veth: every datapath, in namespaces made for it", veth, width);
    for port in ports {
        section(&mut text, &heading(port), &port.checks, width);
    }
    text
}

fn heading(port: &Port) -> String {
    let Port { interface, driver, rule, .. } = port;
    let driver = driver.as_deref().unwrap_or("no driver");
    let mut heading = format!("{interface}: {driver}");
    for quirk in rule.iter().flat_map(|rule| rule.quirks) {
        let _ = write!(heading, "\n  note: {}", quirk.sentence());
    }
    heading
}

fn section(text: &mut String, heading: &str, checks: &[Check], width: usize) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{heading}");
    for (place, Check { what, answer, because, remedy }) in checks.iter().enumerate() {
        // One command may mend several lines: under the last of them.
        let said_below = checks.get(place + 1).is_some_and(|next| next.remedy == *remedy);
        let answer = match answer {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::CannotTell => "cannot tell",
        };
        let _ = writeln!(text, "  {what:<width$}  {answer:<11}  {because}");
        if let Some(remedy) = remedy.as_ref().filter(|_| !said_below) {
            let _ = writeln!(text, "  {:<width$}  {:<11}  → {remedy}", "", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_under_each_other_with_the_remedy_below() {
        let host = vec![Check::yes("kernel", "Linux 6.18"), Check::no("CAP_BPF", "not held", "run as root")];
        let text = text(&Examination { host, loopback: vec![], veth: vec![], ports: vec![] });
        let wanted = "host\n  kernel   yes          Linux 6.18\n  CAP_BPF  no           not held\n                        → run as root\n";
        assert!(text.starts_with(wanted), "{text}");
        let alike = ["CAP_BPF", "CAP_PERFMON"].map(|name| Check::no(name, "not held", "run as root"));
        let text = super::text(&Examination { host: alike.into(), loopback: vec![], veth: vec![], ports: vec![] });
        assert!(
            text.matches("run as root").count() == 1 && text.contains("CAP_PERFMON  no           not held\n   "),
            "{text}"
        );
    }
}
