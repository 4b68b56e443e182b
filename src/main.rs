//! The `pathlab` command.
fn main() {}
