//! A histogram small enough that a million sessions fit in memory, and HdrHistogram on the wire.
//!
//! One configuration, so that any two can be merged: **nanoseconds, 1 ns to 60 s, 3 significant digits** (the value that comes back
//! is within 0.1 % of the one that went in; up to 2,047 ns it is exact). Only occupied buckets are stored, four bytes each.

mod v2;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Error;

/// `log2` of half the sub-buckets: 3 significant digits need 2,000, rounded up to 2,048.
const HALF_MAGNITUDE: u32 = 10;
const HALF: u64 = 1 << HALF_MAGNITUDE;
/// Buckets that 60 s need, in the array of a dense histogram of this configuration.
const INDEXES: usize = 27 * HALF as usize;
/// Counts are written as signed integers.
const MOST: u64 = i64::MAX as u64;

/// Sparse HdrHistogram of nanoseconds (see the module's first lines for its bounds); a base64 string in JSON.
///
/// ```
/// # use pathlab_record::SparseHistogram;
/// let mut rtt = SparseHistogram::new();
/// for milliseconds in 1..=100 {
///     rtt.record(milliseconds * 1_000_000);
/// }
/// assert_eq!(rtt.count(), 100);
/// assert_eq!(rtt.quantile(0.95), Some(95_027_199)); // 95 ms, to 3 digits
/// assert_eq!(SparseHistogram::from_base64(&rtt.to_base64())?, rtt);
/// # Ok::<(), pathlab_record::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SparseHistogram(Buckets);

/// Occupied buckets by index. A session's counts fit 16 bits, those of a whole stratum do not.
#[derive(Clone, Debug)]
enum Buckets {
    Narrow(Vec<(u16, u16)>),
    Wide(Vec<(u16, u64)>),
}

impl Default for Buckets {
    fn default() -> Self {
        Self::Narrow(Vec::new())
    }
}

impl SparseHistogram {
    /// The smallest value told apart from zero, in nanoseconds.
    pub const LOWEST: u64 = 1;
    /// The largest value, in nanoseconds; what lies above is recorded as this.
    pub const HIGHEST: u64 = 60_000_000_000;
    /// Significant decimal digits kept.
    pub const DIGITS: u8 = 3;

    /// An empty histogram; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one value in nanoseconds; a value above 60 s counts as 60 s.
    pub fn record(&mut self, nanoseconds: u64) {
        self.record_n(nanoseconds, 1);
    }

    /// Counts a value in nanoseconds `count` times. Counts saturate at `i64::MAX`, which is what the format can hold.
    pub fn record_n(&mut self, nanoseconds: u64, count: u64) {
        self.add(index_of(nanoseconds.min(Self::HIGHEST)), count);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        if let (Buckets::Narrow(own), Buckets::Narrow(others)) = (&self.0, &other.0)
            && let Some(merged) = merged(own, others)
        {
            self.0 = Buckets::Narrow(merged);
            return;
        }
        for (index, count) in other.buckets() {
            self.add(index, count);
        }
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets().fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.buckets().next().is_none()
    }

