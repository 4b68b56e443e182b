//! The maps of the programs by what they mean: counters out, clock, addresses and sockets in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, XskMap},
};
use pathlab_record::{Interval, Prefix};

use crate::{
    Counters, Error,
    abi::{
        self, ADDRESS_BROADCAST, ADDRESS_CROWDED, ADDRESS_OURS, ADDRESS_SLOTS, ADDRESSES_MAX, AddressKey, COUNTERS,
        ClockRecord, SlotRecord, SlotsRecord,
    },
    allow::Allowed,
    interface::Interface,
    xsk::XskSocket,
};

pub(crate) struct Maps {
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    clock: Array<MapData, ClockRecord>,
    addresses: Addresses,
    sockets: Sockets,
    allowed: Allowed,
    rate_clock: Array<MapData, i64>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive() // aya's arrays have no Debug
    }
}

impl Maps {
    /// Takes them out of a loaded reflector.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            counters: typed(ebpf, "COUNTERS")?,
            clock: typed(ebpf, abi::CLOCK)?,
            addresses: Addresses::take(ebpf)?,
            sockets: Sockets::take(ebpf)?,
            allowed: Allowed::take(ebpf)?,
            rate_clock: typed(ebpf, "RATE_CLOCK")?,
        })
    }

    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        let processors = self.counters.get(&0, 0).map_err(|source| failed("COUNTERS", source))?;
        Ok(Counters::sum(processors.iter()))
    }

    pub(crate) fn set_clock(&mut self, tai_minus_utc: Interval, error_estimate: u16) -> Result<(), Error> {
        let record = abi::clock_record(tai_minus_utc, error_estimate);
        self.clock.set(0, record, 0).map_err(|source| failed(abi::CLOCK, source))
    }

    /// The time by which limits go, where it is fixed.
    pub(crate) fn set_rate_clock(&mut self, nanos: i64) -> Result<(), Error> {
        self.rate_clock.set(0, nanos, 0).map_err(|source| failed("RATE_CLOCK", source))
    }

    pub(crate) fn allow(&mut self, prefixes: &[Prefix]) -> Result<(), Error> {
        self.allowed.add(prefixes)
    }

    pub(crate) fn add_socket(&mut self, socket: &XskSocket, interface: &Interface) -> Result<(), Error> {
        self.sockets.add(socket, interface)
    }

    pub(crate) fn set_addresses(&mut self, ours: &[IpAddr], broadcast: &[Ipv4Addr]) -> Result<(), Error> {
        self.addresses.set(ours, broadcast)
    }
}

/// `bpf/addresses.h`: whose datagrams a program takes.
pub(crate) struct Addresses {
    table: HashMap<MapData, AddressKey, u32>,
    slots: Array<MapData, SlotsRecord>,
    /// What `slots` holds.
    filled: Box<[Slot]>,
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Addresses")
    }
}

