//! Compiles the programs that watch the kernel.

fn main() {
    pathlab_bpf_build::compile(&[
        "bpf/cadence.bpf.c",
        "bpf/drops.bpf.c",
        "bpf/histogram_test.bpf.c",
        "bpf/napi.bpf.c",
        "bpf/sched.bpf.c",
        "bpf/softirq.bpf.c",
        "bpf/sojourn.bpf.c",
    ]);
}