    /// The value in nanoseconds that a share `quantile` (0 to 1) of the values does not exceed: the upper edge of its bucket, but the
    /// lower edge for 0. `None` when empty. The same as `value_at_quantile` of other HdrHistograms.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = ((quantile.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let mut last = None;
        for (index, count) in self.buckets() {
            seen = seen.saturating_add(count);
            last = Some(index);
            if seen >= rank {
                break;
            }
        }
        last.map(|index| if quantile <= 0.0 { lower_edge(index) } else { upper_edge(index) })
    }

    /// Lower edge of the lowest occupied bucket, in nanoseconds.
    pub fn min(&self) -> Option<u64> {
        self.quantile(0.0)
    }

    /// Upper edge of the highest occupied bucket, in nanoseconds.
    pub fn max(&self) -> Option<u64> {
        self.buckets().last().map(|(index, _)| upper_edge(index))
    }

    /// Occupied buckets in order: the bucket's upper edge in nanoseconds (what [`quantile`](Self::quantile) returns) and its count.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + Clone + '_ {
        self.buckets().map(|(index, count)| (upper_edge(index), count))
    }

    /// Occupied buckets in order: lowest and highest value in nanoseconds that fall into it, and its count.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.buckets().map(|(index, count)| (lower_edge(index), upper_edge(index), count))
    }

    fn buckets(&self) -> impl DoubleEndedIterator<Item = (u16, u64)> + Clone + '_ {
        let (narrow, wide) = match &self.0 {
            Buckets::Narrow(buckets) => (buckets.as_slice(), [].as_slice()),
            Buckets::Wide(buckets) => ([].as_slice(), buckets.as_slice()),
        };
        let narrow = narrow.iter().map(|&(index, count)| (index, u64::from(count)));
        narrow.chain(wide.iter().copied())
    }

    fn add(&mut self, index: u16, count: u64) {
        if count == 0 {
            return;
        }
        if let Buckets::Narrow(buckets) = &mut self.0 {
            let place = buckets.binary_search_by_key(&index, |bucket| bucket.0);
            let present = place.map_or(0, |at| u64::from(buckets[at].1));
            if let Ok(sum) = u16::try_from(present.saturating_add(count)) {
                match place {
                    Ok(at) => buckets[at].1 = sum,
                    Err(at) => buckets.insert(at, (index, sum)),
                }
                return;
            }
            let widened = buckets.iter().map(|&(index, count)| (index, u64::from(count))).collect();
            self.0 = Buckets::Wide(widened);
        }
        if let Buckets::Wide(buckets) = &mut self.0 {
            match buckets.binary_search_by_key(&index, |bucket| bucket.0) {
                Ok(at) => buckets[at].1 = buckets[at].1.saturating_add(count).min(MOST),
                Err(at) => buckets.insert(at, (index, count.min(MOST))),
            }
        }
    }
}

/// Equal when they count the same, however they store it.
impl PartialEq for SparseHistogram {
    fn eq(&self, other: &Self) -> bool {
        self.buckets().eq(other.buckets())
    }
}

impl Eq for SparseHistogram {}

impl Extend<u64> for SparseHistogram {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.record(value));
    }
}

impl FromIterator<u64> for SparseHistogram {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut histogram = Self::new();
        histogram.extend(values);
        histogram
    }
}

impl Serialize for SparseHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for SparseHistogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl de::Visitor<'_> for Base64 {
            type Value = SparseHistogram;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a base64 HdrHistogram V2")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SparseHistogram, E> {
                SparseHistogram::from_base64(text).map_err(|error: Error| E::custom(error))
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

/// Both lists as one without spare room; `None` where a sum does not fit.
fn merged(one: &[(u16, u16)], other: &[(u16, u16)]) -> Option<Vec<(u16, u16)>> {
    let (mut one, mut other) = (one.iter().copied().peekable(), other.iter().copied().peekable());
    let mut all = Vec::with_capacity(one.len() + other.len());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some((a, _)), Some((b, _))) if a == b => {
                let ((index, a), (_, b)) = (one.next()?, other.next()?);
                (index, a.checked_add(b)?)
            }
            (Some((a, _)), Some((b, _))) if a < b => one.next()?,
            (Some(_), None) => one.next()?,
            (_, Some(_)) => other.next()?,
            (None, None) => break,
        };
        all.push(next);
    }
    all.shrink_to_fit();
    Some(all)
}

/// HdrHistogram's index function: linear below 2,048 ns, then 1,024 steps to each doubling.
fn index_of(value: u64) -> u16 {
    let bucket = (u64::BITS - HALF_MAGNITUDE - 1) - (value | (2 * HALF - 1)).leading_zeros();
    let index = (u64::from(bucket + 1) << HALF_MAGNITUDE) + (value >> bucket) - HALF;
    index as u16 // at most INDEXES, as no caller passes more than HIGHEST
}

