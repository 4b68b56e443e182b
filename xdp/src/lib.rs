//! Kernel-bypass mechanism: stamps as close to the wire as the kernel and the card allow. It knows packets, not experiments.

mod sys;
pub mod timestamping;
pub mod xsk;
