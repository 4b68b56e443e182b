//! How often the policy is misled where there is nothing to find: the user's own control sessions under other seeds.

use pathlab_record::SessionKey;
use pathlab_stats::{Confidence, Interval, Rate, generator, replicate, wilson};
use rand::RngExt;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Controls, outcome};
use crate::{Decision, Error, Experiment, bucket_of_bytes, findings::Number};

/// What became of A/A experiments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// Experiments, each with another seed.
    pub experiments: u32,
    /// Those that ended in Promote: all of them wrong.
    pub promoted: u32,
    /// Those that ended in RollBack: all of them wrong.
    pub rolled_back: u32,
    /// Sessions on either arm.
    pub sessions: u64,
    /// Whether arms were re-drawn by the assignment function, or by one like it where keys are not known.
    pub by_key: bool,
}

impl Alike {
    /// Rate of a wrong Promote and of a wrong RollBack, with the limits of 95 %.
    pub fn rates(&self) -> [Interval; 2] {
        [self.promoted, self.rolled_back].map(|wrong| {
            let trials = f64::from(self.experiments);
            wilson(Rate { rate: f64::from(wrong) / trials, trials }, Confidence::P95)
        })
    }
}

impl Serialize for Alike {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let limits = |rate: Interval| [Number(rate.estimate), Number(rate.low), Number(rate.high)];
        let [promote, roll_back] = self.rates();
        let mut out = to.serialize_struct("Alike", 7)?;
        out.serialize_field("experiments", &self.experiments)?;
        out.serialize_field("sessions", &self.sessions)?;
        out.serialize_field("redrawn_by_key", &self.by_key)?;
        out.serialize_field("promoted", &self.promoted)?;
        out.serialize_field("rolled_back", &self.rolled_back)?;
        out.serialize_field("false_promote", &limits(promote))?;
        out.serialize_field("false_roll_back", &limits(roll_back))?;
        out.end()
    }
}

/// Plays `experiments` A/A experiments on the controls, each judged after every evening and by the looks at every bin.
///
/// # Errors
/// [`Error::NoSession`] when the controls have fewer windows than a prelude and the policy's evenings.
pub fn alike(
    experiment: &Experiment,
    controls: &Controls<'_>,
    seed: u64,
    experiments: u32,
    bucket: impl Fn(u32, &SessionKey) -> Option<u16> + Sync,
) -> Result<Alike, Error> {
    let by_key = controls.has_keys(&bucket);
    let stands = controls.as_they_are(experiment, by_key)?;
    let bucket = |seed: u32, key: &SessionKey| match by_key {
        true => bucket(seed, key),
        false => Some(bucket_of_bytes(seed, key.to_string().as_bytes())),
    };
    // What can fail, fails at the first.
    outcome(experiment, generator(seed, "alike", 0).random(), &stands, bucket)?;
    let rows = replicate(
        seed,
        "alike",
        experiments as usize,
        2,
        || (),
        |generator, (), row| {
            let decision = outcome(experiment, generator.random(), &stands, bucket);
            row[0] = f64::from(u8::from(matches!(decision, Ok(Decision::Promote))));
            row[1] = f64::from(u8::from(matches!(decision, Ok(Decision::RollBack))));
        },
    );
    let count = |column| rows.column(column).sum::<f64>() as u32;
    Ok(Alike {
        experiments,
        promoted: count(0),
        rolled_back: count(1),
        sessions: stands.last().map_or(0, |last| last.sessions() as u64),
        by_key,
    })
}
