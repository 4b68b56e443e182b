//! `pathlab canary status`: how the steering stands, once or on a screen that is redrawn.

use std::{
    collections::VecDeque,
    fmt::Write,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use pathlab_canary::{
    Experiment,
    steer::{self, Packets, Status},
};
use serde_json::json;

use super::{options, standing};
use crate::{
    Global,
    exit::Exit,
    live, output,
    progress::Screen,
    report::{Table, lasting, spaced},
    stop::Interrupt,
};

/// Looks that "now" is made of, the first and the last among them.
const NOW: usize = 11;

/// How it stands, after a while of watching where that is wanted.
pub(super) fn status(experiment: &Experiment, watch: bool, global: &Global) -> Result<Exit> {
    if watch && follow(experiment, global)? && global.json {
        return Ok(Exit::Done);
    }
    standing::told(experiment, global)
}

/// Watches until a signal comes or nobody steers; whether there was anything to see.
fn follow(experiment: &Experiment, global: &Global) -> Result<bool> {
    let interrupt = Interrupt::on_signals()?;
    let screen = if global.json { Screen::none() } else { Screen::new() };
    let began = Instant::now();
    let mut looks: VecDeque<(Duration, Packets)> = VecDeque::with_capacity(NOW);
    while !interrupt.flag().load(Ordering::Relaxed) {
        let status = match steer::status(&experiment.experiment.name, &options()) {
            // What is said instead comes after the screen.
            Err(steer::Error::NotRunning { .. } | steer::Error::Silent { .. }) => break,
            outcome => outcome?,
        };
        if looks.len() == NOW {
            looks.pop_front();
        }
        looks.push_back((began.elapsed(), status.observed.packets));
        if global.json {
            output::line("canary", &json!({ "status": status }))?;
        }
        screen.show(&text(&experiment.experiment.name, &status, &looks));
        thread::sleep(live::EVERY);
    }
    screen.finish();
    Ok(!looks.is_empty())
}

/// What it amounts to, in the look of the other screens: what goes on, now beside all, and what "now" is.
fn text(name: &str, status: &Status, looks: &VecDeque<(Duration, Packets)>) -> String {
    let (Some((from, earlier)), Some((to, all))) = (looks.front(), looks.back()) else { return String::new() };
    let span = to.saturating_sub(*from);
    let seen = &status.observed;
    let share = seen.share.map_or_else(|| "no share".to_owned(), spaced);
    let gate = match (&status.halted, seen.lease_left) {
        (Some(halt), _) => format!("halted, every session on control: {halt}"),
        (None, Some(left)) => format!("lease {}, {} left", lasting(status.lease), lasting(left)),
        (None, None) => "the gate is shut: every session on control".to_owned(),
    };
    let mut text = format!("{:.0} s   {name}: {share} on the canary   {gate}\n", to.as_secs_f64());
    let mut table = Table::new(["packets", "now, a second", "all"]);
    for (arm, earlier, all) in [
        ("control", earlier.control, all.control),
        ("canary", earlier.canary, all.canary),
        ("held on control", earlier.held, all.held),
    ] {
        let rate = all.saturating_sub(earlier) as f64 / span.as_secs_f64().max(1e-9);
        table.row([arm.to_owned(), format!("{rate:.0}"), all.to_string()]);
    }
    let _ = write!(text, "{table}");
    match (&status.departures, &status.unproven) {
        (Some(left), _) => {
            let _ = writeln!(text, "astray: control {}, canary {}", left.control_astray, left.canary_astray);
        }
        (None, reason) => {
            let _ = writeln!(text, "unproven by which path they leave: {}", reason.as_deref().unwrap_or_default());
        }
    }
    if status.guardian.is_none() {
        let _ =
            writeln!(text, "its guardian died: should it be killed too, `canary rollback` has to take the rest back");
    }
    let _ = writeln!(text, "canary sessions in the last minute: {}", seen.canary_sessions);
    let _ = write!(text, "now: the last {:.0} s", span.as_secs_f64());
    text
}

#[cfg(test)]
mod tests {
    use pathlab_canary::steer::{Departures, Observed};

    use super::*;

    #[test]
    fn it_looks_like_the_other_screens() {
        let at = |control, canary| Packets { control, canary, held: 0 };
        let looks = [(Duration::from_secs(7), at(1_000, 100)), (Duration::from_secs(12), at(6_000, 1_100))].into();
        let status = Status {
            observed: Observed {
                experiment: "e2e".to_owned(),
                share: Some("15%".parse().unwrap()),
                lease_left: Some(Duration::from_millis(431)),
                packets: at(6_000, 1_100),
                canary_sessions: 42,
            },
            departures: Some(Departures { control: 6_000, canary: 1_100, ..Departures::default() }),
            unproven: None,
            halted: None,
            lease: Duration::from_millis(500),
            pid: 1,
            guardian: Some(2),
        };
        let wanted = "12 s   e2e: 15 % on the canary   lease 500 ms, 431 ms left\n\
                      packets          now, a second   all\n\
                      control                   1000  6000\n\
                      canary                     200  1100\n\
                      held on control              0     0\n\
                      astray: control 0, canary 0\n\
                      canary sessions in the last minute: 42\n\
                      now: the last 5 s";
        assert_eq!(text("e2e", &status, &looks), wanted);
    }
}
