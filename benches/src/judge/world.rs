//! A made-up fleet, written as `sessions.jsonl` in the order in which a collector would write it: bin by bin, all sessions of a bin.
//!
//! Sessions have skewed levels, autocorrelated packets, spikes, bursts of loss and an evening hump, over a prelude and two evenings; each lives
//! in two bins of ten minutes somewhere in its evening. The canary may be faster in one ISP. The same arguments give the same bytes.

use std::{io::Write, net::SocketAddr, thread};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use pathlab_canary::{KeyFrom, Share, bucket};
use pathlab_record::{Labels, SessionBin, SessionKey, SparseHistogram};
use pathlab_stats::{Generator, generator};
use rand::RngExt;

/// ISPs and how many of ten sessions each has.
const ISPS: [(&str, u64); 5] = [("NTT", 4), ("KDDI", 2), ("SoftBank", 2), ("OCN", 1), ("BIGLOBE", 1)];
/// Windows, the date on which each starts, and how many of ten sessions it has.
const WINDOWS: [(&str, &str, u64); 3] = [("aa", "2026-11-20", 2), ("", "2026-11-21", 4), ("", "2026-11-22", 4)];
/// Bins of ten minutes in an evening; a session starts in any but the last.
const BINS: u64 = 30;
/// Share of sessions on the canary.
pub const SHARE: &str = "15%";
/// Seed of the assignment.
pub const SEED: u32 = 0x5eed_0005;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Sessions, over all windows.
    pub sessions: u64,
    /// Packets of each, half of them in either of its bins.
    pub packets: u64,
    /// Milliseconds by which the canary is faster in the largest ISP.
    pub faster: f64,
}

/// One session's place in the fleet.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    isp: &'static str,
    family: u8,
    key: SessionKey,
    canary: bool,
}

