//! One key of one link end set anew, so that two settings of a scenario can be compared without two files.

use super::{
    Bottleneck, Discipline, LinkEnd, ReceiveRing, Scenario,
    units::{Queue, Rate, Share, Span},
};
use crate::{
    error::{Error, Result},
    qdisc::Limit,
};

const FORM: &str = "write node:interface.key=value with one of the keys rate, queue, delay, loss, ring, service, wake";

impl Scenario {
    /// Sets `node:interface.key=value`, the end that sends with `rate`, `queue`, `delay` and `loss`, and the end that receives with `ring` (descriptors),
    /// `service` and `wake`; values as in the file. Several are parted by commas.
    ///
    /// # Errors
    /// [`Error::Setting`]: no such link end, key or value.
    pub fn set(&mut self, settings: &str) -> Result<()> {
        settings.split(',').try_for_each(|setting| self.set_one(setting.trim()))
    }

    fn set_one(&mut self, setting: &str) -> Result<()> {
        let refused = |problem: String| Error::Setting { setting: setting.to_owned(), problem };
        let parts = setting.split_once('=').and_then(|(place, value)| {
            let (place, key) = place.rsplit_once('.')?;
            let (node, dev) = place.split_once(':')?;
            Some((node, dev, key, value))
        });
        let (node, dev, key, value) = parts.ok_or_else(|| refused(FORM.to_owned()))?;
        let mut ends = self.links.iter_mut().flat_map(|link| &mut link.ends);
        let end = ends.find(|end| end.node == node && end.dev == dev);
        let end = end.ok_or_else(|| refused(format!("no node {node} has an interface {dev}")))?;
        change(end, key, value).map_err(refused)
    }
}

fn change(end: &mut LinkEnd, key: &str, value: &str) -> std::result::Result<(), String> {
    let no_ring = format!("{}:{} has no ring; set ring and service together in the file", end.node, end.dev);
    match key {
        "rate" => {
            let Rate(rate) = value.parse()?;
            let default = Bottleneck { rate, queue: Discipline::TailDrop(Limit::Packets(100)) };
            end.egress = Some(Bottleneck { rate, ..end.egress.unwrap_or(default) });
        }
        "queue" => {
            let Queue(queue) = value.parse()?;
            let Some(egress) = &mut end.egress else {
                return Err(format!("{}:{} has no rate, so that nothing queues there", end.node, end.dev));
            };
            egress.queue = queue;
        }
        "delay" => {
            let Span(delay) = value.parse()?;
            end.conditions.iter_mut().for_each(|conditions| conditions.delay = delay);
        }
        "loss" => {
            let Share(share) = value.parse()?;
            end.conditions.iter_mut().for_each(|conditions| conditions.loss.share = share);
        }
        "ring" => {
            let descriptors = value.parse().ok().filter(|descriptors| *descriptors > 0);
            let descriptors =
                descriptors.ok_or_else(|| format!("{value:?} is no number of descriptors, such as 256"))?;
            end.ring = Some(ReceiveRing { descriptors, ..end.ring.ok_or(no_ring)? });
        }
        "service" => {
            let Span(service) = value.parse()?;
            end.ring = Some(ReceiveRing { service, ..end.ring.ok_or(no_ring)? });
        }
        "wake" => {
            let Span(wake) = value.parse()?;
            end.ring = Some(ReceiveRing { wake, ..end.ring.ok_or(no_ring)? });
        }
        _ => return Err(FORM.to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::queue::Flavour;

    #[test]
    fn a_setting_changes_its_key_and_nothing_else() {
        let demo = Scenario::load("demo", None).expect("sound");
        let mut changed = demo.clone();
        changed.set("transit-a:clients.queue=fq_codel, transit-a:clients.rate=20mbit").expect("sound");
        let end = changed.links[2].ends[0].clone();
        assert_eq!(end.egress, Some(Bottleneck { rate: 20_000_000, queue: Discipline::FqCodel(Flavour::Linux) }));
        changed.links[2].ends[0].egress = demo.links[2].ends[0].egress;
        assert_eq!(changed, demo);
        changed.set("server:a.delay=3ms").expect("sound");
        assert!(changed.links[0].ends[0].conditions.iter().all(|own| own.delay == Duration::from_millis(3)));
    }

    #[test]
    fn a_setting_without_sense_is_refused() {
        let mut demo = Scenario::load("demo", None).expect("sound");
        for (setting, problem) in [
            ("qdisc", FORM),
            ("server:a.mtu=1500", FORM),
            ("sever:a.rate=1mbit", "no node sever has an interface a"),
            ("server:a.queue=codel", "server:a has no rate, so that nothing queues there"),
            ("server:a.ring=64", "server:a has no ring; set ring and service together in the file"),
            (
                "transit-a:clients.queue=fq",
                "\"fq\" is no queue, such as \"90 packets\", \"64000 bytes\", \"codel\" or \"fq_codel\"",
            ),
        ] {
            assert_eq!(demo.set(setting).expect_err(setting).to_string(), format!("setting {setting:?}: {problem}"));
        }
    }
}
