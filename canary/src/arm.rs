//! The bucket decides the arm: canary below the share, so that raising the share only moves control sessions to canary.

use pathlab_record::Arm;

use crate::Share;

/// The arm of a bucket from 0 to 9,999 at this share.
///
/// ```
/// use pathlab_canary::{Share, arm};
/// use pathlab_record::Arm;
///
/// let share = Share::from_buckets(1_500).unwrap();
/// assert_eq!((arm(1_499, share), arm(1_500, share)), (Arm::Canary, Arm::Control));
/// ```
pub fn arm(bucket: u16, share: Share) -> Arm {
    if bucket < share.buckets() { Arm::Canary } else { Arm::Control }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_ramp_nests(bucket in 0..Share::BUCKETS, low in 0..=Share::BUCKETS, high in 0..=Share::BUCKETS) {
            prop_assume!(low <= high);
            let [low, high] = [low, high].map(|buckets| Share::from_buckets(buckets).unwrap());
            if arm(bucket, low) == Arm::Canary {
                prop_assert_eq!(arm(bucket, high), Arm::Canary);
            }
        }
    }
}
