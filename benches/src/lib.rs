//! Benchmarks of pathlab beside plain baselines, interleaved in one run, so that what disturbs one disturbs the others.
//!
//! `cargo run --release -p pathlab-benches --bin xdp-test-run` prints nanoseconds per packet of the reflector in the driver, of a
//! baseline that swaps, reads the clock and mends a checksum, and of a bare swap. `--bin reflector-flood` prints replies a second of
//! every datapath beside a plain recvmmsg echo. Both need root.

mod echo;

pub use echo::recvmmsg_echo;

/// The middle of some figures; the upper of two. `None` of none.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(3.0));
    }
}
