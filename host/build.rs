//! Compiles the programs that watch the kernel.

fn main() {
    pathlab_bpf_build::compile(&["bpf/drops.bpf.c", "bpf/histogram_test.bpf.c"]);
}
