//! The Error Estimate covers the truth: made-up clocks of a host and its card, both off from UTC as far as is said of them.

use std::sync::Mutex;

use pathlab_xdp::clock::{Assurance, CrossStamp, Track, Vouch, Wander};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

#[test]
fn an_unsynchronised_kernel_earns_no_s_bit() {
    let quality = ClockQuality { max_error: 16_000_000_000, ..ClockQuality::UNKNOWN };
    assert!(!quality.error_estimate().is_synchronised());
    assert!(quality.error_estimate().nanos() >= Some(16_000_000_000));
}

#[test]
fn this_kernel_answers() {
    let quality = ClockQuality::measure().expect("adjtimex without modes needs no privilege");
    assert!(quality.error_estimate().nanos() >= Some(quality.max_error));
    assert!(quality.reading_cost >= 1);
    assert!(monotonic_now() <= monotonic_now());
}

#[test]
fn every_software_stamp_states_an_uncertainty() {
    assert!(software(realtime_now()).uncertainty >= 1);
    assert_eq!(from_wire(WireTime::Ptp(Time::from_nanos(5))).uncertainty(), 1);
}

/// A card's clock by the real fit, fed by hand.
struct Card(Mutex<Track>);

impl NicClock for Card {
    fn phc(&self) -> u32 {
        0
    }

    fn utc(&self, nic: i64) -> Option<Reading<Realtime>> {
        self.0.lock().unwrap().teller().tell(nic)
    }

    fn uncertainty(&self) -> Option<u64> {
        self.0.lock().unwrap().teller().uncertainty()
    }

    fn vouch(&self, from: Time<Monotonic>, to: Time<Monotonic>) -> Vouch {
        self.0.lock().unwrap().vouch(from, to)
    }

    fn assurance(&self) -> Assurance {
        let track = self.0.lock().unwrap();
        Assurance { fit: track.steps() as u32, steps: track.steps(), confirmed: track.confirmed_until() }
    }
}

#[test]
fn s_is_earned_by_kernel_and_card_together() {
    let daemon = ClockQuality { synchronised: true, max_error: 100_000, reading_cost: 30 };
    let card = Card(Mutex::new(Track::new(Wander::default())));
    assert!(daemon.error_estimate_of(None).is_synchronised());
    assert!(!daemon.error_estimate_of(Some(&card)).is_synchronised(), "nothing is known of the card yet");
    for beat in 0..20 {
        card.0.lock().unwrap().observe(cross_stamp(beat * 100_000_000, 0, 400));
    }
    let known = daemon.error_estimate_of(Some(&card));
    assert!(known.is_synchronised() && known.nanos() > daemon.error_estimate().nanos());
    let alone = ClockQuality { synchronised: false, ..daemon };
    assert!(!alone.error_estimate_of(Some(&card)).is_synchronised());
}

const UTC: i64 = 1_792_000_000_000_000_000;

/// The card shows true time; the host is `off` from it.
fn cross_stamp(true_time: i64, off: i64, half_width: u64) -> CrossStamp {
    let monotonic = Time::from_nanos(true_time);
    let realtime = Time::from_nanos(UTC + true_time + off);
    CrossStamp { phc: UTC + true_time, realtime, half_width, began: monotonic, ended: monotonic }
}

/// 400 hosts. Each is as far from UTC as its kernel allows, and runs away at up to 100 ppm until the kernel is asked again; its card's
/// cross-stamps are off by up to their half-width. Every stamp of card and software is then within the Error Estimate of UTC, which is not wider than 4
/// times what there is to be known: the kernel's bound as it has grown, and one cross-stamp's half-width.
#[test]
fn the_error_estimate_covers_utc_and_is_not_wide() {
    let (mut told, mut widest) = (0, 0.0_f64);
    for seed in 0..400 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let max_error = 10_f64.powf(rng.random_range(3.5..10.0)) as u64;
        let quality = ClockQuality { synchronised: true, max_error, reading_cost: rng.random_range(15..80) };
        let half_width = rng.random_range(50..3000_i64);
        let off = rng.random_range(-1.0..=1.0) * max_error as f64;
        let rate: f64 = rng.random_range(-100e-6..100e-6);
        let host = |true_time: i64| (off + rate * true_time as f64).round() as i64;
        let card = Card(Mutex::new(Track::new(Wander::default())));
        let mut now = -5_000_000_000;
        while now < 0 {
            let error = rng.random_range(-half_width..=half_width);
            card.0.lock().unwrap().observe(cross_stamp(now, host(now) + error, half_width as u64));
            let due = card.0.lock().unwrap().teller().due();
            now += due;
        }
        // time 0: the kernel is asked
        let estimate = quality.error_estimate_of(Some(&card));
        let stated = estimate.nanos().expect("an estimate");
        let cross_stamped = now - card.0.lock().unwrap().teller().due();
        for _ in 0..50 {
            let at = rng.random_range(0..quality.holds().as_nanos());
            let software = (host(at) + rng.random_range(-15..15)).unsigned_abs();
            assert!(software <= stated, "seed {seed}: software off by {software}, stated {stated}");
            let Some(reading) = card.utc(UTC + at).filter(|_| at > cross_stamped) else { continue };
            let nic = (reading.time.as_nanos() - UTC - at).unsigned_abs();
            assert!(nic <= stated, "seed {seed}: card off by {nic}, stated {stated}");
            told += 1;
            let allowed = max_error as f64 + at as f64 / 2000.0 + half_width as f64;
            widest = widest.max(stated as f64 / allowed);
        }
    }
    println!("{told} stamps of cards, {widest:.2} of what is allowed at most");
    assert!(told > 5000, "{told}");
    assert!(widest <= 4.0, "{widest}");
}
