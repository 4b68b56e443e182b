//! Reflected packets a second: at no loss, at twice that rate, and with all that the generator can send.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    contestant::{ALL, Contestant, Programs},
    generator::Generator,
    search::{Criterion, Held, Trial, no_loss},
    turns::order,
    wire::Wire,
};

/// How the rates are measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds of all contestants.
    pub rounds: usize,
    /// Of one trial.
    pub span: Duration,
    /// What counts as no loss.
    pub criterion: Criterion,
}

/// One contestant in one round.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// At no loss, packets a second.
    pub no_loss: f64,
    /// The loss had not begun where the generator ended.
    pub generator_bound: bool,
    /// Replies a second with twice that offered; absent where the generator cannot.
    pub doubled: Option<f64>,
    /// Replies a second with all that the generator can send.
    pub flat_out: f64,
    /// What the generator then sent.
    pub offered: f64,
}

/// Rounds by contestant, in the order of [`ALL`].
///
/// # Errors
/// A contestant that does not start or answer.
pub fn measure(wire: &Wire, programs: &Programs, plan: &Plan) -> Result<Vec<Vec<Rates>>> {
    let mut rates = vec![Vec::new(); ALL.len()];
    for round in 0..plan.rounds {
        for at in order(ALL.len(), round) {
            let contestant = ALL[at];
            let measured = one(wire, programs, plan, contestant).with_context(|| contestant.name())?;
            eprintln!(
                "round {} {}: {:.0} at no loss, {:.0} of {:.0} flat out",
                round + 1,
                contestant.name(),
                measured.no_loss,
                measured.flat_out,
                measured.offered
            );
            rates[at].push(measured);
        }
    }
    Ok(rates)
}

fn one(wire: &Wire, programs: &Programs, plan: &Plan, contestant: Contestant) -> Result<Rates> {
    let mut reflector = contestant.start(wire, programs)?;
    // in the client's namespace for as long as the generator lives
    let _inside = wire.far.enter()?;
    let mut generator = Generator::new()?;
    reflector.ready(|| generator.answered_within(Duration::from_millis(200)))?;
    generator.trial(plan.criterion.from, plan.span / 4)?;
    // two, because one may be disturbed, and what is taken for the generator's limit bounds the search
    let flat_out = [generator.trial(f64::INFINITY, plan.span)?, generator.trial(f64::INFINITY, plan.span)?];
    let flat_out = flat_out.into_iter().max_by(|one, other| one.offered.total_cmp(&other.offered)).expect("two trials");
    let criterion = Criterion { to: flat_out.offered.max(plan.criterion.from), ..plan.criterion };
    let held = no_loss(&criterion, |rate| {
        let trial = generator.trial(rate, plan.span)?;
        Ok(Trial { offered: trial.offered, lost: trial.lost() })
    })?;
    let (no_loss, generator_bound) = match held {
        Held::UpTo(rate) => (rate, false),
        Held::AtLeast(rate) => (rate, true),
        Held::Nothing => (0.0, false),
    };
    let doubled = (2.0 * no_loss < flat_out.offered && no_loss > 0.0)
        .then(|| generator.trial(2.0 * no_loss, plan.span))
        .transpose()?
        .map(|trial| trial.reply_rate);
    Ok(Rates { no_loss, generator_bound, doubled, flat_out: flat_out.reply_rate, offered: flat_out.offered })
}
