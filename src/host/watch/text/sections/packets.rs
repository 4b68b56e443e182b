//! Sections about packets that were lost, and the sockets that had no room.

use std::collections::{BTreeMap, BTreeSet};

use pathlab_host::watch::{DropReport, Report};

use super::{View, all, rate, table};

pub(super) fn drops(view: &View<'_>) -> Option<String> {
    let whole = view.all.drops.as_ref()?;
    let none = DropReport::default();
    let now = view.now.drops.as_ref().unwrap_or(&none);
    let since: BTreeMap<_, _> =
        now.reasons.iter().map(|drop| ((&drop.reason, &drop.interface), drop.packets)).collect();
    let rows = whole.reasons.iter().map(|drop| {
        let now = since.get(&(&drop.reason, &drop.interface)).copied().unwrap_or(0);
        let interface = drop.interface.clone().unwrap_or_else(|| "–".into());
        [drop.reason.clone(), interface, rate(now, view.now), drop.packets.to_string()]
    });
    let heads = [all("given up because"), all("interface"), all(view.rate), all("all")];
    let mut text = table(view, heads, rows).unwrap_or_default();
    if whole.uncounted > 0 {
        text += &format!("{} more whose reason or socket had no place in the table\n", whole.uncounted);
    }
    (!text.is_empty()).then_some(text)
}

/// No room in a socket is the kernel's own account where no program could be loaded.
pub(super) fn sockets(view: &View<'_>) -> Option<String> {
    let refusals = |report: &Report| -> BTreeMap<_, _> {
        match &report.drops {
            Some(drops) => {
                let of = drops.sockets.iter();
                of.map(|socket| (socket.socket, (socket.buffer_full + socket.memory_full, socket.memory_full)))
                    .collect()
            }
            None => report.sockets.iter().map(|queue| (queue.socket, (queue.drops, 0))).collect(),
        }
    };
    let (now, whole) = (refusals(view.now), refusals(view.all));
    let waiting: BTreeMap<_, _> = view.now.sockets.iter().map(|queue| (queue.socket, queue.waiting)).collect();
    let known: BTreeSet<_> = whole.keys().chain(waiting.keys()).collect();
    let mut rows: Vec<_> = known
        .into_iter()
        .map(|socket| {
            let (refused, memory) = whole.get(socket).copied().unwrap_or_default();
            let waits = waiting.get(socket).copied().unwrap_or(0);
            (refused, waits, memory, now.get(socket).map_or(0, |(refused, _)| *refused), socket)
        })
        .filter(|(refused, waits, ..)| refused + waits > 0)
        .collect();
    rows.sort_by_key(|(refused, waits, ..)| std::cmp::Reverse((*refused, *waits)));
    let rows = rows.into_iter().map(|(refused, waits, memory, now, socket)| {
        [socket.to_string(), waits.to_string(), rate(now, view.now), refused.to_string(), memory.to_string()]
    });
    let refused = format!("no room: {}", view.rate);
    let heads = [all("UDP socket"), all("waiting, octets"), all(&refused), all("all"), all("over udp_mem")];
    table(view, heads, rows)
}

pub(super) fn counters(view: &View<'_>) -> Option<String> {
    let rows = view.all.counters.iter().map(|(name, count)| {
        let now = view.now.counters.get(name).copied().unwrap_or(0);
        [name.clone(), rate(now, view.now), count.to_string()]
    });
    // all of them are few, and what is cut would be the errors
    let view = View { rows: usize::MAX, ..*view };
    table(&view, [all("UDP"), all(view.rate), all("all")], rows)
}
