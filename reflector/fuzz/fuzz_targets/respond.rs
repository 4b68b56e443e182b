//! Any bytes through the rules of the Session-Reflector.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::respond(data));
