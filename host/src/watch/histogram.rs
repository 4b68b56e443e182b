//! How long something took, as the kernel counted it (`bpf/histogram.h`), and what can be told of it: a quantile to within 1/32.

use std::ops::Range;

use serde::{Serialize, Serializer, ser::SerializeStruct};

const SHIFT: u32 = 4;
/// Of which the last holds all that took 2³⁵ ns (34 s) or longer.
const BUCKETS: usize = 512;
const BITS: u32 = 35;
/// `struct histogram` in words: the sum, and the buckets.
pub(crate) const WORDS: usize = 1 + BUCKETS;

/// Durations in nanoseconds by buckets, sixteen an octave; shorter than 16 ns each has its own.
///
/// As JSON it is `count`, and in nanoseconds `mean`, `p50`, `p99` and `max`, which are null where nothing was counted. A quantile is the middle of
/// its bucket.
#[derive(Clone, PartialEq)]
pub struct Histogram {
    sum: u64,
    counts: Box<[u64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sum: 0, counts: Box::new([0; BUCKETS]) }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Histogram")
            .field("sum", &self.sum)
            .field("buckets", &self.buckets().collect::<Vec<_>>())
            .finish()
    }
}

impl Histogram {
    /// Of a `struct histogram`; words that are missing are zero.
    pub(crate) fn of(words: &[u64]) -> Self {
        let mut histogram = Self { sum: words.first().copied().unwrap_or(0), ..Self::default() };
        histogram.counts.iter_mut().zip(words.iter().skip(1)).for_each(|(count, word)| *count = *word);
        histogram
    }

    /// What came since an earlier reading of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut histogram = Self { sum: self.sum.saturating_sub(earlier.sum), ..Self::default() };
        let pairs = self.counts.iter().zip(earlier.counts.iter());
        histogram.counts.iter_mut().zip(pairs).for_each(|(count, (now, then))| *count = now.saturating_sub(*then));
        histogram
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Nanoseconds of all of them together, exactly.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Nanoseconds of one of them; absent where there is none.
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// The bucket with the quantile `q` of 0 to 1, by nearest rank; absent where there is no duration.
    pub fn quantile(&self, q: f64) -> Option<Bucket> {
        let rank = ((q * self.count() as f64).ceil() as u64).clamp(1, self.count().max(1));
        let mut passed = 0;
        self.buckets()
            .map(|(bucket, count)| {
                (bucket, {
                    passed += count;
                    passed
                })
            })
            .find(|(_, passed)| *passed >= rank)
            .map(|(bucket, _)| bucket)
    }

    /// The bucket with the longest; absent where there is no duration.
    pub fn max(&self) -> Option<Bucket> {
        self.buckets().last().map(|(bucket, _)| bucket)
    }

    /// The buckets that hold something, the shortest first, with how many.
    pub fn buckets(&self) -> impl Iterator<Item = (Bucket, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(place, count)| (Bucket(place), *count))
    }
}

/// What several processors, threads or queues counted, as one.
impl<'a> std::iter::Sum<&'a Histogram> for Histogram {
    fn sum<I: Iterator<Item = &'a Histogram>>(histograms: I) -> Self {
        let mut all = Self::default();
        for histogram in histograms {
            all.sum = all.sum.wrapping_add(histogram.sum);
            all.counts.iter_mut().zip(histogram.counts.iter()).for_each(|(count, more)| *count += more);
        }
        all
    }
}

/// A place in a [`Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(usize);

impl Bucket {
    /// The one that holds a duration.
    pub fn holding(nanoseconds: u64) -> Self {
        if nanoseconds >> BITS > 0 {
            return Self(BUCKETS - 1);
        }
        let octave = (nanoseconds | 1 << SHIFT).ilog2() - SHIFT;
        Self(((octave as usize) << SHIFT) + (nanoseconds >> octave) as usize)
    }

    /// The nanoseconds that it holds. No duration that is longer has a bucket, so that the last holds those too.
    pub fn range(self) -> Range<u64> {
        let octave = (self.0 >> SHIFT).saturating_sub(1);
        let low = ((self.0 - (octave << SHIFT)) as u64) << octave;
        low..low + (1 << octave)
    }

    /// Nanoseconds in the middle: what is told of it, at most [`error`](Self::error) from the truth.
    pub fn middle(self) -> u64 {
        self.range().start + self.error()
    }

    /// Half of its width, in nanoseconds: at most 1/32 of what it holds.
    pub fn error(self) -> u64 {
        (self.range().end - self.range().start) / 2
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Histogram", 5)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("mean", &self.mean().map(|mean| mean.round() as u64))?;
        fields.serialize_field("p50", &self.quantile(0.5).map(Bucket::middle))?;
        fields.serialize_field("p99", &self.quantile(0.99).map(Bucket::middle))?;
        fields.serialize_field("max", &self.max().map(Bucket::middle))?;
        fields.end()
    }
}

