//! On which leg a test packet went missing, read off two counts: the Session-Sender's sequence numbers and the stateful
//! Session-Reflector's own (RFC 8762, section 4.3).
//!
//! A stateful reflector numbers its replies in the order in which the packets came. A *cut* is an answered packet whose number is
//! above those of all before it and below those of all after it. What lies between two cuts is a *block*: `lost` packets of ours
//! have no answer, `missing` numbers of the reflector's were never seen.
//!
//! ```text
//! ours     7   8   9  10  11     lost    = 3 (8, 9, 10)
//! theirs   4   .   .   .   8     missing = 3 (5, 6, 7)   all replies were lost
//!          4   .   .   .   5     missing = 0             no packet arrived
//!          4   .   .   .   6     missing = 1             one reply was lost, two packets did not arrive: nobody can say which
//! ```
//! A burst of any length is one block. Replies that overtake each other change nothing; packets that do widen the block; what a
//! network doubles on the way there takes a number of its own, which is known when either copy's reply comes. More missing than lost
//! means that the counts are not about the same packets: nothing is claimed nearby. A stateless reflector's numbers say nothing.

use std::collections::VecDeque;

/// An answered packet: our sequence number and the reflector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) ours: u32,
    pub(super) theirs: u32,
}

/// What the numbers say of one lost packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    Forward,
    Return,
    Unknown,
}

/// The numbers of one session, as its packets leave the window of those that can still be answered.
#[derive(Debug, Default)]
pub(super) struct Legs {
    /// The reflector was seen to count by itself.
    stateful: bool,
    /// The last packet that closed a block.
    cut: Option<Answered>,
    block: Block,
    /// Numbers that the reflector spent on packets that it saw twice.
    extras: VecDeque<u32>,
    /// Last block with more missing than lost: our number of the packet that closed it.
    doubtful: Option<u32>,
    /// What holds for every lost packet before this number, until an answer comes among them.
    verdict: Option<(u32, Leg)>,
}

/// What has left the window since the last cut.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    answered: u32,
    highest: Option<u32>,
    forward: u32,
    back: u32,
    unknown: u32,
}

/// How far packets may overtake each other, in packets, and how near a doubtful block is.
const REACH: usize = 64;
/// Numbers of doubled packets that are kept.
const MOST_EXTRAS: usize = 64;

impl Legs {
    /// Notes the first reply to a packet.
    pub(super) fn heard(&mut self, reply: Answered) {
        self.stateful |= reply.ours != reply.theirs;
        if self.verdict.is_some_and(|(until, _)| ahead(reply.ours, until).is_some_and(|by| by < 0)) {
            self.verdict = None;
        }
    }

    /// Notes the number of a further reply to a packet: another one than the first reply's when the packet was doubled on its way there.
    pub(super) fn heard_again(&mut self, first: u32, theirs: u32) {
        if theirs != first && !self.extras.contains(&theirs) {
            if self.extras.len() == MOST_EXTRAS {
                self.extras.pop_front();
            }
            self.extras.push_back(theirs);
            self.verdict = None;
        }
    }

    /// Takes an answered packet out of the window, in whose rest `later` are answered, in order of our numbers. Returns how many
    /// packets of the block that it closes were lost on which leg without anybody knowing which: forward, return.
    pub(super) fn retire_answered(&mut self, gone: Answered, later: impl Iterator<Item = Answered>) -> (u64, u64) {
        let above = |floor: u32| ahead(gone.theirs, floor).is_some_and(|by| by > 0);
        let is_cut = self.block.highest.or(self.cut.map(|cut| cut.theirs)).is_none_or(above)
            && later.take(REACH).all(|answered| ahead(answered.theirs, gone.theirs).is_some_and(|by| by > 0));
        if !is_cut {
            self.block.answered += 1;
            self.block.highest = Some(
                self.block.highest.map_or(gone.theirs, |highest| if above(highest) { gone.theirs } else { highest }),
            );
            if self.block.answered as usize >= REACH {
                // Another reflector counts now, or it was started anew.
                *self = Self { stateful: self.stateful, cut: Some(gone), ..Self::default() };
            }
            return (0, 0);
        }
        let Some(cut) = self.cut else {
            (self.cut, self.block) = (Some(gone), Block::default());
            return (0, 0);
        };
        let missing = self.missing(cut, gone, self.block.answered);
        let Block { forward, back, unknown, .. } = std::mem::take(&mut self.block);
        let lost = forward + back + unknown;
        if missing.is_none_or(|missing| missing > lost) {
            self.doubtful = Some(gone.ours);
        }
        self.cut = Some(gone);
        self.extras.retain(|extra| ahead(*extra, gone.theirs).is_some_and(|by| by > 0));
        match missing {
            Some(missing) if self.stateful && missing <= lost && !self.is_doubtful(gone.ours) => {
                let back = missing.saturating_sub(back).min(unknown);
                (u64::from(unknown - back), u64::from(back))
            }
            _ => (0, 0),
        }
    }

