//! A scenario as text: the picture first, then what its links carry and what happens when.

use std::{fmt::Write as _, time::Duration};

use super::{Conditions, Fault, LinkEnd, Scenario};

impl Scenario {
    /// Draws the topology alone, from the clients on the left, under the summary.
    pub fn picture(&self) -> String {
        let mut text = format!("{}: {}\n\n", self.name, self.summary);
        draw(&mut text, &self.layers());
        text
    }

    /// Draws the topology, from the clients on the left, and lists rates, loads and windows.
    pub fn show(&self) -> String {
        let mut text = self.picture();
        text.push('\n');
        for link in &self.links {
            let [left, right] = &link.ends;
            let _ = writeln!(text, "  {:<22} {:<22} {}", place(left), place(right), capacity(left, right));
        }
        if let Some(arms) = &self.arms {
            let hops = |hops: &super::Hops| {
                let hops =
                    [&hops.v4, &hops.v6].map(|hop| hop.as_ref().map(|hop| format!("{} dev {}", hop.via, hop.dev)));
                hops.into_iter().flatten().collect::<Vec<_>>().join(", ")
            };
            let _ = writeln!(text, "\n  {} sends by {}", arms.node, hops(&arms.control));
            let _ = writeln!(text, "  {:width$} or by   {}", "", hops(&arms.canary), width = arms.node.len());
        }
        text.push('\n');
        for window in &self.windows {
            let _ = writeln!(
                text,
                "  {:>5.1} to {:>5.1} s  {}",
                window.start.as_secs_f64(),
                window.end.as_secs_f64(),
                window.name
            );
        }
        for load in &self.loads {
            let (rate, wobble) = (rate(load.rate), load.wobble * 100.0);
            let _ = writeln!(
                text,
                "  load of {rate} ± {wobble} % from {} to {} in {} windows",
                load.node,
                load.to,
                load.during.len()
            );
        }
        for game in &self.games {
            let _ = writeln!(
                text,
                "  game of {} players from {} to {}, {:.0} snapshots of {} bytes a second each",
                game.players,
                game.node,
                game.to,
                1.0 / game.tick.as_secs_f64(),
                game.snapshot
            );
        }
        for bulk in &self.bulks {
            let (flows, congestion) = (bulk.flows, bulk.congestion.name());
            let _ =
                writeln!(text, "  {}: TCP ({congestion}, {flows} flows) from {} to {}", bulk.name, bulk.node, bulk.to);
        }
        for fault in &self.faults {
            let family = fault.family.map_or(String::new(), |family| format!(", IPv{family} alone"));
            let times = fault.during.len();
            let _ = writeln!(
                text,
                "  fault {}: {}:{}{family}: {}, {times} times",
                fault.name,
                fault.node,
                fault.dev,
                harm(fault)
            );
        }
        for shift in &self.shifts {
            let times = shift.during.len();
            let _ = writeln!(
                text,
                "  shift {}: {} sends {} by {} dev {}, {times} times",
                shift.name, shift.node, shift.to, shift.via, shift.dev
            );
        }
        for expected in &self.expectations {
            let _ = writeln!(text, "  expects {expected}{}", bounds(expected));
        }
        text
    }

    /// Node names by their distance from the probe's clients, or from the first node.
    fn layers(&self) -> Vec<Vec<&str>> {
        let first =
            self.probe.as_ref().map(|probe| probe.from.as_str()).or(self.nodes.first().map(|node| node.name.as_str()));
        let mut layers: Vec<Vec<&str>> = first.map(|first| vec![vec![first]]).unwrap_or_default();
        let mut seen: Vec<&str> = layers.concat();
        while let Some(last) = layers.last() {
            let beyond = |node: &&str| {
                self.links.iter().map(|link| [&link.ends[0].node, &link.ends[1].node]).any(|[left, right]| {
                    last.contains(&left.as_str()) && right == node || last.contains(&right.as_str()) && left == node
                })
            };
            let next: Vec<&str> = self
                .nodes
                .iter()
                .map(|node| node.name.as_str())
                .filter(|node| !seen.contains(node))
                .filter(beyond)
                .collect();
            if next.is_empty() {
                break;
            }
            seen.extend(&next);
            layers.push(next);
        }
        layers
    }
}

