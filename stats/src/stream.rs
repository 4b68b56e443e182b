//! Seeded randomness in numbered streams, so that work spread over cores gives the same bytes as work done alone.

use std::{num::NonZero, ops::Range, thread};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator behind every random step: ChaCha with 8 rounds, specified bit by bit and the same on every platform.
pub type Generator = ChaCha8Rng;

/// Stream `index` of `purpose` under `seed`. Different purposes (the first 24 bytes count) and different indices are independent.
pub fn generator(seed: u64, purpose: &str, index: u64) -> Generator {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    for (to, from) in key[8..].iter_mut().zip(purpose.bytes()) {
        *to = from;
    }
    let mut generator = Generator::from_seed(key);
    generator.set_stream(index);
    generator
}

/// A matrix of replicates: one row a replicate, one column a statistic.
#[derive(Clone, Debug, PartialEq)]
pub struct Replicates {
    values: Vec<f64>,
    width: usize,
}

impl Replicates {
    /// Replicates given row by row.
    ///
    /// # Panics
    /// When `values` is no whole number of rows.
    pub fn from_rows(values: Vec<f64>, width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are no rows of {width}", values.len());
        Self { values, width }
    }

    /// These and then others.
    ///
    /// # Panics
    /// When they have other columns.
    pub fn extend(&mut self, others: &Self) {
        assert_eq!(self.width, others.width, "the same columns");
        self.values.extend_from_slice(&others.values);
    }

    /// Number of replicates.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// No replicates at all.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of statistics.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The replicates one after the other.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    /// One statistic over all replicates.
    pub fn column(&self, statistic: usize) -> impl Iterator<Item = f64> {
        self.rows().map(move |row| row[statistic])
    }
}

/// Runs `work` `count` times, each with its own stream of `purpose`, over all cores. `work` fills one row of `width` values; `scratch` makes
/// what each core wants to keep between its rows, and must not carry information from one row to the next.
///
/// # Panics
/// When `width` is zero, and when `work` panics.
pub fn replicate<S>(
    seed: u64,
    purpose: &str,
    count: usize,
    width: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut Generator, &mut S, &mut [f64]) + Sync,
) -> Replicates {
    replicate_together(seed, purpose, 0..count, width, 1, scratch, |generators, kept, row| {
        work(&mut generators[0], kept, row);
    })
}

/// [`replicate`] for work that does up to `together` rows at once: it is given a generator for each row and the rows one after the other.
/// Which of them are made is `rows`: those from 500 on are the same whether or not those before were made.
///
/// # Panics
/// When `width` or `together` is zero, and when `work` panics.
pub fn replicate_together<S>(
    seed: u64,
    purpose: &str,
    rows: Range<usize>,
    width: usize,
    together: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut [Generator], &mut S, &mut [f64]) + Sync,
) -> Replicates {
    let (from, count) = (rows.start, rows.len());
    let mut values = vec![0.0; count * width];
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let rows_each = count.div_ceil(cores * together).max(1) * together;
    thread::scope(|scope| {
        for (chunk, rows) in values.chunks_mut(rows_each * width).enumerate() {
            let (scratch, work) = (&scratch, &work);
            scope.spawn(move || {
                let mut kept = scratch();
                for (batch, rows) in rows.chunks_mut(together * width).enumerate() {
                    let first = from + chunk * rows_each + batch * together;
                    let mut generators: Vec<_> =
                        (0..rows.len() / width).map(|row| generator(seed, purpose, (first + row) as u64)).collect();
                    work(&mut generators, &mut kept, rows);
                }
            });
        }
    });
    Replicates::from_rows(values, width)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn cores_do_not_change_a_byte() {
        let parallel = replicate(7, "test", 101, 2, || (), |rng, (), row| row.fill_with(|| rng.random()));
        let alone: Vec<f64> = (0..101)
            .flat_map(|index| {
                let mut rng = generator(7, "test", index);
                [rng.random(), rng.random()]
            })
            .collect();
        assert_eq!(parallel, Replicates::from_rows(alone.clone(), 2));
        let together = replicate_together(
            7,
            "test",
            0..101,
            2,
            8,
            || (),
            |generators, (), rows| {
                for (rng, row) in generators.iter_mut().zip(rows.chunks_exact_mut(2)) {
                    row.fill_with(|| rng.random());
                }
            },
        );
        assert_eq!(together, Replicates::from_rows(alone.clone(), 2));
        let part = |rows| {
            replicate_together(
                7,
                "test",
                rows,
                2,
                3,
                || (),
                |rngs, (), rows| {
                    rngs.iter_mut().zip(rows.chunks_exact_mut(2)).for_each(|(rng, row)| row.fill_with(|| rng.random()));
                },
            )
        };
        let mut parts = part(0..50);
        parts.extend(&part(50..101));
        assert_eq!(parts, Replicates::from_rows(alone, 2));
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let first = |seed, purpose, index| generator(seed, purpose, index).random::<u64>();
        let reference = first(1, "bootstrap", 0);
        assert_eq!(reference, first(1, "bootstrap", 0));
        assert_ne!(reference, first(2, "bootstrap", 0));
        assert_ne!(reference, first(1, "assignment", 0));
        assert_ne!(reference, first(1, "bootstrap", 1));
    }
}
