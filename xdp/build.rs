//! Compiles the kernel programs of `bpf/`.

fn main() {
    pathlab_bpf_build::compile(&["bpf/reflector.bpf.c", "bpf/pass.bpf.c", "bpf/afxdp.bpf.c"]);
}