fn harm(fault: &Fault) -> String {
    if fault.down {
        return "nothing arrives".to_owned();
    }
    let added = (!fault.add_delay.is_zero()).then(|| format!("{} more", milliseconds(fault.add_delay)));
    let conditions = conditions(&Conditions {
        loss: fault.loss.unwrap_or_default(),
        reorder: fault.reorder.unwrap_or_default(),
        ..Conditions::default()
    });
    [added, conditions].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn bounds(expected: &super::Expectation) -> String {
    let lower = expected.at_least.iter().map(|bound| format!(" ≥ {}", bound.text));
    lower.chain(expected.at_most.iter().map(|bound| format!(" ≤ {}", bound.text))).collect()
}

/// One column for each layer; lines fan out between a layer of one node and its neighbours.
fn draw(text: &mut String, layers: &[Vec<&str>]) {
    let rows = layers.iter().map(Vec::len).max().unwrap_or(0);
    let middle = rows.saturating_sub(1) / 2;
    for row in 0..rows {
        text.push_str("  ");
        for (index, layer) in layers.iter().enumerate() {
            let width = layer.iter().map(|name| name.len()).max().unwrap_or(0);
            let own = if layer.len() == 1 { (row == middle).then_some(layer[0]) } else { layer.get(row).copied() };
            let _ = match own {
                Some(name) if index + 1 < layers.len() && layer.len() > 1 => write!(text, "{name:─<width$}"),
                Some(name) => write!(text, "{name:<width$}"),
                None => write!(text, "{:width$}", ""),
            };
            let Some(next) = layers.get(index + 1) else { continue };
            let fan = layer.len().max(next.len());
            text.push_str(match (layer.len() == 1, next.len() == 1) {
                (true, true) if row == middle => " ──── ",
                (true, false) => arms(row, middle, fan, [" ──┬─ ", "   ├─ ", " ──┼─ ", "   └─ ", " ──── "]),
                (false, true) => arms(row, middle, fan, ["──┬── ", "──┤   ", "──┼── ", "──┘   ", "───── "]),
                _ => "      ",
            });
        }
        let end = text.trim_end().len();
        text.truncate(end);
        text.push('\n');
    }
}

/// Of a fan of `of` branches whose stem is in row `middle`: [first with the stem, branch, branch with the stem, last, only].
fn arms(row: usize, middle: usize, of: usize, signs: [&'static str; 5]) -> &'static str {
    match row {
        _ if of == 1 => signs[4],
        0 if middle == 0 => signs[0],
        0 => signs[1],
        _ if row + 1 == of => signs[3],
        _ if row >= of => "      ",
        _ if row == middle => signs[2],
        _ => signs[1],
    }
}

fn place(end: &LinkEnd) -> String {
    format!("{}:{}", end.node, end.dev)
}

fn capacity(left: &LinkEnd, right: &LinkEnd) -> String {
    let one = |arrow: &str, end: &LinkEnd| {
        let egress = end.egress.map(|egress| format!("{}, {}", rate(egress.rate), egress.queue));
        let [v4, v6] = &end.conditions;
        let conditions = match v4 == v6 {
            true => vec![conditions(v4)],
            false => vec![
                conditions(v4).map(|text| format!("IPv4 {text}")),
                conditions(v6).map(|text| format!("IPv6 {text}")),
            ],
        };
        let ring = end.ring.map(|ring| format!("received into {} descriptors", ring.descriptors));
        let parts: Vec<String> = [egress].into_iter().chain(conditions).chain([ring]).flatten().collect();
        (!parts.is_empty()).then(|| format!("{arrow} {}", parts.join(", ")))
    };
    let both: Vec<String> = [one("→", left), one("←", right)].into_iter().flatten().collect();
    if both.is_empty() { "as fast as it goes".to_owned() } else { both.join("; ") }
}

/// Delay, loss and reordering in words; `None` where there is nothing to say.
fn conditions(conditions: &Conditions) -> Option<String> {
    let Conditions { delay, loss, reorder, .. } = conditions;
    let parts = [
        (!delay.is_zero()).then(|| milliseconds(*delay)),
        (loss.share > 0.0).then(|| match loss.burst {
            None => format!("{} % lost", loss.share * 100.0),
            Some(burst) => format!("{} % lost in runs of {burst}", loss.share * 100.0),
        }),
        (reorder.share > 0.0)
            .then(|| format!("{} % held back for {}", reorder.share * 100.0, milliseconds(reorder.hold))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn milliseconds(span: Duration) -> String {
    format!("{} ms", span.as_secs_f64() * 1e3)
}

fn rate(bits: u64) -> String {
    match bits {
        1_000_000_000.. => format!("{} Gbit/s", bits as f64 / 1e9),
        1_000_000.. => format!("{} Mbit/s", bits as f64 / 1e6),
        _ => format!("{} kbit/s", bits as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_drawn_from_clients_to_server() {
        let shown = Scenario::load("demo", None).expect("sound").show();
        let picture: Vec<&str> = shown.lines().skip(2).take(2).collect();
        assert_eq!(picture, ["  clients ──┬─ transit-a──┬── server", "            └─ transit-b──┘"]);
        assert!(
            shown.contains("transit-a:clients      clients:a              → 30 Mbit/s, tail drop at 200 packets"),
            "{shown}"
        );
    }
}
