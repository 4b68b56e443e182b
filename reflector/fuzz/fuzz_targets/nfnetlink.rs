//! Answers of nf_tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::netlink::nfnetlink(data));
