//! Where the time went, as medians of each stage: by arm over the evenings, and by reflector on a quiet line.

use std::path::Path;

use anyhow::Result;
use pathlab_record::{Arm, RecordedRun};
use pathlab_reflector::prober::ProbeReport;
use serde::Serialize;

/// Medians in nanoseconds; each of its own distribution, so that they need not add up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Split {
    /// What was measured.
    pub(crate) name: String,
    /// Round trips behind it.
    pub(crate) samples: usize,
    /// Sending and receiving on the probe's host.
    pub(crate) probe_host: u64,
    /// Both directions of the path.
    pub(crate) wire: u64,
    /// From receive to send on the reflector's host.
    pub(crate) reflector_host: u64,
}

impl Split {
    /// Of one arm, from the samples that the runs kept. `None` without any.
    pub(crate) fn of_arm(arm: Arm, runs: &[&Path], arm_of: impl Fn(&str) -> Option<Arm>) -> Result<Option<Self>> {
        let mut stages: [Vec<u64>; 3] = Default::default();
        for run in runs {
            for sample in RecordedRun::open(*run)?.samples()? {
                let sample = sample?;
                let Some(ledger) = sample.ledger.filter(|_| arm_of(&sample.session) == Some(arm)) else { continue };
                let spans = [ledger.probe_host(), ledger.wire(), ledger.reflector_host()];
                for (stage, span) in stages.iter_mut().zip(spans) {
                    stage.extend(span.and_then(|span| u64::try_from(span.as_nanos()).ok()));
                }
            }
        }
        let samples = stages[1].len();
        let [Some(probe_host), Some(wire), Some(reflector_host)] = stages.map(median) else { return Ok(None) };
        let name = match arm {
            Arm::Control => "control",
            Arm::Canary => "canary",
        };
        Ok(Some(Self { name: name.into(), samples, probe_host, wire, reflector_host }))
    }

    /// Of a whole probe run. `None` where a stage is absent.
    pub(crate) fn of_report(name: &str, report: &ProbeReport) -> Option<Self> {
        let split = &report.total.split;
        let wire = split.wire?;
        Some(Self {
            name: name.into(),
            samples: wire.count as usize,
            probe_host: split.probe_host?.p50,
            wire: wire.p50,
            reflector_host: split.reflector_host?.p50,
        })
    }

    /// The three stages together.
    pub(crate) fn total(&self) -> u64 {
        self.probe_host + self.wire + self.reflector_host
    }
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
