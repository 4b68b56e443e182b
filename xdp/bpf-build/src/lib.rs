//! Build helper: compiles a crate's `bpf/*.bpf.c` with the distribution's clang.
