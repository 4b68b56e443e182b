//! Which instants count, and as what: `19:00-24:00 Asia/Tokyo` as half-open intervals of real time, each belonging to the date it starts on.
//!
//! Hours run on past midnight (`24:00`, and `25:00` for one o'clock as Japanese broadcasters write it). Where a clock change makes a local
//! time twice, the first is meant; where it makes it never, the instant after the gap: so a window over midnight may last an hour more
//! or less than it seems to. An end that is not after the start lies on the next day.

use jiff::{
    SignedDuration, Span, Timestamp,
    civil::{Date, time},
    tz::TimeZone,
};
use pathlab_record::SessionBin;
pub use pathlab_record::Window;

use crate::Windows;

const DAY: i64 = 24 * 60;

/// The evenings of an experiment.
#[derive(Clone, Debug)]
pub struct Evenings {
    /// Minutes after the midnight of the start date.
    start: i64,
    end: i64,
    zone: TimeZone,
    holidays: Vec<Date>,
}

/// Where a bin falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a window.
    In(Window),
    /// Into the evening of a date that is listed as a holiday.
    Holiday(Date),
    /// Partly into an evening: counted as outside, since what it saw cannot be parted.
    Straddles(Date),
    /// Into none.
    Outside,
}

impl Evenings {
    /// The evenings as configured; a sentence about what is wrong with them otherwise.
    pub(crate) fn new(windows: &Windows) -> Result<Self, String> {
        let wrong = || {
            format!(
                "windows.evening {:?}: write two times of day such as \"19:00-24:00\", hours up to 29 for the next morning, at most 24 hours apart",
                windows.evening
            )
        };
        let (start, end) = windows.evening.split_once('-').ok_or_else(wrong)?;
        let (start, mut end) = (minutes(start).ok_or_else(wrong)?, minutes(end).ok_or_else(wrong)?);
        if end <= start {
            end += DAY;
        }
        if end <= start || end - start > DAY {
            return Err(wrong());
        }
        let zone = TimeZone::get(&windows.zone).map_err(|_| {
            format!("windows.zone {:?} is no IANA time zone: write such as \"Asia/Tokyo\"", windows.zone)
        })?;
        Ok(Self { start, end, zone, holidays: windows.holidays.clone() })
    }

    /// First instant of the evening of `date` and first instant after it. `None` at the ends of the calendar.
    pub fn of(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        let instant = |minutes: i64| {
            let day = date.checked_add(Span::new().days(minutes.div_euclid(DAY))).ok()?;
            let minutes = minutes.rem_euclid(DAY);
            let local = day.to_datetime(time((minutes / 60) as i8, (minutes % 60) as i8, 0, 0));
            Some(local.to_zoned(self.zone.clone()).ok()?.timestamp())
        };
        Some((instant(self.start)?, instant(self.end)?))
    }

    /// The place of a bin: by its label `window` where it has one, by the clock otherwise.
    pub fn place(&self, bin: &SessionBin) -> Place {
        match bin.window() {
            Some(window) => self.listed(window),
            None => self.place_of(bin.start, bin.end),
        }
    }

    /// The place of a window that is given by name.
    pub(crate) fn listed(&self, window: Window) -> Place {
        match window {
            Window::Evening(date) if self.holidays.contains(&date) => Place::Holiday(date),
            window => Place::In(window),
        }
    }

    /// The evening that an instant lies in: when it opens and when it closes.
    pub(crate) fn around(&self, time: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let after = time.checked_add(SignedDuration::from_nanos(1)).ok()?;
        match self.place_of(time, after) {
            Place::In(Window::Evening(date)) | Place::Holiday(date) => self.of(date),
            _ => None,
        }
    }

    /// The place of the half-open interval from `start` to `end`.
    pub fn place_of(&self, start: Timestamp, end: Timestamp) -> Place {
        let today = start.to_zoned(self.zone.clone()).date();
        // An evening reaches at most two days past its date, and a bin at most into the next evening.
        let candidates = [1, 0, -1, -2].into_iter().filter_map(|days| today.checked_add(Span::new().days(days)).ok());
        for date in candidates {
            let Some((opens, closes)) = self.of(date) else { continue };
            if start >= closes || end <= opens {
                continue;
            }
            return match start >= opens && end <= closes {
                true if self.holidays.contains(&date) => Place::Holiday(date),
                true => Place::In(Window::Evening(date)),
                false => Place::Straddles(date),
            };
        }
        Place::Outside
    }

    /// How long the evening of `date` lasts in real time.
    pub fn length(&self, date: Date) -> Option<SignedDuration> {
        self.of(date).map(|(opens, closes)| closes.duration_since(opens))
    }
}

