//! The figures as small SVGs: one path for each class of colour, so that a fortnight of six ISPs stays a small page.
//!
//! Colours differ in lightness first, so that they part in grey and for every kind of colour vision; lines differ in dashes, bars in pattern.

use std::fmt::Write;

use super::{
    ledger::{Split, Stage},
    markup::Markup,
    model::arm_name,
    sessions::{Curve, Curves, Evenings, Panel},
    text::signed_span,
};
use crate::report::span;

/// From fast to slow, each darker than the one before.
pub(super) const SHADES: [&str; 7] = ["#e8eff6", "#c6daea", "#9ac1dc", "#6a9fc8", "#3f78ad", "#1f4e85", "#0a2450"];
/// Where so many sessions heard nothing that there is no percentile.
pub(super) const SILENT: &str = "#000";
/// Shares of loss from which a bar is so many steps high.
pub(super) const LOSSES: [f64; 4] = [0.0, 0.001, 0.01, 0.05];
const LOSS_COLOUR: &str = "#b3400e";
const LABELS: f64 = 76.0;
const ROW: f64 = 19.0;
const HEAT: f64 = 12.0;
const STRIP: f64 = 5.0;

/// Limits between the shades, in nanoseconds: six, between the fastest and the slowest bin of all panels.
pub(super) fn limits(evenings: &Evenings) -> [u64; 6] {
    let mut values: Vec<u64> =
        evenings.panels.iter().flat_map(|panel| &panel.cells).filter_map(|cell| cell.p95_ns).collect();
    values.sort_unstable();
    let (Some(low), Some(high)) = (values.first(), values.last()) else { return [0; 6] };
    let (low, high) = (*low as f64, (*high as f64).max(*low as f64 + 1.0));
    let logarithmic = high > 8.0 * low && low > 0.0;
    std::array::from_fn(|at| {
        let share = (at + 1) as f64 / 7.0;
        let limit = if logarithmic { low * (high / low).powf(share) } else { low + (high - low) * share };
        two_digits(limit)
    })
}

fn two_digits(value: f64) -> u64 {
    let unit = 10_f64.powf((value.max(1.0)).log10().floor() - 1.0);
    ((value / unit).round() * unit) as u64
}

