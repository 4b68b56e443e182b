//! The reflector's maps by what they mean: counters out, clock and addresses in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use pathlab_record::Interval;

use crate::{
    Counters, Error,
    abi::{self, ADDRESS_BROADCAST, ADDRESS_OURS, ADDRESSES_MAX, AddressKey, COUNTERS, ClockRecord},
};

pub(crate) struct Maps {
    counters: PerCpuArray<MapData, [u64; COUNTERS]>,
    clock: Array<MapData, ClockRecord>,
    addresses: Addresses,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive() // aya's arrays have no Debug
    }
}

impl Maps {
    /// Takes them out of a loaded reflector.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self { counters: typed(ebpf, "COUNTERS")?, clock: typed(ebpf, "CLOCK")?, addresses: Addresses::take(ebpf)? })
    }

    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        let processors = self.counters.get(&0, 0).map_err(|source| failed("COUNTERS", source))?;
        Ok(Counters::sum(processors.iter()))
    }

    pub(crate) fn set_clock(&mut self, tai_minus_utc: Interval, error_estimate: u16) -> Result<(), Error> {
        let record = abi::clock_record(tai_minus_utc, error_estimate);
        self.clock.set(0, record, 0).map_err(|source| failed("CLOCK", source))
    }

    pub(crate) fn set_addresses(&mut self, ours: &[IpAddr], broadcast: &[Ipv4Addr]) -> Result<(), Error> {
        self.addresses.set(ours, broadcast)
    }
}

/// `bpf/addresses.h`: whose datagrams a program takes.
pub(crate) struct Addresses(HashMap<MapData, AddressKey, u32>);

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Addresses")
    }
}

impl Addresses {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        typed(ebpf, "ADDRESSES").map(Self)
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
        let known: Vec<AddressKey> = self.0.keys().collect::<Result<_, _>>().map_err(failed)?;
        for gone in known.iter().filter(|key| !roles.contains_key(*key)) {
            self.0.remove(gone).map_err(failed)?;
        }
        for (key, role) in roles {
            self.0.insert(key, role, 0).map_err(failed)?;
        }
        Ok(())
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