    /// Takes a lost packet out of the window, in whose rest `later` are answered; says on which leg it was lost. `next` is the
    /// number of the next packet to be sent.
    pub(super) fn retire_lost(&mut self, ours: u32, next: u32, later: impl Iterator<Item = Answered>) -> Leg {
        let leg = match self.verdict {
            Some((until, leg)) if ahead(until, ours).is_some_and(|by| by > 0) => leg,
            _ => {
                let (until, leg) = self.judge(next, later);
                self.verdict = Some((until, leg));
                leg
            }
        };
        match leg {
            Leg::Forward => self.block.forward += 1,
            Leg::Return => self.block.back += 1,
            Leg::Unknown => self.block.unknown += 1,
        }
        leg
    }

    /// What the open block's lost packets have in common, and up to which number that holds.
    fn judge(&self, next: u32, later: impl Iterator<Item = Answered>) -> (u32, Leg) {
        let near: Vec<Answered> = later.take(3 * REACH).collect();
        let until = near.first().map_or(next, |first| first.ours);
        let Some(cut) = self.cut.filter(|_| self.stateful) else { return (until, Leg::Unknown) };
        let Some(index) = next_cut(self.block.highest.unwrap_or(cut.theirs), &near) else {
            return (until, Leg::Unknown);
        };
        let closing = near[index];
        let answered = self.block.answered + index as u32;
        let lost = lost_between(cut, closing, answered);
        // The blocks that follow, as far as packets may have overtaken each other.
        let mut doubtful_after = false;
        let mut from = index;
        while let Some(step) = next_cut(near[from].theirs, &near[from + 1..]).filter(|_| from < index + REACH) {
            let to = from + 1 + step;
            let missing = self.missing(near[from], near[to], step as u32);
            doubtful_after |= missing.is_none_or(|missing| missing > lost_between(near[from], near[to], step as u32));
            from = to;
        }
        let leg = match self.missing(cut, closing, answered) {
            _ if doubtful_after || self.is_doubtful(cut.ours) => Leg::Unknown,
            Some(0) => Leg::Forward,
            Some(missing) if missing == lost => Leg::Return,
            _ => Leg::Unknown,
        };
        (until, leg)
    }

    /// Numbers between two answered packets that no reply carried; `None` where the numbers contradict each other.
    fn missing(&self, from: Answered, to: Answered, answered: u32) -> Option<u32> {
        let span = u32::try_from(ahead(to.theirs, from.theirs)?).ok()?.checked_sub(1)?;
        let within = |extra: &&u32| {
            ahead(**extra, from.theirs).is_some_and(|by| by > 0) && ahead(to.theirs, **extra).is_some_and(|by| by > 0)
        };
        span.checked_sub(answered)?.checked_sub(self.extras.iter().filter(within).count() as u32)
    }

    fn is_doubtful(&self, ours: u32) -> bool {
        let near = |at: u32| ahead(ours, at).is_some_and(|by| by <= REACH as i32);
        self.doubtful.is_some_and(near)
    }
}

/// The first of `near` that is a cut, where the highest number before them is `highest`.
fn next_cut(mut highest: u32, near: &[Answered]) -> Option<usize> {
    near.iter().enumerate().take(REACH).find_map(|(index, answered)| {
        if ahead(answered.theirs, highest)? <= 0 {
            return None;
        }
        highest = answered.theirs;
        let below = |later: &Answered| ahead(later.theirs, answered.theirs).is_some_and(|by| by > 0);
        near[index + 1..].iter().take(REACH).all(below).then_some(index)
    })
}

/// Packets between two of a block that have no answer, where `answered` have one.
fn lost_between(from: Answered, to: Answered, answered: u32) -> u32 {
    to.ours.wrapping_sub(from.ours).wrapping_sub(1).wrapping_sub(answered)
}

