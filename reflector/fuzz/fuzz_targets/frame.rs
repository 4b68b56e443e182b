//! Any bytes as an Ethernet frame that is turned round.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::frame(data));
