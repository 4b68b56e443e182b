//! Dumps of AF_XDP sockets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pathlab_reflector_fuzz::netlink::xdp_diag(data));
