//! Compiles the programs that look at sessions in the kernel, and a mistake that the tests build on purpose.

fn main() {
    pathlab_bpf_build::compile(&["bpf/departures.bpf.c", "bpf/passive.bpf.c", "tests/steering/late_mark.bpf.c"]);
}