/// Dates down, time of day across; below each row its loss.
pub(super) fn heatmap(evenings: &Evenings, panel: &Panel, limits: &[u64; 6]) -> Markup {
    let columns = evenings.columns.len().max(1);
    let cell = (360.0 / columns as f64).clamp(2.5, 56.0);
    let (width, height) = (LABELS + cell * columns as f64 + 8.0, ROW * evenings.rows.len() as f64 + 20.0);
    let mut svg = start(width, height, &format!("{} {}", panel.cohort.place(), panel.cohort.arm()));
    let place = |row: usize, column: usize| (LABELS + cell * column as f64, ROW * row as f64);
    let mut shades: [String; 7] = Default::default();
    let (mut silent, mut loss) = (String::new(), String::new());
    let mut measured = vec![false; columns * evenings.rows.len()];
    for bin in &panel.cells {
        measured[bin.row * columns + bin.column] = true;
        let (x, y) = place(bin.row, bin.column);
        let path = match bin.p95_ns {
            Some(value) => &mut shades[limits.iter().filter(|limit| value >= **limit).count()],
            None => &mut silent,
        };
        rectangle(path, x, y, (cell - 0.6).max(2.0), HEAT);
        if let Some(lost) = bin.lost.filter(|lost| *lost > 0) {
            let share = lost as f64 / bin.sent.max(1) as f64;
            let steps = LOSSES.iter().filter(|from| share > **from).count();
            let tall = STRIP * steps as f64 / LOSSES.len() as f64;
            rectangle(&mut loss, x, y + HEAT + STRIP - tall, (cell - 0.6).max(2.0), tall);
        }
    }
    let mut empty = String::new();
    for (at, _) in measured.iter().enumerate().filter(|(_, measured)| !**measured) {
        let (x, y) = place(at / columns, at % columns);
        let _ = write!(empty, "M{:.1} {:.1}h1.2", x + cell / 2.0 - 0.6, y + HEAT / 2.0);
    }
    for (row, name) in evenings.rows.iter().enumerate() {
        let y = ROW * row as f64;
        let name = if name == "aa" { "A/A prelude" } else { name };
        svg.element("text", &[("x", &(LABELS - 6.0)), ("y", &(y + HEAT - 2.0)), ("text-anchor", &"end")], name);
        let base = format!("M{LABELS} {:.1}h{:.1}", y + HEAT + STRIP + 0.25, cell * columns as f64);
        svg.empty("path", &[("d", &base), ("class", &"hair")]);
    }
    for (path, fill) in shades.iter().zip(SHADES).chain([(&silent, SILENT), (&loss, LOSS_COLOUR)]) {
        if !path.is_empty() {
            svg.empty("path", &[("d", path), ("fill", &fill)]);
        }
    }
    if !empty.is_empty() {
        svg.empty("path", &[("d", &empty), ("class", &"empty")]);
    }
    if cell >= 50.0 {
        for bin in &panel.cells {
            let Some(value) = bin.p95_ns else { continue };
            let (x, y) = place(bin.row, bin.column);
            let dark = limits.iter().filter(|limit| value >= **limit).count() >= 4;
            let fill = if dark { "#fff" } else { "#111" };
            let at: [(&'static str, &dyn std::fmt::Display); 5] = [
                ("x", &(x + cell / 2.0)),
                ("y", &(y + HEAT - 2.5)),
                ("text-anchor", &"middle"),
                ("fill", &fill),
                ("font-size", &9),
            ];
            svg.element("text", &at, span(value));
        }
    }
    // A time at each full hour, as far as they do not touch.
    let mut free = 0.0;
    for (column, time) in evenings.columns.iter().enumerate() {
        let (x, _) = place(0, column);
        if x >= free && (time.ends_with(":00") || columns <= 6) {
            let y = ROW * evenings.rows.len() as f64 + 11.0;
            svg.element("text", &[("x", &format!("{x:.1}")), ("y", &y)], time);
            free = x + 40.0;
        }
    }
    svg.close("svg");
    svg
}

/// What the shades and the strip mean.
pub(super) fn legend(limits: &[u64; 6]) -> Markup {
    let mut svg = start(600.0, 42.0, "what the shades mean");
    for (at, shade) in SHADES.iter().enumerate() {
        let x = 4.0 + 56.0 * at as f64;
        svg.empty("rect", &[("x", &x), ("y", &2), ("width", &55), ("height", &12), ("fill", shade)]);
        if at > 0 {
            let label = [("x", &(x - 0.5) as &dyn std::fmt::Display), ("y", &26), ("text-anchor", &"middle")];
            svg.element("text", &label, span(limits[at - 1]));
        }
    }
    let mut x = 410.0;
    svg.empty("rect", &[("x", &x), ("y", &2), ("width", &12), ("height", &12), ("fill", &SILENT)]);
    svg.element("text", &[("x", &(x + 16.0)), ("y", &12)], "no reply");
    x += 74.0;
    svg.empty("path", &[("d", &format!("M{x} 8h1.6")), ("class", &"empty")]);
    svg.element("text", &[("x", &(x + 6.0)), ("y", &12)], "not measured");
    for (step, text) in ["any loss", "> 0.1 %", "> 1 %", "> 5 %"].iter().enumerate() {
        let (x, tall) = (4.0 + 70.0 * step as f64, STRIP * (step + 1) as f64 / 4.0);
        let mut bar = String::new();
        rectangle(&mut bar, x, 39.0 - tall, 10.0, tall);
        svg.empty("path", &[("d", &bar), ("fill", &LOSS_COLOUR)]);
        svg.element("text", &[("x", &(x + 14.0)), ("y", &40)], text);
    }
    svg.close("svg");
    svg
}

/// Percentiles of one ISP and family by arm; across 1 − q on a logarithmic scale, so that the tail has room.
pub(super) fn curves(data: &Curves, of: &[&Curve], highest: u64) -> Markup {
    let (width, height) = (330.0, 176.0);
    let (left, top, wide, tall) = (54.0, 8.0, 164.0, 142.0);
    let name = of.first().map_or_else(String::new, |curve| format!("percentiles of {}", curve.cohort.place()));
    let mut svg = start(width, height, &name);
    let longest = of.iter().map(|curve| curve.rtt_ns.len()).max().unwrap_or(0);
    let across = |per_10000: u32| -(1.0 - f64::from(per_10000) / 1e4).log10();
    let last = data.levels_per_10000.get(longest.saturating_sub(1)).map_or(1.0, |level| across(*level)).max(1.3);
    let x = |per_10000: u32| left + wide * across(per_10000) / last;
    let most = two_digits_up(highest).max(1);
    let y = |value: u64| top + tall * (1.0 - value as f64 / most as f64);
    for (level, text) in [(5_000, "50"), (9_000, "90"), (9_500, ""), (9_900, "99"), (9_990, "99.9")] {
        if across(level) <= last + 0.001 {
            let line = format!("M{:.1} {top}v{tall}", x(level));
            svg.empty("path", &[("d", &line), ("class", &"hair")]);
            let at = [
                ("x", &format!("{:.1}", x(level)) as &dyn std::fmt::Display),
                ("y", &(top + tall + 13.0)),
                ("text-anchor", &"middle"),
            ];
            svg.element("text", &at, text);
        }
    }
    for part in 0..=2 {
        let value = most * part / 2;
        let at = [
            ("x", &(left - 5.0) as &dyn std::fmt::Display),
            ("y", &format!("{:.1}", y(value) + 3.5)),
            ("text-anchor", &"end"),
        ];
        svg.element("text", &at, if part == 0 { "0".to_owned() } else { span(value) });
        svg.empty("path", &[("d", &format!("M{left} {:.1}h{wide}", y(value))), ("class", &"hair")]);
    }
    let mut labels: Vec<(f64, String, &str)> = Vec::new();
    for curve in of {
        let mut path = String::new();
        let mut end = None;
        for (level, value) in data.levels_per_10000.iter().zip(&curve.rtt_ns) {
            let Some(value) = value else { continue };
            let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, x(*level), y(*value));
            end = Some(*value);
        }
        let Some(end) = end else { continue };
        let class = match curve.cohort.arm {
            Some(pathlab_record::Arm::Canary) => "line canary",
            _ => "line control",
        };
        svg.empty("path", &[("d", &path), ("class", &class)]);
        labels.push((y(end), format!("{} {}", arm_name(curve.cohort.arm), span(end)), class));
    }
    // Labels stand at the ends of their lines, moved apart where those meet.
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = 0.0_f64;
    for (at, text, _) in labels {
        let at = at.max(free);
        svg.element("text", &[("x", &(left + wide + 5.0)), ("y", &format!("{:.1}", at + 3.5))], text);
        free = at + 12.0;
    }
    svg.close("svg");
    svg
}

