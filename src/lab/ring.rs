//! `pathlab lab ring`: what a burst loses and how long it waits in receive rings of several sizes, by the model and in real AF_XDP rings, and which ring to set.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pathlab_netlab::{
    queue::Burst,
    ring::{Bench, MOST, Trial, Which},
};
use serde::Serialize;

use crate::{
    Global, duration,
    exit::{Exit, Misuse},
    output,
    report::{Table, span},
};

/// Sizes of the curve.
const SIZES: [u32; 7] = [32, 64, 128, 256, 512, 1024, 2048];

#[derive(Args)]
pub(super) struct RingArgs {
    /// Packets of the burst
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    packets: u32,
    /// Between two packets on the wire; 67 ns are 64 octets at 10 Gbit/s
    #[arg(long, value_name = "DUR", default_value = "67ns", value_parser = duration::parse)]
    gap: Duration,
    /// What the host takes for one packet
    #[arg(long, value_name = "DUR", default_value = "1us", value_parser = duration::parse)]
    service: Duration,
    /// From the first packet until the host starts: interrupt coalescing and wake-up
    #[arg(long, value_name = "DUR", default_value = "50us", value_parser = duration::parse)]
    wake: Duration,
    /// How long a packet may wait
    #[arg(long, value_name = "DUR", default_value = "1ms", value_parser = duration::parse)]
    budget: Duration,
    /// Play it through real AF_XDP rx and fill rings, too, as fast as this machine sends, with the kernel's own counters; needs root
    #[arg(long)]
    measure: bool,
}

#[derive(Serialize)]
struct Report {
    curve: Vec<Point>,
    advice: String,
}

/// One ring size.
#[derive(Serialize)]
struct Point {
    descriptors: u32,
    /// By the model, for the burst as it was described.
    lost: u32,
    /// From a packet's arrival until the host is done with it.
    longest_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
}

/// Real rings of that size; the models are for the gap that was had.
#[derive(Serialize)]
struct Measured {
    gap_ns: u64,
    rx_ring_full: u64,
    rx_model: u32,
    rx_fill_ring_empty_descs: u64,
    fill_model: u32,
    /// Of both bursts, packets that never came to a ring.
    wire_dropped: u64,
}

pub(super) fn run(args: &RingArgs, global: &Global) -> Result<Exit> {
    let RingArgs { packets, gap, service, wake, budget, measure } = *args;
    if measure && packets > MOST {
        return Err(Misuse(format!("--measure sends {MOST} packets at once at most, not {packets}")).into());
    }
    let burst = Burst { packets, gap, service, wake };
    let bench = measure.then(|| Bench::new(&format!("pathlab-ring-{}", std::process::id()))).transpose()?;
    let curve = burst.curve(SIZES).into_iter().map(|(descriptors, outcome)| {
        let measured = bench.as_ref().map(|bench| measured(bench, descriptors, burst)).transpose()?;
        let longest_ns = u64::try_from(outcome.longest.as_nanos()).unwrap_or(u64::MAX);
        Ok(Point { descriptors, lost: outcome.lost, longest_ns, measured })
    });
    let curve = curve.collect::<Result<Vec<_>>>()?;
    let report = Report { curve, advice: burst.advice(budget).to_string() };
    if global.json {
        output::json("lab", &report)?;
    } else {
        out!("{}", report.text());
    }
    Ok(Exit::Done)
}

fn measured(bench: &Bench, descriptors: u32, burst: Burst) -> Result<Measured> {
    let [rx, fill]: [Trial; 2] =
        [bench.trial(Which::Rx, descriptors, burst)?, bench.trial(Which::Fill, descriptors, burst)?];
    let gap = rx.took / rx.sent.max(1);
    Ok(Measured {
        gap_ns: u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX),
        rx_ring_full: rx.rx_ring_full,
        rx_model: rx.model.lost,
        rx_fill_ring_empty_descs: fill.rx_fill_ring_empty_descs,
        fill_model: fill.model.lost,
        wire_dropped: rx.wire_dropped + fill.wire_dropped,
    })
}

impl Report {
    fn text(&self) -> String {
        let mut curve = Table::new(["descriptors", "lost", "longest wait"]);
        let heads = ["descriptors", "gap", "rx_ring_full", "by the model", "rx_fill_ring_empty_descs", "by the model"];
        let mut real = Table::new(heads);
        for Point { descriptors, lost, longest_ns, measured } in &self.curve {
            curve.row([descriptors.to_string(), lost.to_string(), span(*longest_ns)]);
            if let Some(measured) = measured {
                real.row([
                    descriptors.to_string(),
                    span(measured.gap_ns),
                    measured.rx_ring_full.to_string(),
                    measured.rx_model.to_string(),
                    measured.rx_fill_ring_empty_descs.to_string(),
                    measured.fill_model.to_string(),
                ]);
            }
        }
        let mut text = curve.to_string();
        if self.curve.iter().any(|point| point.measured.is_some()) {
            text += &format!("\nreal AF_XDP rings, the same burst as fast as this machine sends\n{real}");
            let dropped: u64 = self.curve.iter().filter_map(|point| Some(point.measured.as_ref()?.wire_dropped)).sum();
            if dropped > 0 {
                text += &format!(
                    "{dropped} packets never came to a ring: the veth had no room; the counts are of smaller bursts\n"
                );
            }
        }
        format!("{text}\n{}\n", self.advice)
    }
}
