//! Compiles the programs under test, and those that count and time at the ends of the wire.

fn main() {
    pathlab_bpf_build::compile(&[
        "bpf/xdp.bpf.c",
        "bpf/replies.bpf.c",
        "bpf/arrivals.bpf.c",
        "bpf/passive.bpf.c",
        "bpf/departures.bpf.c",
        "bpf/steer.bpf.c",
    ]);
}
