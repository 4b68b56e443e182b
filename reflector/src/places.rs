//! Where in the host time was spent: the stages between a request's arrival and its reply's departure, by queue, CPU and NUMA node, so
//! that a change of interrupt affinity or of RSS shows where it moved the time.

use pathlab_record::{Interval, Realtime, Time};

use crate::sys;

/// More places than a host has in use at once; what comes from yet another is counted under one without queue and CPUs.
const PLACES: usize = 512;

/// A place in the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Receive queue; absent over sockets, where the kernel does not tell.
    pub queue: Option<u32>,
    /// CPU of the queue's interrupt, which ran the XDP program; absent over sockets.
    pub irq_cpu: Option<u32>,
    /// CPU that the reflector ran on.
    pub cpu: Option<u32>,
    /// NUMA node of that CPU.
    pub node: Option<u32>,
}

impl Place {
    /// Where the calling thread runs, by now.
    pub(crate) fn here(queue: Option<u32>) -> Self {
        let (cpu, node) = sys::current_cpu().ok().unzip();
        Self { queue, irq_cpu: None, cpu, node }
    }
}

/// What was measured at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// B3 - B2.
    pub residence: Bins,
    /// From B2 on its plane to the reflector.
    pub arrive: Bins,
    /// From there to B3.
    pub answer: Bins,
    /// From B3 to the hand-over to the driver.
    pub leave: Bins,
}

/// The stages of every place that a worker has met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    known: Vec<(Place, Stages)>,
    /// Most packets come from where the last one came.
    last: usize,
}

impl Places {
    /// A reply to a request that came at `received`, its B2, and that the reflector had at `app`, was sent at `sent`, its B3.
    pub(crate) fn answered(
        &mut self,
        place: Place,
        received: Time<Realtime>,
        app: Time<Realtime>,
        sent: Time<Realtime>,
    ) {
        let stages = self.at(place);
        stages.residence.record(sent - received);
        stages.arrive.record(app - received);
        stages.answer.record(sent - app);
    }

    /// A reply was handed to the driver `span` after its B3.
    pub(crate) fn left(&mut self, place: Place, span: Interval) {
        self.at(place).leave.record(span);
    }

    /// Every place with what was measured there, in order.
    pub(crate) fn all(&self) -> Vec<(Place, Stages)> {
        let mut all = self.known.clone();
        all.sort_unstable_by_key(|(place, _)| *place);
        all
    }

    /// Adds what another worker measured.
    pub(crate) fn add(&mut self, other: &Self) {
        for (place, theirs) in &other.known {
            let mine = self.at(*place);
            mine.residence.add(&theirs.residence);
            mine.arrive.add(&theirs.arrive);
            mine.answer.add(&theirs.answer);
            mine.leave.add(&theirs.leave);
        }
    }

    fn at(&mut self, place: Place) -> &mut Stages {
        if self.known.get(self.last).is_none_or(|(known, _)| *known != place) {
            let find = |place| self.known.iter().position(|(known, _)| *known == place);
            let full = self.known.len() >= PLACES;
            let (place, known) = match find(place) {
                None if full => (Place::default(), find(Place::default())),
                known => (place, known),
            };
            self.last = known.unwrap_or_else(|| {
                self.known.push((place, Stages::default()));
                self.known.len() - 1
            });
        }
        &mut self.known[self.last].1
    }
}

/// A histogram of spans in fixed bins, three to a decade: small enough for every place of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bins {
    /// Spans in each bin, those above the last bound at the end.
    counts: [u64; BOUNDS.len() + 1],
    sum: i64,
}

/// Upper bounds of the bins in nanoseconds, inclusive: 200 ns to 1 s.
pub const BOUNDS: [i64; 21] = [
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

impl Bins {
    /// Counts a span; one that points backwards, as after a step of the clock, is left out.
    fn record(&mut self, span: Interval) {
        let nanos = span.as_nanos();
        if nanos >= 0 {
            self.counts[BOUNDS.partition_point(|bound| *bound < nanos)] += 1;
            self.sum = self.sum.saturating_add(nanos);
        }
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many spans.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Nanoseconds of all spans together.
    pub fn sum(&self) -> i64 {
        self.sum
    }

    /// Spans in each bin with the bin's upper bound in nanoseconds; the last has none.
    pub fn bins(&self) -> impl Iterator<Item = (Option<i64>, u64)> + '_ {
        BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply after `span`.
    fn answered(places: &mut Places, place: Place, span: i64) {
        places.answered(place, Time::from_nanos(0), Time::from_nanos(span - 1), Time::from_nanos(span));
    }

    const fn nanos(n: i64) -> Interval {
        Interval::from_nanos(n)
    }

    #[test]
    fn a_span_is_in_the_first_bin_that_holds_it() {
        let mut bins = Bins::default();
        for span in [0, 200, 201, 500, 1_000_000_000, 1_000_000_001, -1] {
            bins.record(nanos(span));
        }
        let filled: Vec<_> = bins.bins().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(200), 2), (Some(500), 2), (Some(1_000_000_000), 1), (None, 1)]);
        assert_eq!((bins.count(), bins.sum()), (6, 2_000_000_902));
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn each_place_has_its_own_stages() {
        let mut places = Places::default();
        let place = |cpu| Place { queue: Some(1), cpu: Some(cpu), ..Place::default() };
        for cpu in [3, 2, 3] {
            answered(&mut places, place(cpu), 700);
        }
        places.left(place(2), nanos(5));
        let all = places.all();
        let counts =
            |stages: &Stages| [stages.residence, stages.arrive, stages.answer, stages.leave].map(|bins| bins.count());
        let seen: Vec<_> = all.iter().map(|(place, stages)| (place.cpu, counts(stages))).collect();
        assert_eq!(seen, [(Some(2), [1, 1, 1, 1]), (Some(3), [2, 2, 2, 0])]);
    }

    #[test]
    fn workers_are_added_place_by_place() {
        let (mut one, mut other) = (Places::default(), Places::default());
        let place = |cpu| Place { cpu: Some(cpu), ..Place::default() };
        answered(&mut one, place(1), 300);
        answered(&mut other, place(1), 400);
        answered(&mut other, place(2), 5);
        one.add(&other);
        let seen: Vec<_> =
            one.all().iter().map(|(_, stages)| (stages.residence.count(), stages.residence.sum())).collect();
        assert_eq!(seen, [(2, 700), (1, 5)]);
    }

    #[test]
    fn no_number_of_places_makes_it_grow() {
        let mut places = Places::default();
        for cpu in 0..3000 {
            answered(&mut places, Place { cpu: Some(cpu), ..Place::default() }, 1);
        }
        let all = places.all();
        assert_eq!(all.len(), PLACES + 1);
        assert_eq!(all[0], (Place::default(), all[0].1));
        assert_eq!(all.iter().map(|(_, stages)| stages.residence.count()).sum::<u64>(), 3000);
    }

    #[test]
    fn a_thread_knows_where_it_runs() {
        let here = Place::here(Some(4));
        assert_eq!((here.queue, here.irq_cpu), (Some(4), None));
        assert!(here.cpu.is_some() && here.node.is_some());
    }
}
