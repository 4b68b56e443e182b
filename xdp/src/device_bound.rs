//! Loads a program that asks the card itself, which aya 0.14 cannot: bound to one device, and calling kernel functions.
//!
//! ```text
//!  object ── aya ──► maps, in the kernel ────────┐ file descriptors
//!    └── aya-obj ──► instructions ── relocate ◄──┘
//!                        │ call 0x7ff00001  (bpf/kfunc.h)
//!                        ▼
//!                    call kernel function #BTF id ──► BPF_PROG_LOAD, prog_ifindex = the device
//! ```
//!
//! A bound program runs on its device alone, in native mode alone, and cannot be test-run. To be dropped when aya can
//! (its issue 1650).

use std::{
    collections::HashSet,
    ffi::CString,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use aya::{
    Btf, Ebpf,
    maps::{Map, MapData},
};
use aya_obj::{Object, btf::BtfKind, generated::bpf_insn};

use crate::{Error, interface::Interface, xsk::sys};

/// `bpf/kfunc.h`: the helper numbers that stand for kernel functions.
const KERNEL_FUNCTIONS: [(i32, &str); 1] = [(0x7ff0_0001, "bpf_xdp_metadata_rx_timestamp")];

/// Room for what the verifier says of a program that it refuses, in octets.
const VERIFIER_LOG: usize = 16 << 20;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// In the source register of a call: the number is a BTF id.
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;

/// Loads `program` of `object` for `interface`, with the maps that `ebpf` made from the same object.
///
/// # Errors
/// [`Error::DeviceBoundRefused`] where kernel or driver have no such thing, which is what a caller falls back from;
/// [`Error::NotPermitted`]; [`Error::Load`] for anything else.
pub(crate) fn load(ebpf: &Ebpf, object: &[u8], program: &'static str, interface: &Interface) -> Result<OwnedFd, Error> {
    let kernel = Btf::from_sys_fs().map_err(|_| {
        refused(interface, "the kernel does not describe its functions (/sys/kernel/btf/vmlinux)", None)
    })?;
    let instructions = relocate(ebpf, object, program)?;
    let instructions = resolve(&instructions, |name| kernel.id_by_type_name_kind(name, BtfKind::Func).ok())
        .ok_or_else(|| refused(interface, "the kernel has no such functions (Linux 6.3)", None))?;

    let name = CString::new(program).unwrap_or_default();
    sys::load_device_bound(&name, &instructions, interface.index, &mut []).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::EPERM) => Error::NotPermitted { action: "load a BPF program" },
            // kernel/bpf/offload.c: no netdev_ops->ndo_bpf or no xdp_metadata_ops
            Some(libc::EOPNOTSUPP) => refused(interface, "its driver has no XDP metadata", Some(source)),
            _ => {
                let mut log = vec![0; VERIFIER_LOG];
                // Once more, for the reason: the kernel says the same again, this time in words.
                let _ = sys::load_device_bound(&name, &instructions, interface.index, &mut log);
                Error::Load { program, source: format!("{source}; the verifier says: {}", text(&log)).into() }
            }
        }
    })
}

fn refused(interface: &Interface, why: &'static str, source: Option<std::io::Error>) -> Error {
    Error::DeviceBoundRefused { interface: interface.name.clone(), why, source }
}

/// The program's instructions with the maps' descriptors in them.
fn relocate(ebpf: &Ebpf, bytes: &[u8], program: &'static str) -> Result<Vec<bpf_insn>, Error> {
    let failed = |source| Error::Load { program, source };
    let mut object = Object::parse(bytes).map_err(|error| failed(Box::new(error)))?;
    let described = std::mem::take(&mut object.maps);
    let made: Vec<_> = described
        .iter()
        .filter_map(|(name, map)| ebpf.map(name).map(|made| (name.as_str(), descriptor(made), map)))
        .collect();
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(made.into_iter(), &sections).map_err(|error| failed(Box::new(error)))?;
    object.relocate_calls(&sections).map_err(|error| failed(Box::new(error)))?;
    let function = object.programs.get(program).and_then(|program| object.functions.get(&program.function_key()));
    function.map(|function| function.instructions.clone()).ok_or_else(|| failed("no such program in the object".into()))
}

/// The instructions as the kernel reads them, each placeholder replaced by the id that `id_of` gives; `None` where it gives none.
fn resolve(instructions: &[bpf_insn], id_of: impl Fn(&str) -> Option<u32>) -> Option<Vec<u64>> {
    let resolved = instructions.iter().map(|instruction| {
        let (mut source, mut immediate) = (instruction.src_reg(), instruction.imm);
        if instruction.code == CALL
            && source == 0
            && let Some((_, name)) = KERNEL_FUNCTIONS.iter().find(|(number, _)| *number == immediate)
        {
            source = BPF_PSEUDO_KFUNC_CALL;
            immediate = id_of(name)?.cast_signed();
        }
        Some(encode(instruction, source, immediate))
    });
    resolved.collect()
}

/// `struct bpf_insn { u8 code; u8 dst_reg:4, src_reg:4; s16 off; s32 imm; }`.
fn encode(instruction: &bpf_insn, source: u8, immediate: i32) -> u64 {
    let [o0, o1] = instruction.off.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    let destination = instruction.dst_reg();
    let registers = if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    u64::from_ne_bytes([instruction.code, registers, o0, o1, i0, i1, i2, i3])
}

fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).trim().to_owned()
}

fn descriptor(map: &Map) -> RawFd {
    data(map).fd().as_fd().as_raw_fd()
}

/// What aya offers no way to ask of a map of any kind.
fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
        let registers = bpf_insn::new_bitfield_1(destination, source);
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
    }

    fn call(source: u8, immediate: i32) -> bpf_insn {
        instruction(CALL, 0, source, 0, immediate)
    }

    #[test]
    fn placeholders_become_calls_of_kernel_functions_and_the_rest_stays() {
        let program = [call(0, 5), call(0, 0x7ff0_0001), call(1, 0x7ff0_0001), call(0, 0x7ff0_0002)];
        let ids = |name: &str| name.ends_with("rx_timestamp").then_some(1000);
        let expected = [call(0, 5), call(2, 1000), call(1, 0x7ff0_0001), call(0, 0x7ff0_0002)];
        let expected: Vec<u64> =
            expected.iter().map(|instruction| encode(instruction, instruction.src_reg(), instruction.imm)).collect();
        assert_eq!(resolve(&program, ids), Some(expected));
    }

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_has_it() {
        let instruction = instruction(0x79, 1, 10, -8, 0x1234_5678);
        let bytes = encode(&instruction, instruction.src_reg(), instruction.imm).to_ne_bytes();
        let registers = if cfg!(target_endian = "little") { 0xa1 } else { 0x1a };
        assert_eq!(bytes[..2], [0x79, registers]);
        assert_eq!(bytes[2..4], (-8_i16).to_ne_bytes());
        assert_eq!(bytes[4..], 0x1234_5678_i32.to_ne_bytes());
    }

    #[test]
    fn a_kernel_without_the_functions_is_told_apart() {
        assert_eq!(resolve(&[call(0, 0x7ff0_0001)], |_| None), None);
        assert!(resolve(&[call(0, 5)], |_| None).is_some());
    }

    #[test]
    fn the_placeholders_are_those_of_the_header() {
        let header = include_str!("../bpf/kfunc.h");
        for (number, name) in KERNEL_FUNCTIONS {
            let line = header.lines().find(|line| line.contains(&format!("{name})("))).expect(name);
            assert!(line.ends_with(&format!("(void *){number:#x};")), "{line}");
        }
    }
}