/// By how much `a` is ahead of `b` where numbers wrap (RFC 1982); `None` where half the space lies between, and nobody can say.
fn ahead(a: u32, b: u32) -> Option<i32> {
    let by = a.wrapping_sub(b) as i32;
    (by != i32::MIN).then_some(by)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What happens to one packet on its way.
    #[derive(Clone, Copy, Debug)]
    struct Trip {
        lost: Option<Leg>,
        /// The packet reaches the reflector twice; both replies come.
        doubled: bool,
        /// It is overtaken on its way there by the next.
        overtaken: bool,
    }

    /// Replies as a reflector that counts from `theirs` gives them to packets from number `ours` on.
    fn reflect(trips: &[Trip], ours: u32, theirs: u32) -> Vec<Option<(Answered, Option<u32>)>> {
        let mut order: Vec<usize> = (0..trips.len()).collect();
        let overtaken = trips.iter().enumerate().filter(|(index, trip)| trip.overtaken && index + 1 < trips.len());
        overtaken.for_each(|(index, _)| order.swap(index, index + 1));
        let mut replies = vec![None; trips.len()];
        let mut count = theirs;
        let mut take = || {
            count = count.wrapping_add(1);
            count.wrapping_sub(1)
        };
        for index in order {
            let trip = trips[index];
            if trip.lost == Some(Leg::Forward) {
                continue;
            }
            let number = take();
            let again = trip.doubled.then(&mut take);
            if trip.lost.is_none() {
                replies[index] = Some((Answered { ours: ours.wrapping_add(index as u32), theirs: number }, again));
            }
        }
        replies
    }

    /// Lets every packet leave the window when `window` more have been sent; the leg of each lost one, and what was told by number alone.
    fn play(trips: &[Trip], ours: u32, theirs: u32, window: usize) -> (Vec<Option<Leg>>, (u64, u64)) {
        let replies = reflect(trips, ours, theirs);
        let mut legs = Legs { stateful: true, ..Legs::default() };
        let mut told = Vec::new();
        let mut sum = (0, 0);
        let hear = |legs: &mut Legs, index: usize| {
            if let Some(Some((reply, again))) = replies.get(index) {
                legs.heard(*reply);
                again.inspect(|again| legs.heard_again(reply.theirs, *again));
            }
        };
        (0..window).for_each(|index| hear(&mut legs, index));
        for index in 0..trips.len() {
            hear(&mut legs, index + window);
            let end = (index + 1 + window).min(trips.len());
            let later = replies[index + 1..end].iter().flatten().map(|(reply, _)| *reply);
            told.push(match replies[index] {
                Some((reply, _)) => {
                    let (forward, back) = legs.retire_answered(reply, later);
                    sum = (sum.0 + forward, sum.1 + back);
                    None
                }
                None => {
                    let number = ours.wrapping_add(index as u32);
                    Some(legs.retire_lost(number, ours.wrapping_add(end as u32), later))
                }
            });
        }
        (told, sum)
    }

    fn trip(lost: Option<Leg>) -> Trip {
        Trip { lost, doubled: false, overtaken: false }
    }

    /// `.` answered, `f` lost forward, `r` lost return, `d` doubled, `o` overtaken by the next.
    fn trips(text: &str) -> Vec<Trip> {
        let one = |letter| match letter {
            'f' => trip(Some(Leg::Forward)),
            'r' => trip(Some(Leg::Return)),
            'd' => Trip { doubled: true, ..trip(None) },
            'o' => Trip { overtaken: true, ..trip(None) },
            _ => trip(None),
        };
        text.chars().map(one).collect()
    }

    fn told(text: &str) -> String {
        let (told, _) = play(&trips(text), 0, 5, 1000);
        let letter = |(leg, was): (&Option<Leg>, char)| match leg {
            Some(Leg::Forward) => 'f',
            Some(Leg::Return) => 'r',
            Some(Leg::Unknown) => '?',
            None => was,
        };
        told.iter().zip(text.chars()).map(letter).collect()
    }

    #[test]
    fn bursts_on_one_leg_are_told_and_mixed_ones_are_counted() {
        for (happened, expected) in [
            ("..fff..", "..fff.."),
            ("..rrrr.f.", "..rrrr.f."),
            ("..fr..", "..??.."),
            ("ff..", "??.."),
            ("..rr", "..??"),
            (".dfd.rd.f", ".dfd.rd.?"),
            (".of..ro..", ".of..ro.."),
        ] {
            assert_eq!(told(happened), expected);
        }
        assert_eq!(play(&trips("..frfff..rfr.."), 0, 5, 100).1, (5, 3));
    }

    #[test]
    fn a_lost_doubled_reply_leaves_its_surroundings_open() {
        // Ours 2 took numbers 2 and 3, whose second reply was lost: one number too many is missing there.
        let mut legs = Legs { stateful: true, ..Legs::default() };
        let at = |ours, theirs| Answered { ours, theirs };
        let replies = [at(0, 0), at(2, 1), at(3, 3), at(4, 4)];
        legs.retire_answered(replies[0], replies[1..].iter().copied());
        assert_eq!(legs.retire_lost(1, 9, replies[1..].iter().copied()), Leg::Unknown);
    }

    #[test]
    fn after_a_restart_of_the_reflector_it_is_told_again() {
        let mut legs = Legs { stateful: true, ..Legs::default() };
        let theirs = |ours: u32| if ours < 1000 { ours + 7 } else { ours - 1000 };
        let all: Vec<Answered> =
            (0..2000).filter(|ours| ours % 50 != 3).map(|ours| Answered { ours, theirs: theirs(ours) }).collect();
        let mut told = Vec::new();
        for ours in 0..2000 {
            let later = all.iter().copied().filter(move |answered| answered.ours > ours).take(500);
            match all.iter().find(|answered| answered.ours == ours) {
                Some(answered) => {
                    legs.retire_answered(*answered, later);
                }
                None => told.push((ours, legs.retire_lost(ours, ours + 501, later))),
            }
        }
        for (ours, leg) in told {
            let away_from_it = !(900..1110).contains(&ours);
            assert!(leg == Leg::Return || !away_from_it && leg == Leg::Unknown, "{ours}: {leg:?}");
        }
    }

    fn any_trip(reorder: bool) -> impl Strategy<Value = Trip> {
        let lost = prop_oneof![6 => Just(None), 2 => Just(Some(Leg::Forward)), 2 => Just(Some(Leg::Return))];
        (lost, 0.0..1.0f64, 0.0..1.0f64).prop_map(move |(lost, doubled, overtaken)| Trip {
            lost,
            doubled: lost.is_none() && doubled < 0.1,
            overtaken: reorder && lost.is_none() && overtaken < 0.1,
        })
    }

    proptest! {
        #[test]
        fn what_is_claimed_is_true_and_numbers_add_up(
            trips in prop::collection::vec(any_trip(false), 1..300), ours: u32, theirs: u32, window in 1usize..400,
        ) {
            let (told, (forward, back)) = play(&trips, ours, theirs, window);
            let mut unknown = [0_u64; 2];
            for (trip, told) in trips.iter().zip(&told) {
                match told {
                    Some(Leg::Unknown) => unknown[usize::from(trip.lost == Some(Leg::Return))] += 1,
                    told => prop_assert_eq!(*told, trip.lost),
                }
            }
            prop_assert!(forward <= unknown[0] && back <= unknown[1], "{} {} of {:?}", forward, back, unknown);
            // All between the first answer and the last is told by packet or by number, where whole bursts are seen.
            let whole = window >= trips.len();
            let first = trips.iter().position(|trip| trip.lost.is_none());
            let last = trips.iter().rposition(|trip| trip.lost.is_none());
            if let (true, Some(first), Some(last)) = (whole, first, last) {
                let open = trips[first..last].iter().zip(&told[first..last]).filter(|(_, told)| **told == Some(Leg::Unknown));
                prop_assert_eq!(open.count() as u64, forward + back);
            }
        }

        #[test]
        fn answered_packets_that_overtake_each_other_mislead_nobody(
            trips in prop::collection::vec(any_trip(true), 1..300), ours: u32, theirs: u32,
        ) {
            // Only pairs whose second is answered too change places.
            let mut trips = trips;
            for index in 0..trips.len() {
                let next_moves = trips.get(index + 1).is_some_and(|next| next.lost.is_none() && !next.overtaken);
                trips[index].overtaken &= next_moves;
            }
            let (told, _) = play(&trips, ours, theirs, 1000);
            for (trip, told) in trips.iter().zip(&told) {
                prop_assert!(*told == Some(Leg::Unknown) || *told == trip.lost);
            }
        }

        #[test]
        fn no_numbers_of_a_peer_panic(
            replies in prop::collection::vec((any::<bool>(), any::<u32>(), any::<bool>()), 0..200), ours: u32,
        ) {
            let mut legs = Legs::default();
            let all: Vec<Option<Answered>> = replies
                .iter()
                .enumerate()
                .map(|(index, (answered, theirs, _))| {
                    answered.then(|| Answered { ours: ours.wrapping_add(index as u32), theirs: *theirs })
                })
                .collect();
            let mut counted = 0;
            for (index, answered) in all.iter().enumerate() {
                let later = all[index + 1..].iter().flatten().copied();
                match answered {
                    Some(answered) => {
                        legs.heard(*answered);
                        legs.heard_again(answered.theirs, replies[index].1 ^ u32::from(replies[index].2));
                        let (forward, back) = legs.retire_answered(*answered, later);
                        counted += forward + back;
                    }
                    None => {
                        let number = ours.wrapping_add(index as u32);
                        legs.retire_lost(number, ours.wrapping_add(all.len() as u32), later);
                    }
                }
            }
            prop_assert!(counted <= all.iter().filter(|answered| answered.is_none()).count() as u64);
        }
    }
}
