//! Compiles the kernel programs of `bpf/`.

fn main() {
    pathlab_bpf_build::compile("bpf/reflector.bpf.c");
    pathlab_bpf_build::compile("bpf/pass.bpf.c");
    pathlab_bpf_build::compile("bpf/afxdp.bpf.c");
}