impl Fleet {
    /// Writes it; the number of lines.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, to: &mut impl Write) -> Result<u64> {
        let share: Share = SHARE.parse().map_err(|why| anyhow::anyhow!("share {SHARE}: {why}"))?;
        let mut lines = 0;
        for (window, (label, date, _)) in WINDOWS.iter().enumerate() {
            let opens: Timestamp = format!("{date}T10:00:00Z").parse()?;
            for bin in 0..BINS {
                let start = opens + SignedDuration::from_mins(10 * bin as i64);
                // Those that begin in this bin, then those that began in the one before.
                let now: Vec<(Place, u64)> = [Some(bin), bin.checked_sub(1)]
                    .into_iter()
                    .enumerate()
                    .flat_map(|(half, begun)| {
                        let places = begun.into_iter().flat_map(|begun| self.beginning(window, begun, share));
                        places.map(move |place| (place, half as u64))
                    })
                    .collect();
                let halves = now.split_at(now.len() / 2);
                let texts = thread::scope(|scope| {
                    [halves.0, halves.1]
                        .map(|places| scope.spawn(move || self.text(places, window, label, bin, start)))
                        .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("the generator panicked")))
                });
                for text in texts {
                    to.write_all(text??.as_bytes()).context("the fleet cannot be written")?;
                }
                lines += now.len() as u64;
            }
        }
        Ok(lines)
    }

    /// The sessions that begin in a bin of a window.
    fn beginning(&self, window: usize, bin: u64, share: Share) -> impl Iterator<Item = Place> {
        let before: u64 = WINDOWS[..window].iter().map(|(.., tenths)| tenths).sum();
        let (from, many) = (self.sessions * before / 10, self.sessions * WINDOWS[window].2 / 10);
        let to = from + many;
        let of_bin = (BINS - 1) as usize;
        (from + bin..to).step_by(of_bin).filter(move |_| bin < BINS - 1).map(move |number| {
            // Mixed, so that neither the ISP nor the family hangs together with the bin.
            let lot = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let mut tenth = lot % 10;
            let isp = ISPS.iter().find(|(_, tenths)| tenth.checked_sub(*tenths).map(|rest| tenth = rest).is_none());
            let family = if lot / 10 % 2 == 0 { 4 } else { 6 };
            let (group, port) = (number / 60_000 + 1, 1_024 + (number % 60_000) as u16);
            let address: SocketAddr = match family {
                4 => ([10, 0, (group >> 8) as u8, group as u8], port).into(),
                _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, group as u16], port).into(),
            };
            let key = SessionKey(address);
            let canary = bucket(SEED, &key, KeyFrom::ClientAddrPort).is_some_and(|bucket| bucket < share.buckets());
            Place { number, isp: isp.map_or("NTT", |(isp, _)| isp), family, key, canary }
        })
    }

    fn text(&self, places: &[(Place, u64)], window: usize, label: &str, bin: u64, start: Timestamp) -> Result<String> {
        let mut text = String::new();
        for (place, half) in places {
            let seen = self.bin(place, window, *half, bin);
            let mut labels: Labels =
                [("isp".to_owned(), place.isp.into()), ("family".to_owned(), place.family.into())].into();
            if !label.is_empty() {
                labels.insert("window".to_owned(), label.into());
            }
            let line = SessionBin {
                session: format!("{:012x}", place.number.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16),
                key: Some(place.key),
                labels,
                start,
                end: start + SignedDuration::from_mins(10),
                zone: "Asia/Tokyo".to_owned(),
                source: "passive".to_owned(),
                clock_sync_age_s: Some(12),
                ..seen
            };
            text.push_str(&serde_json::to_string(&line)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// What a session sees in one of its bins.
    fn bin(&self, place: &Place, window: usize, half: u64, bin: u64) -> SessionBin {
        let mut of_session = generator(SEED.into(), "session", place.number);
        let level = 40.0 * (0.25 * gauss(&mut of_session)).exp();
        let lossy = of_session.random_bool(0.02);
        let mut rng = generator(SEED.into(), "packets", 2 * place.number + half);
        let faster = if place.canary && window > 0 && place.isp == "NTT" { self.faster } else { 0.0 };
        let packets = if half == 0 { self.packets.div_ceil(2) } else { self.packets / 2 };
        let (mut rtt, mut ipdv) = (Vec::new(), Vec::new());
        let (mut wander, mut burst, mut before) = (gauss(&mut rng), 0_u32, None);
        let (mut lost, mut episodes) = (0, 0);
        for packet in 0..packets {
            wander = 0.8 * wander + 0.6 * gauss(&mut rng);
            let spike = if rng.random_bool(0.02) { 30.0 * rng.random::<f64>() } else { 0.0 };
            let at = (bin as f64 + packet as f64 / packets as f64) / BINS as f64;
            let hump = 8.0 * (std::f64::consts::PI * at).sin();
            let value = ((level + 2.0 * wander + spike + hump - faster).max(0.5) * 1e6) as u64;
            if burst == 0 && lossy && rng.random_bool(0.02) {
                (burst, episodes) = (4, episodes + 1);
            }
            if burst > 0 {
                (burst, lost, before) = (burst - 1, lost + 1, None);
                continue;
            }
            rtt.push(value);
            ipdv.extend(before.map(|before| value.abs_diff(before)));
            before = Some(value);
        }
        let counted = |mut values: Vec<u64>| -> SparseHistogram {
            values.sort_unstable();
            values.into_iter().collect()
        };
        SessionBin {
            sent: packets,
            received: packets - lost,
            lost,
            loss_episodes: Some(episodes),
            rtt: Some(counted(rtt)),
            ipdv_round_trip: Some(counted(ipdv)),
            ..SessionBin::default()
        }
    }
}

fn gauss(rng: &mut Generator) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_session_has_two_bins_and_all_its_packets() -> Result<()> {
        let fleet = Fleet { sessions: 3_000, packets: 20, faster: 5.0 };
        let mut bytes = Vec::new();
        let lines = fleet.write(&mut bytes)?;
        let mut sessions: HashMap<String, (u64, u64)> = HashMap::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let bin: SessionBin = serde_json::from_slice(line)?;
            bin.check()?;
            let (bins, sent) = sessions.entry(bin.session).or_default();
            (*bins, *sent) = (*bins + 1, *sent + bin.sent);
        }
        assert_eq!((lines, sessions.len()), (6_000, 3_000));
        assert!(sessions.values().all(|seen| *seen == (2, 20)));
        let mut again = Vec::new();
        fleet.write(&mut again)?;
        assert!(bytes == again, "the same bytes");
        Ok(())
    }
}
