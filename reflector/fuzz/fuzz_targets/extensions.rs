//! Any bytes as the extensions of a packet whose reflector has keys.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::extensions(data));