fn two_digits_up(value: u64) -> u64 {
    let unit = 10_u64.pow((value.max(1).ilog10()).saturating_sub(1));
    value.div_ceil(unit) * unit
}

/// Two bars a group: the mean of all, and of the slowest twentieth.
pub(super) fn stages(splits: &[Split]) -> Markup {
    let bar = 330.0;
    let left = 170.0;
    let height = 46.0 * splits.len() as f64 + 24.0;
    let mut svg = start(600.0, height, "where the time goes");
    svg.raw("<defs><pattern id=\"hatch\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect width=\"4\" height=\"4\" fill=\"#fff\"/><path d=\"M0 0v4\" stroke=\"#333\" stroke-width=\"1.4\"/></pattern></defs>");
    let total = |stages: &[Stage]| Split::shown(stages).map(|stage| stage.mean_ns.max(0)).sum::<i64>();
    let longest = splits.iter().flat_map(|split| [total(&split.all), total(&split.slowest)]).max().unwrap_or(1).max(1);
    for (at, split) in splits.iter().enumerate() {
        let y = 46.0 * at as f64 + 6.0;
        let name: String = split.name.chars().take(26).collect();
        svg.element(
            "text",
            &[("x", &(left - 60.0)), ("y", &(y + 10.0)), ("text-anchor", &"end"), ("class", &"strong")],
            name,
        );
        for (row, (what, stages)) in [("all", &split.all), ("slowest 5 %", &split.slowest)].into_iter().enumerate() {
            let y = y + 17.0 * row as f64;
            svg.element("text", &[("x", &(left - 6.0)), ("y", &(y + 10.0)), ("text-anchor", &"end")], what);
            let mut x = left;
            for stage in Split::shown(stages) {
                let width = bar * stage.mean_ns.max(0) as f64 / longest as f64;
                let class = class_of(&stage.name);
                let at: [(&'static str, &dyn std::fmt::Display); 5] = [
                    ("x", &format!("{x:.2}")),
                    ("y", &y),
                    ("width", &format!("{width:.2}")),
                    ("height", &13),
                    ("class", &class),
                ];
                svg.empty("rect", &at);
                x += width;
            }
            svg.element("text", &[("x", &format!("{:.1}", x + 5.0)), ("y", &(y + 10.5))], signed_span(total(stages)));
        }
    }
    let mut x = left;
    for (class, text) in
        [("probe", "probe host"), ("wire", "wire"), ("reflector", "reflector host"), ("merged", "not parted")]
    {
        let y = height - 14.0;
        svg.empty("rect", &[("x", &x), ("y", &y), ("width", &11), ("height", &11), ("class", &class)]);
        svg.element("text", &[("x", &(x + 15.0)), ("y", &(y + 9.5))], text);
        x += 24.0 + 6.2 * text.len() as f64;
    }
    svg.close("svg");
    svg
}

/// On which side a stage lies; several that cannot be parted may lie on more than one.
fn class_of(stage: &str) -> &'static str {
    match stage {
        "wire" => "wire",
        "probe_tx" | "probe_rx" | "probe_tx+probe_rx" => "probe",
        "residence" => "reflector",
        _ if stage.split('+').all(|part| part.starts_with("rx_") || part.starts_with("tx_") || part == "app") => {
            "reflector"
        }
        _ => "merged",
    }
}

fn start(width: f64, height: f64, label: &str) -> Markup {
    let mut svg = Markup::default();
    let view = format!("0 0 {width:.1} {height:.1}");
    let attributes: [(&'static str, &dyn std::fmt::Display); 4] =
        [("viewBox", &view), ("width", &format!("{width:.0}")), ("height", &format!("{height:.0}")), ("role", &"img")];
    svg.open("svg", &attributes).element("title", &[], label);
    svg
}

fn rectangle(path: &mut String, x: f64, y: f64, width: f64, height: f64) {
    let _ = write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_a_side() {
        let sides =
            ["wire", "probe_tx", "residence", "rx_kernel", "app", "tx_kernel+tx_nic", "probe_tx+wire"].map(class_of);
        assert_eq!(sides, ["wire", "probe", "reflector", "reflector", "reflector", "reflector", "merged"]);
    }

    #[test]
    fn limits_have_two_digits() {
        assert_eq!((two_digits(31_456_789.0), two_digits(0.0), two_digits_up(31_000_001)), (31_000_000, 0, 32_000_000));
    }
}
