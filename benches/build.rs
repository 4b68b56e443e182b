//! Compiles the programs under test.

fn main() {
    pathlab_bpf_build::compile(&["bpf/xdp.bpf.c"]);
}
