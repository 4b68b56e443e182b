//! What a driver may set anew of its own accord when rings or channels of a port change: the masks of its queues, where its interrupts go, the
//! RSS table. `ethtool -L` from 2 to 1 and back to 2 leaves the second queue without its masks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::setting::{Setting, irq_names};

/// A port's queues and interrupts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Beside {
    /// Value by path, without the leading `/`.
    files: BTreeMap<String, String>,
    /// List of CPUs by the name of the interrupt: its number may change.
    irqs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss: Option<String>,
}

/// Each a mask or a number (Documentation/ABI/testing/sysfs-class-net-queues).
const OF_A_QUEUE: [&str; 4] = ["rps_cpus", "rps_flow_cnt", "xps_cpus", "xps_rxqs"];

impl Beside {
    /// Reads what is there; what the kernel does not tell is left out.
    pub(crate) fn read(port: &str) -> Self {
        let mut beside = Self { rss: Setting::Rss { port: port.to_owned() }.read().ok(), ..Self::default() };
        let queues = format!("sys/class/net/{port}/queues");
        for queue in fs::read_dir(Path::new("/").join(&queues)).into_iter().flatten().flatten() {
            for name in OF_A_QUEUE {
                let path = format!("{queues}/{}/{name}", queue.file_name().to_string_lossy());
                if let Ok(value) = (Setting::File { path: path.clone() }).read() {
                    beside.files.insert(path, value);
                }
            }
        }
        for (number, name) in interrupts(port) {
            if let Ok(value) = (Setting::Irq { number }).read() {
                beside.irqs.insert(name, value);
            }
        }
        beside
    }

    /// Brings `self` back where the port has something else. What stood otherwise in `before` than in `set`, our own doing, is somebody else's and
    /// is only named, unless `force` says otherwise.
    pub(crate) fn restore(
        &self,
        port: &str,
        before: &Self,
        set: Option<&Self>,
        force: bool,
    ) -> io::Result<Vec<String>> {
        let mut left = Vec::new();
        let foreign = |was: &str, before: Option<&String>, set: Option<Option<&String>>| {
            let theirs = |before: &String| before != was && set.flatten().is_some_and(|set| set != before);
            !force && before.is_some_and(theirs)
        };
        let now = Self::read(port);
        for (path, was) in &self.files {
            let Some(is) = now.files.get(path).filter(|is| *is != was) else { continue };
            if foreign(was, before.files.get(path), set.map(|set| set.files.get(path))) {
                left.push(format!("/{path} is {is}"));
            } else {
                Setting::File { path: path.clone() }.write(was)?;
            }
        }
        let numbers: BTreeMap<String, u32> =
            interrupts(port).into_iter().map(|(number, name)| (name, number)).collect();
        for (name, was) in &self.irqs {
            let Some(is) = now.irqs.get(name).filter(|is| *is != was) else { continue };
            let Some(number) = numbers.get(name) else { continue };
            let setting = Setting::Irq { number: *number };
            if foreign(was, before.irqs.get(name), set.map(|set| set.irqs.get(name))) {
                left.push(format!("interrupt {name} goes to {is}"));
            } else if setting.check(was).is_ok() {
                setting.write(was)?;
            }
        }
        if let (Some(was), Some(is)) = (&self.rss, &now.rss)
            && was != is
        {
            if foreign(was, before.rss.as_ref(), set.map(|set| set.rss.as_ref())) {
                left.push(format!("the RSS table of {port} is another"));
            } else {
                Setting::Rss { port: port.to_owned() }.write_back(was)?;
            }
        }
        Ok(left)
    }
}

/// Number and name of each interrupt of the port that somebody asked for.
fn interrupts(port: &str) -> Vec<(u32, String)> {
    let Ok(numbers) = port_irqs(port) else { return Vec::new() };
    let own: BTreeSet<u32> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    irq_names(&text)
        .filter(|(number, _)| own.contains(number))
        .map(|(number, name)| (number, name.to_owned()))
        .collect()
}

/// Interrupts of a port, by number: those of its device, or of the device's parent (virtio sits below a PCI function).
///
/// # Errors
/// `ENOENT` where no device with interrupts is behind the port.
pub fn port_irqs(port: &str) -> io::Result<Vec<String>> {
    let device = fs::canonicalize(format!("/sys/class/net/{port}/device"))?;
    let names = |folder: PathBuf| -> io::Result<Vec<String>> {
        fs::read_dir(folder.join("msi_irqs"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let mut numbers = match (names(device.clone()), device.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => names(parent.to_owned()),
        (own, _) => own,
    }?;
    numbers.sort_by_cached_key(|number| (number.parse::<u64>().ok(), number.clone()));
    Ok(numbers)
}
