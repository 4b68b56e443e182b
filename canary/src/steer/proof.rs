//! The wrong-arm proof: on which device each arm's packets really left, counted at the device and compared with the arm.
//!
//! A mark may be set too late, on the wrong packet, or be taken away again by somebody else, and every counter of the
//! rules would still look right. So a program at the end of all routing works the arm out from the packet itself
//! (`bpf/session.h`) and looks at the device that it is on. Its link is not pinned: it goes with the process.

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::TcAttachType,
};
use serde::{Deserialize, Serialize};

use super::{
    Error, Plan, Result,
    object::{self, Watched},
};
use crate::Share;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/departures.bpf.o"));
const PROGRAM: &str = "departures";

/// More than this share of packets astray is a fault.
const TOLERATED: f64 = 0.001;
/// So many packets make a look at them worth it ...
const ENOUGH: u64 = 1_000;
/// ... or so many looks without.
const LONGEST_WAIT: u32 = 20;
/// A packet may be between rule and device while a share changes. One is no fault.
const STRAGGLERS: u64 = 1;

/// Packets that left a device of either path, by their arm and by the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departures {
    /// Of control sessions, by the control path.
    pub control: u64,
    /// Of control sessions, by the canary path.
    pub control_astray: u64,
    /// Of canary sessions, by the canary path.
    pub canary: u64,
    /// Of canary sessions, by the control path.
    pub canary_astray: u64,
}

impl Departures {
    /// All packets.
    pub fn packets(&self) -> u64 {
        self.control + self.canary + self.astray()
    }

    /// Packets that left by the path of the other arm.
    pub fn astray(&self) -> u64 {
        self.control_astray + self.canary_astray
    }

    /// What has left since `earlier`, an earlier count of the same programs.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            control: self.control - earlier.control,
            control_astray: self.control_astray - earlier.control_astray,
            canary: self.canary - earlier.canary,
            canary_astray: self.canary_astray - earlier.canary_astray,
        }
    }

    /// Whether more than 0.1 % went astray.
    fn is_fault(&self) -> bool {
        self.astray() > STRAGGLERS && self.astray() as f64 > TOLERATED * self.packets() as f64
    }
}

/// The counting programs on the devices of both paths.
#[derive(Debug)]
pub struct Proof {
    ebpf: Ebpf,
    devices: Vec<String>,
    since: Departures,
    looks: u32,
}

impl Proof {
    /// Puts the programs on the devices of both paths, in the calling thread's network namespace. A path through a
    /// device that is neither the plan's nor that of the route to clients is not seen.
    ///
    /// # Errors
    /// [`Error::Proof`]: tcx needs Linux 6.6.
    pub fn attach(plan: &Plan) -> Result<Self> {
        let Watched { canary, names } = Watched::of(plan)?;
        let ebpf = object::load(OBJECT, plan, canary, &[], &[]).map_err(failed("load"))?;
        let mut proof = Self { ebpf, devices: names.into_iter().collect(), since: Departures::default(), looks: 0 };
        proof.set_share(plan.share)?;
        proof.attach_all()?;
        Ok(proof)
    }

    fn attach_all(&mut self) -> Result<()> {
        let program = object::program(&mut self.ebpf, PROGRAM).map_err(failed("load"))?;
        for device in &self.devices {
            object::attach(program, device, TcAttachType::Egress)
                .map_err(|source| Error::Proof { what: format!("attach to {device}"), source })?;
        }
        Ok(())
    }

    /// The devices that are looked at.
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Counts by another share from now on.
    pub(super) fn set_share(&mut self, share: Share) -> Result<()> {
        let map = self.ebpf.map_mut("SHARE").expect("the object has this map");
        let mut map = Array::<&mut MapData, u32>::try_from(map).map_err(failed("read"))?;
        map.set(0, u32::from(share.buckets()), 0).map_err(failed("set the share"))
    }

    /// What has left since it was attached.
    ///
    /// # Errors
    /// [`Error::Proof`] when the kernel does not say.
    pub fn departures(&self) -> Result<Departures> {
        let map = self.ebpf.map("DEPARTURES").expect("the object has this map");
        let map = PerCpuArray::<&MapData, u64>::try_from(map).map_err(failed("read"))?;
        let count = |place| Ok::<u64, Error>(map.get(&place, 0).map_err(failed("read"))?.iter().sum());
        Ok(Departures { control: count(0)?, control_astray: count(1)?, canary_astray: count(2)?, canary: count(3)? })
    }

    /// What has left so far does not count any more: the rules have changed.
    ///
    /// # Errors
    /// As [`Proof::departures`].
    pub fn begin_anew(&mut self) -> Result<()> {
        (self.since, self.looks) = (self.departures()?, 0);
        Ok(())
    }

    /// Looks at what has left since the last look that had enough to see. Returns it when more than 0.1 % went astray.
    ///
    /// # Errors
    /// As [`Proof::departures`].
    pub fn look(&mut self) -> Result<Option<Departures>> {
        let now = self.departures()?;
        let lately = now.since(&self.since);
        self.looks += 1;
        if lately.packets() < ENOUGH && self.looks < LONGEST_WAIT {
            return Ok(None);
        }
        (self.since, self.looks) = (now, 0);
        Ok(Some(lately).filter(Departures::is_fault))
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Proof { what: what.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_in_a_thousand_astray_is_a_fault_and_one_straggler_is_none() {
        let of = |control, control_astray, canary, canary_astray| {
            Departures { control, control_astray, canary, canary_astray }.is_fault()
        };
        assert!(!of(0, 0, 0, 0));
        assert!(!of(10, 0, 10, 1));
        assert!(of(10, 0, 10, 2));
        assert!(!of(10_000, 5, 989, 6));
        assert!(of(10_000, 6, 989, 6));
    }
}