/// For tests of what is read of histograms.
#[cfg(test)]
impl FromIterator<u64> for Histogram {
    fn from_iter<I: IntoIterator<Item = u64>>(durations: I) -> Self {
        let mut histogram = Self::default();
        for nanoseconds in durations {
            histogram.sum = histogram.sum.wrapping_add(nanoseconds);
            histogram.counts[Bucket::holding(nanoseconds).0] += 1;
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use aya::{
        Ebpf,
        maps::PerCpuArray,
        programs::{RawTracePoint, RawTracePointRunOptions, TestRun},
    };
    use pathlab_guard::privilege::root_or_skip;
    use proptest::prelude::*;

    use super::*;

    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/histogram_test.bpf.o"));

    /// As many of each length.
    fn any_duration() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift)
    }

    #[test]
    fn buckets_lie_side_by_side_and_each_is_narrow() {
        for place in 0..BUCKETS {
            let Range { start, end } = Bucket(place).range();
            assert_eq!([start, end - 1].map(Bucket::holding), [Bucket(place); 2]);
            assert!(Bucket(place).error() * 32 <= start, "{start}..{end}");
            assert!(place + 1 == BUCKETS || end == Bucket(place + 1).range().start);
        }
        assert_eq!(Bucket(BUCKETS - 1).range().end, 1 << BITS);
        assert_eq!(Bucket::holding(u64::MAX), Bucket(BUCKETS - 1));
    }

    #[test]
    fn the_kernel_has_the_same_buckets() {
        if !root_or_skip("the_kernel_has_the_same_buckets") {
            return;
        }
        let mut ebpf = Ebpf::load(OBJECT).expect("loads");
        let program: &mut RawTracePoint = ebpf.program_mut("add").expect("there").try_into().expect("a raw tracepoint");
        program.load().expect("loads");
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        let inner = (0..BUCKETS).flat_map(|place| [Bucket(place).range().start, Bucket(place).range().end - 1]);
        let durations: Vec<u64> = edges.chain(inner).chain([u64::MAX]).collect();
        for nanoseconds in &durations {
            let mut options = RawTracePointRunOptions::new();
            options.args[0] = *nanoseconds;
            program.test_run(options).expect("runs");
        }
        let map =
            PerCpuArray::<_, [u64; WORDS]>::try_from(ebpf.map("HISTOGRAM").expect("there")).expect("of this shape");
        let parts: Vec<Histogram> = map.get(&0, 0).expect("an entry").iter().map(|part| Histogram::of(part)).collect();
        let counted: Histogram = parts.iter().sum();
        assert_eq!(counted, durations.into_iter().collect());
    }

    #[test]
    fn json_has_the_count_and_nanoseconds() {
        let histogram: Histogram = (1..=100).map(|number| number * 1_000).collect();
        let json = serde_json::to_value(&histogram).expect("JSON");
        assert_eq!(
            json,
            serde_json::json!({ "count": 100, "mean": 50_500, "p50": 50_176, "p99": 100_352, "max": 100_352 })
        );
        let json = serde_json::to_value(Histogram::default()).expect("JSON");
        assert_eq!(json, serde_json::json!({ "count": 0, "mean": null, "p50": null, "p99": null, "max": null }));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_falls_into_it(nanoseconds in any_duration()) {
            let bucket = Bucket::holding(nanoseconds);
            prop_assert!(bucket.range().contains(&nanoseconds.min((1 << BITS) - 1)));
            prop_assert!(bucket.middle().abs_diff(nanoseconds.min((1 << BITS) - 1)) <= bucket.error());
        }

        #[test]
        fn a_quantile_is_in_the_bucket_of_the_sorted_values(mut durations in proptest::collection::vec(any_duration(), 1..200), q in 0.0..=1.0_f64) {
            let histogram: Histogram = durations.iter().copied().collect();
            durations.sort_unstable();
            let rank = ((q * durations.len() as f64).ceil() as usize).max(1);
            prop_assert_eq!(histogram.quantile(q), Some(Bucket::holding(durations[rank - 1])));
            prop_assert_eq!(histogram.max(), durations.last().map(|longest| Bucket::holding(*longest)));
            prop_assert_eq!(histogram.count(), durations.len() as u64);
        }

        #[test]
        fn a_window_is_what_was_added_in_it(first in proptest::collection::vec(0_u64..1 << 40, 0..50), then in proptest::collection::vec(0_u64..1 << 40, 0..50)) {
            let [earlier, more] = [&first, &then].map(|durations| durations.iter().copied().collect::<Histogram>());
            let now: Histogram = [&earlier, &more].into_iter().sum();
            prop_assert_eq!(now.since(&earlier), more);
            prop_assert_eq!(now.sum(), first.iter().chain(&then).sum::<u64>());
            prop_assert_eq!(now.since(&now).max(), None);
        }
    }
}