/// `25:30` as minutes after midnight, up to `29:59`.
fn minutes(text: &str) -> Option<i64> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number < below)
    };
    Some(number(hours, 30)? * 60 + number(minutes, 60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evenings(evening: &str, zone: &str) -> Evenings {
        let windows = Windows {
            evening: evening.to_owned(),
            zone: zone.to_owned(),
            evenings: 2,
            bin: SignedDuration::from_mins(10),
            holidays: vec!["2026-11-23".parse().unwrap()],
        };
        Evenings::new(&windows).unwrap()
    }

    fn of(evening: &str, zone: &str, date: &str) -> (String, String, f64) {
        let evenings = evenings(evening, zone);
        let date = date.parse().unwrap();
        let (opens, closes) = evenings.of(date).unwrap();
        (opens.to_string(), closes.to_string(), evenings.length(date).unwrap().as_secs_f64() / 3600.0)
    }

    #[test]
    fn tokyo_has_no_surprises() {
        let expected = ("2026-11-21T10:00:00Z".to_owned(), "2026-11-21T15:00:00Z".to_owned(), 5.0);
        assert_eq!(of("19:00-24:00", "Asia/Tokyo", "2026-11-21"), expected);
        assert_eq!(of("19:00-00:00", "Asia/Tokyo", "2026-11-21"), expected);
        assert_eq!(of("25:00-27:30", "Asia/Tokyo", "2026-11-21").0, "2026-11-21T16:00:00Z");
        assert_eq!(of("19:00-26:00", "Asia/Tokyo", "2026-11-21"), of("19:00-02:00", "Asia/Tokyo", "2026-11-21"));
    }

    #[test]
    fn clock_changes_are_counted_in_real_time() {
        // Falling back adds an hour; an end in the gap is the instant after it.
        assert_eq!(of("19:00-02:00", "America/New_York", "2026-10-31").2, 8.0);
        assert_eq!(of("19:00-02:30", "America/New_York", "2026-03-07").2, 7.5);
        assert_eq!(of("19:00-02:00", "Europe/London", "2026-10-24").2, 8.0);
        // Midnight itself does not exist.
        assert_eq!(of("19:00-24:00", "America/Santiago", "2026-09-05").2, 5.0);
        assert_eq!(of("19:00-24:00", "Asia/Beirut", "2026-03-28").2, 5.0);
    }

    #[test]
    fn an_instant_belongs_to_the_date_on_which_its_evening_starts() {
        let late = evenings("19:00-02:00", "Asia/Tokyo");
        let place = |start: &str, end: &str| late.place_of(start.parse().unwrap(), end.parse().unwrap());
        let evening = |date: &str| Place::In(Window::Evening(date.parse().unwrap()));
        assert_eq!(place("2026-11-21T10:00:00Z", "2026-11-21T10:10:00Z"), evening("2026-11-21"));
        // 01:50 in Tokyo on the 22nd is the evening of the 21st.
        assert_eq!(place("2026-11-21T16:50:00Z", "2026-11-21T17:00:00Z"), evening("2026-11-21"));
        assert_eq!(place("2026-11-21T17:00:00Z", "2026-11-21T17:10:00Z"), Place::Outside);
        assert_eq!(
            place("2026-11-21T16:55:00Z", "2026-11-21T17:05:00Z"),
            Place::Straddles("2026-11-21".parse().unwrap())
        );
        assert_eq!(
            place("2026-11-21T09:55:00Z", "2026-11-21T10:05:00Z"),
            Place::Straddles("2026-11-21".parse().unwrap())
        );
        assert_eq!(
            place("2026-11-23T11:00:00Z", "2026-11-23T11:10:00Z"),
            Place::Holiday("2026-11-23".parse().unwrap())
        );
        let broadcast = evenings("25:00-29:59", "Asia/Tokyo");
        let at = |start: &str, end: &str| broadcast.place_of(start.parse().unwrap(), end.parse().unwrap());
        assert_eq!(at("2026-11-21T16:00:00Z", "2026-11-21T16:10:00Z"), evening("2026-11-21"));
    }

    #[test]
    fn a_label_overrides_the_clock() {
        let mut bin = SessionBin { labels: [("window".to_owned(), "aa".into())].into(), ..SessionBin::default() };
        let evenings = evenings("19:00-24:00", "Asia/Tokyo");
        assert_eq!(evenings.place(&bin), Place::In(Window::Aa));
        bin.labels.insert("window".to_owned(), "2026-11-23".into());
        assert_eq!(evenings.place(&bin), Place::Holiday("2026-11-23".parse().unwrap()));
    }
}
