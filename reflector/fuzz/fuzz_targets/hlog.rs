//! A line of an interval log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::text::hlog(data));
