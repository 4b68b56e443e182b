//! Any bytes as the Return Trace of an authentic packet, and as what an ICMP error quotes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::return_trace(data));