impl Addresses {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            table: typed(ebpf, "ADDRESSES")?,
            slots: typed(ebpf, abi::SLOTS)?,
            filled: slots(&std::collections::HashMap::new()),
        })
    }

    /// Answers for `ours` from now on. Old addresses go first: the table may be full. One that stays is answered throughout.
    pub(crate) fn set(&mut self, ours: &[IpAddr], broadcast: &[Ipv4Addr]) -> Result<(), Error> {
        let failed = |source| failed("ADDRESSES", source);
        let roles = broadcast.iter().map(|address| (abi::address_key((*address).into()), ADDRESS_BROADCAST));
        let roles = roles.chain(ours.iter().map(|address| (abi::address_key(*address), ADDRESS_OURS)));
        // our own role wins where an address has both, as on a /32
        let roles: std::collections::HashMap<AddressKey, u32> = roles.collect();
        if roles.len() > ADDRESSES_MAX {
            return Err(Error::TooManyAddresses { wanted: roles.len(), limit: ADDRESSES_MAX });
        }
        let wanted = slots(&roles);
        let changing: Vec<usize> = (0..ADDRESS_SLOTS).filter(|at| self.filled[*at] != wanted[*at]).collect();
        // The slots are written while programs read them. So places that change are closed first, which changes one word of each
        // and sends readers to the table, and opened again when all else is there.
        let closed = |slots: &[Slot]| -> Box<[Slot]> {
            let mut slots: Box<[Slot]> = slots.into();
            changing.iter().for_each(|at| slots[*at].role = ADDRESS_CROWDED);
            slots
        };
        if !changing.is_empty() {
            self.write(closed(&self.filled))?;
        }
        let known: Vec<AddressKey> = self.table.keys().collect::<Result<_, _>>().map_err(failed)?;
        for gone in known.iter().filter(|key| !roles.contains_key(*key)) {
            self.table.remove(gone).map_err(failed)?;
        }
        for (key, role) in roles {
            self.table.insert(key, role, 0).map_err(failed)?;
        }
        if !changing.is_empty() {
            self.write(closed(&wanted))?;
            self.write(wanted)?;
        }
        Ok(())
    }

    fn write(&mut self, slots: Box<[Slot]>) -> Result<(), Error> {
        let mut records: SlotsRecord = [SlotRecord::default(); ADDRESS_SLOTS];
        for (record, slot) in records.iter_mut().zip(&slots) {
            *record = abi::slot_record(slot.address, slot.role);
        }
        self.slots.set(0, records, 0).map_err(|source| failed(abi::SLOTS, source))?;
        self.filled = slots;
        Ok(())
    }
}

/// `struct address_slot`: an address with its role, or `ADDRESS_CROWDED` where several have this place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    address: AddressKey,
    role: u32,
}

fn slots(roles: &std::collections::HashMap<AddressKey, u32>) -> Box<[Slot]> {
    let mut slots = vec![Slot::default(); ADDRESS_SLOTS];
    for (address, role) in roles {
        let slot = &mut slots[abi::slot_of(*address)];
        *slot = match slot.role {
            0 => Slot { address: *address, role: *role },
            // no address of its own: which of them came last is chance
            _ => Slot { address: AddressKey::default(), role: ADDRESS_CROWDED },
        };
    }
    slots.into()
}

/// `bpf/redirect.h`: the AF_XDP sockets by their queue.
pub(crate) struct Sockets(XskMap<MapData>);

impl Sockets {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        typed(ebpf, "XSKS").map(Self)
    }

    /// Lets a socket on the interface `interface` receive what comes on its queue from now on.
    pub(crate) fn add(&mut self, socket: &XskSocket, interface: &Interface) -> Result<(), Error> {
        if socket.ifindex() != interface.index {
            let (socket, interface) = (socket.interface().to_owned(), interface.name.clone());
            return Err(Error::OtherInterface { socket, interface });
        }
        self.0.set(socket.queue(), socket.as_fd(), 0).map_err(|source| failed("XSKS", source))
    }
}

pub(crate) fn failed(map: &'static str, source: MapError) -> Error {
    Error::loading("use a BPF map", source, |source| Error::Map { map, source })
}

/// A map of the object by name, as the type that it has there.
pub(crate) fn typed<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(MapError::InvalidName { name: name.to_owned() });
    map.and_then(M::try_from).map_err(|source| failed(name, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_place_alone_or_the_place_is_crowded() {
        let addresses = |count: u32| (0..count).map(|host| Ipv4Addr::from(0x0a00_0001 + host).into());
        let roles = |count| addresses(count).map(|address| (abi::address_key(address), ADDRESS_OURS)).collect();
        for count in [0, 1, 10, 256] {
            let slots = slots(&roles(count));
            let (mut alone, mut crowded) = (0, 0);
            for address in addresses(count).map(abi::address_key) {
                let slot = slots[abi::slot_of(address)];
                if slot.role == ADDRESS_CROWDED {
                    crowded += 1;
                } else {
                    assert_eq!(slot, Slot { address, role: ADDRESS_OURS });
                    alone += 1;
                }
            }
            assert_eq!(alone + crowded, count);
            assert!(count < 256 || alone > 0 && crowded > 0, "both kinds are met: {alone}, {crowded}");
            let empty = slots.iter().filter(|slot| slot.role == 0).count();
            assert!(empty + alone as usize <= ADDRESS_SLOTS);
        }
    }
}
