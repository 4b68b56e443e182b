//! Compiles the program that redirects to the socket.

fn main() {
    pathlab_bpf_build::compile(&["bpf/redirect.bpf.c"]);
}
