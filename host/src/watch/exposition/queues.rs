//! Metrics of the queues of a device: waiting on the way out, polls of receive queues.

use std::fmt;

use super::families::{Families, Labels, named, other};
use crate::watch::{NapiReport, Report, SojournReport};

pub(super) fn encode(families: &mut Families<'_>, whole: &Report) -> fmt::Result {
    if let Some(sojourn) = &whole.sojourn {
        sojourns(families, sojourn)?;
    }
    if let Some(napi) = &whole.napi {
        polls(families, napi)?;
    }
    Ok(())
}

fn sojourns(families: &mut Families<'_>, sojourn: &SojournReport) -> fmt::Result {
    let each = || {
        sojourn.queues.iter().map(|of| {
            let labels: Labels<2> = [("interface", of.interface.clone()), ("queue", of.queue.to_string())];
            (labels, of)
        })
    };
    let packets = other("packets");
    let help = "From the handing over of a packet to the call of the driver, through all qdiscs";
    families.histogram("sojourn", help, each().map(|(labels, of)| (labels, of.nanoseconds.clone())))?;
    let help = "Packets that started and were not seen to be handed over";
    families.counter("sojourn_unmatched", help, &packets, each().map(|(labels, of)| (labels, of.unmatched)))?;
    let help = "Packets that were not timed because too many waited";
    families.counter("sojourn_untracked", help, &packets, [([], sojourn.untracked)])?;
    let help = "Packets that started on queues for which there is no room in the table";
    families.counter("sojourn_uncounted", help, &packets, [([], sojourn.uncounted)])
}

fn polls(families: &mut Families<'_>, napi: &NapiReport) -> fmt::Result {
    let each = || {
        napi.napis.iter().map(|of| {
            let [interface, id, queue] = [of.interface.clone(), of.id.to_string(), named(of.rx_queue)];
            let labels: Labels<3> = [("interface", interface), ("napi", id), ("queue", queue)];
            (labels, of)
        })
    };
    let polls = other("polls");
    let help = "Times that a NAPI was asked for packets";
    families.counter("napi", help, &polls, each().map(|(labels, of)| (labels, of.polls)))?;
    let help = "Packets that a NAPI took";
    families.counter("napi_taken", help, &other("packets"), each().map(|(labels, of)| (labels, of.packets)))?;
    let help = "Polls that took as many packets as they were allowed";
    families.counter("napi_exhausted", help, &polls, each().map(|(labels, of)| (labels, of.exhausted)))?;
    // by_packets: the least of a place is its name, as 0, 1, 2, 4, ... 64, and 128 and more
    let by_packets = each().flat_map(|([interface, id, queue], of)| {
        of.by_packets.iter().enumerate().map(move |(place, count)| {
            let least = if place == 0 { 0 } else { 1_u32 << (place - 1) };
            let labels: Labels<4> = [interface.clone(), id.clone(), queue.clone(), ("from_packets", least.to_string())];
            (labels, *count)
        })
    });
    families.counter("napi_size", "Polls by the packets that they took, at least so many", &polls, by_packets)?;
    let help = "Polls for which there was no room in the table";
    families.counter("napi_uncounted", help, &polls, [([], napi.uncounted)])
}
