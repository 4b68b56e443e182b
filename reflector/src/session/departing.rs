//! The last replies by the number under which their departure will be told, until it is.

use pathlab_record::{Realtime, Time};

use super::Reply;

/// A bounded table: a reply gives way to the one that comes a table's length later.
pub(crate) struct Departing(Box<[Option<Entry>]>);

#[derive(Clone, Copy)]
struct Entry {
    id: u64,
    reply: Reply,
    sent: Time<Realtime>,
}

impl Departing {
    /// Room for the `most` replies that may be on their way at once.
    pub(crate) fn new(most: usize) -> Self {
        Self(vec![None; most.max(1)].into())
    }

    /// Notes a reply that was given to the kernel under `id`, its B3 `sent`.
    pub(crate) fn put(&mut self, id: u64, reply: Reply, sent: Time<Realtime>) {
        let place = self.place(id);
        self.0[place] = Some(Entry { id, reply, sent });
    }

    /// The reply of `id` and its B3. It stays: several planes may tell of one departure.
    pub(crate) fn find(&self, id: u64) -> Option<(Reply, Time<Realtime>)> {
        self.0[self.place(id)].filter(|known| known.id == id).map(|known| (known.reply, known.sent))
    }

    fn place(&self, id: u64) -> usize {
        (id % self.0.len() as u64) as usize
    }
}
