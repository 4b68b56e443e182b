//! What the judge keeps of a session: small, for there may be a million of them.

use pathlab_record::{Arm, SessionBin, SessionKey, SparseHistogram, Window};

/// What one session saw in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Runs of losses, where the source counted them.
    pub(crate) episodes: u64,
    pub(crate) dead: bool,
    /// Share of sessions on the canary in hundredths of a percent, where the lines say it.
    pub(crate) share: Option<u16>,
    /// By [`Series`](crate::Series).
    pub(crate) series: [SparseHistogram; 4],
}

impl Seen {
    /// What another bin of the same window saw.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.lost = self.lost.saturating_add(other.lost);
        self.episodes = self.episodes.saturating_add(other.episodes);
        self.dead |= other.dead;
        self.share = self.share.or(other.share);
        for (kept, new) in self.series.iter_mut().zip(other.series) {
            match kept.is_empty() {
                true => *kept = new,
                false => kept.merge(&new),
            }
        }
    }
}

/// One bin, as much as the looks within an evening need of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bin {
    /// First instant, in microseconds since the epoch.
    pub(crate) start: i64,
    /// First instant after it.
    pub(crate) end: i64,
    pub(crate) source: u16,
    pub(crate) dead: bool,
    /// Median round trip in microseconds; absent where no reply came.
    pub(crate) median: Option<std::num::NonZeroU32>,
    /// Share of packets lost.
    pub(crate) loss: f32,
}

impl Bin {
    /// As a line tells it, its source still to be numbered.
    pub(crate) fn of(bin: &SessionBin) -> Self {
        let median = bin.rtt.as_ref().and_then(|rtt| rtt.quantile(0.5));
        let micros = median.map(|nanos| u32::try_from(nanos / 1_000).unwrap_or(u32::MAX).max(1));
        Self {
            start: bin.start.as_microsecond(),
            end: bin.end.as_microsecond(),
            source: 0,
            dead: bin.dead || (bin.sent > 0 && bin.lost == bin.sent),
            median: micros.and_then(std::num::NonZeroU32::new),
            loss: if bin.sent > 0 { bin.lost as f32 / bin.sent as f32 } else { 0.0 },
        }
    }
}

/// A value for each window that a session was seen in: a handful at most, so a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ByWindow<T>(pub(crate) Vec<(Window, T)>);

impl<T: Default> ByWindow<T> {
    pub(crate) fn get(&self, window: &Window) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == window).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, window: &Window) -> bool {
        self.get(window).is_some()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Window> {
        self.0.iter().map(|(window, _)| window)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a window, made where there is none.
    pub(crate) fn entry(&mut self, window: Window) -> &mut T {
        let place = self.0.iter().position(|(known, _)| *known == window).unwrap_or_else(|| {
            self.0.reserve_exact(1);
            self.0.push((window, T::default()));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }
}

/// One session over all its windows.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) name: Box<str>,
    pub(crate) key: Option<SessionKey>,
    /// Place in the list of cells.
    pub(crate) cell: u16,
    /// The arm that the lines name.
    pub(crate) arm: Option<Arm>,
    pub(crate) windows: ByWindow<Seen>,
    pub(crate) bins: Vec<(Window, Bin)>,
}

/// How a bin lies beside those of its session that its source told of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    Beside,
    /// Over one of them: the clock by which bins begin and end went back.
    Over,
    /// It is one of them, and was not noted again.
    Again,
}

impl Session {
    /// Notes a bin.
    pub(crate) fn note(&mut self, window: Window, bin: Bin) -> Noted {
        let mut noted = Noted::Beside;
        // A labelled window may be shorter than a bin, so that two of them share one.
        for (_, other) in self.bins.iter().filter(|(of, other)| (*of, other.source) == (window, bin.source)) {
            if (other.start, other.end) == (bin.start, bin.end) {
                return Noted::Again;
            }
            if other.start < bin.end && bin.start < other.end {
                noted = Noted::Over;
            }
        }
        if self.bins.len() < 4 {
            self.bins.reserve_exact(1);
        }
        self.bins.push((window, bin));
        noted
    }
}
