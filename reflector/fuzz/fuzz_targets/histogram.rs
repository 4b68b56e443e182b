//! A histogram.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::text::histogram(data));
