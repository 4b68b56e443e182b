//! Answers of rtnetlink.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::netlink::rtnetlink(data));