/// The bucket's lowest value and the width of the bucket.
fn bounds(index: u16) -> (u64, u64) {
    let index = u64::from(index);
    match index >> HALF_MAGNITUDE {
        0 => (index, 1),
        row => (((index & (HALF - 1)) + HALF) << (row - 1), 1 << (row - 1)),
    }
}

fn lower_edge(index: u16) -> u64 {
    bounds(index).0
}

fn upper_edge(index: u16) -> u64 {
    let (lowest, width) = bounds(index);
    lowest + width - 1
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    use super::*;

    pub(super) fn dense() -> Histogram<u64> {
        Histogram::new_with_bounds(SparseHistogram::LOWEST, SparseHistogram::HIGHEST, SparseHistogram::DIGITS).unwrap()
    }

    /// Values over every power of ten, with counts that sometimes need more than 16 bits.
    pub(super) fn any_counts() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let value =
            (0..36_u32, any::<u64>()).prop_map(|(bits, raw)| raw % (1 << bits) % (SparseHistogram::HIGHEST + 1));
        let count = prop_oneof![8 => 1..4_u64, 2 => 1..200_000_u64, 1 => 1..1_u64 << 40];
        prop::collection::vec((value, count), 0..80)
    }

    pub(super) fn both(counts: &[(u64, u64)]) -> (SparseHistogram, Histogram<u64>) {
        let (mut sparse, mut dense) = (SparseHistogram::new(), dense());
        for &(value, count) in counts {
            sparse.record_n(value, count);
            dense.record_n(value, count).unwrap();
        }
        (sparse, dense)
    }

    #[test]
    fn a_session_of_sixty_samples_takes_four_bytes_a_sample() {
        assert_eq!(size_of::<(u16, u16)>(), 4);
        assert!(size_of::<SparseHistogram>() <= 32);
    }

    #[test]
    fn what_lies_above_sixty_seconds_counts_as_sixty() {
        let sparse: SparseHistogram = [u64::MAX, SparseHistogram::HIGHEST].into_iter().collect();
        assert_eq!(sparse.iter().map(|(_, count)| count).collect::<Vec<_>>(), [2]);
        assert!(usize::from(index_of(SparseHistogram::HIGHEST)) < INDEXES);
    }

    #[test]
    fn an_empty_one_has_no_quantile() {
        let empty = SparseHistogram::new();
        assert_eq!((empty.count(), empty.quantile(0.5), empty.min(), empty.max()), (0, None, None, None));
    }

    #[test]
    fn counts_saturate_at_what_the_format_holds() {
        let mut sparse = SparseHistogram::new();
        sparse.record_n(5, u64::MAX);
        sparse.record_n(5, 1);
        assert_eq!(sparse.count(), MOST);
        assert_eq!(SparseHistogram::from_base64(&sparse.to_base64()).unwrap(), sparse);
    }

    proptest! {
        #[test]
        fn agrees_with_the_dense_histogram(counts in any_counts(), quantile in 0.0..=1.0_f64) {
            let (sparse, dense) = both(&counts);
            prop_assert_eq!(sparse.count(), dense.len());
            let recorded: Vec<_> = dense.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
            prop_assert_eq!(sparse.iter().collect::<Vec<_>>(), recorded);
            for quantile in [0.0, 0.5, 0.95, 0.999, 1.0, quantile] {
                prop_assert_eq!(sparse.quantile(quantile).unwrap_or(0), dense.value_at_quantile(quantile));
            }
            prop_assert_eq!(sparse.max().unwrap_or(0), dense.max());
        }

        #[test]
        fn merging_is_recording_both(left in any_counts(), right in any_counts()) {
            let (mut merged, _) = both(&left);
            merged.merge(&both(&right).0);
            prop_assert_eq!(merged, both(&[left, right].concat()).0);
        }

        #[test]
        fn three_digits_are_kept(value in 0..=SparseHistogram::HIGHEST) {
            let edges = (lower_edge(index_of(value)), upper_edge(index_of(value)));
            prop_assert!(edges.0 <= value && value <= edges.1);
            prop_assert!((edges.1 - edges.0) as f64 <= value as f64 / 1000.0);
        }
    }
}
