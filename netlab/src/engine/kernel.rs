//! The kernel engine: which links the kernel's own qdiscs play, and out of what; looked for before they are used.
//!
//! A link end is at most three qdiscs, one in the other: netem for its delay and loss, tbf for its rate, and in it the queue.

mod pace;

use std::{collections::BTreeMap, fmt};

pub use pace::{ShaperGrade, Shapers};

use crate::{
    error::Result,
    netlink::Netlink,
    qdisc::{Has, Netem, Qdisc},
    queue::{CodelParameters, Flavour, FqCodelParameters},
    scenario::{Conditions, Discipline, Link, LinkEnd, Scenario},
};

/// Who plays the links of a lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Player {
    /// The kernel where it has the qdiscs, else the wire engine.
    #[default]
    Auto,
    /// The kernel, or nobody.
    Kernel,
    /// The wire engine, for every link that does anything to packets.
    Wire,
}

/// Who plays one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Played {
    /// Nobody has to: it is as fast as it goes.
    Plain,
    /// The kernel.
    Kernel,
    /// The wire engine, for that reason.
    Wire(String),
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("as fast as it goes"),
            Self::Kernel => f.write_str("kernel"),
            Self::Wire(why) => write!(f, "wire: {why}"),
        }
    }
}

/// Packets that netem may hold at once: a tenth of a second at ten million a second.
const NETEM_LIMIT: u32 = 1_000_000;

/// The qdiscs that this kernel was found to have or not.
#[derive(Debug, Default)]
pub struct Qdiscs(BTreeMap<&'static str, Has>);

impl Qdiscs {
    /// Looks for a qdisc where it has not been looked for; why it cannot be used, or `None` where it can.
    ///
    /// # Errors
    /// Missing privilege.
    fn missing(&mut self, netlink: &mut Netlink, kind: &'static str) -> Result<Option<String>> {
        if !self.0.contains_key(kind) {
            self.0.insert(kind, netlink.has_qdisc(kind)?);
        }
        Ok(match &self.0[kind] {
            Has::Yes => None,
            Has::No => Some(format!("this kernel has no {kind} qdisc")),
            Has::CannotTell(why) => Some(format!("whether this kernel has the {kind} qdisc cannot be told: {why}")),
        })
    }

    /// Who plays `link` under `player`; `netlink` is of any namespace of the lab.
    ///
    /// # Errors
    /// [`crate::Error::NotByTheKernel`] where only the kernel may and it cannot; missing privilege.
    pub fn choose(
        &mut self,
        player: Player,
        scenario: &Scenario,
        link: &Link,
        netlink: &mut Netlink,
    ) -> Result<Played> {
        let mut plain = true;
        for end in &link.ends {
            let fault = scenario.faults.iter().find(|fault| fault.node == end.node && fault.dev == end.dev);
            let chain = match fault {
                Some(fault) => Err(format!("it has the fault {}", fault.name)),
                None => chain(end, link.mtu),
            };
            if chain.as_ref().is_ok_and(Vec::is_empty) {
                continue;
            }
            plain = false;
            let why = match chain {
                _ if player == Player::Wire => Some("asked for".to_owned()),
                Err(why) => Some(why),
                Ok(chain) => {
                    let mut missing = None;
                    for qdisc in &chain {
                        missing = missing.or(self.missing(netlink, qdisc.kind())?);
                    }
                    missing
                }
            };
            match why {
                Some(why) if player == Player::Kernel => {
                    let place = format!("{}:{}", end.node, end.dev);
                    return Err(crate::Error::NotByTheKernel { place, why });
                }
                Some(why) => return Ok(Played::Wire(why)),
                None => {}
            }
        }
        Ok(if plain { Played::Plain } else { Played::Kernel })
    }
}

/// The qdiscs that play a link end, the outer first; none where it does nothing. The error says what no qdisc does.
pub fn chain(end: &LinkEnd, mtu: u32) -> std::result::Result<Vec<Qdisc>, String> {
    let mut chain = Vec::new();
    let [Conditions { delay, loss, reorder, .. }, v6] = end.conditions;
    if end.conditions[0] != v6 {
        return Err("IPv4 and IPv6 apart are not netem's".to_owned());
    }
    if loss.burst.is_some() || reorder.share > 0.0 {
        return Err("losses in runs and packets held back have no seed in netem".to_owned());
    }
    if !delay.is_zero() || loss.share > 0.0 {
        chain.push(Qdisc::Netem(Netem { delay, loss: loss.share, limit: NETEM_LIMIT }));
    }
    let Some(egress) = end.egress else { return Ok(chain) };
    if let Some(bucket) = egress.token_bucket(mtu) {
        chain.extend(bucket.qdiscs());
        return Ok(chain);
    }
    let frame = mtu + 14;
    let default = FqCodelParameters::default();
    let queue = match egress.queue {
        Discipline::Codel(Flavour::Linux) => Qdisc::Codel(CodelParameters { mtu: frame, ..CodelParameters::default() }),
        Discipline::FqCodel(Flavour::Linux) => {
            let codel = CodelParameters { mtu: frame, ..default.codel };
            Qdisc::FqCodel(FqCodelParameters { codel, quantum: frame, ..default })
        }
        other => return Err(format!("no kernel has {other}")),
    };
    let burst = egress.burst(mtu);
    chain.extend([Qdisc::Tbf { rate: egress.rate, burst, limit: burst }, queue]);
    Ok(chain)
}
