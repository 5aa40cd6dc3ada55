//! How long replies take, and from that how long a new one would wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::Load;

/// How much the newest reply counts.
const WEIGHT: f64 = 0.2;

/// A running mean of the time from a reply's start to its end; 0 until one has ended.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bits of an `f64`, in seconds.
    mean: AtomicU64,
}

impl Pace {
    /// Notes that a reply took so long once it had started.
    pub fn note(&self, took: Duration) {
        let took = took.as_secs_f64();
        let blend = |bits| {
            let mean = f64::from_bits(bits);
            let next = if mean == 0.0 { took } else { mean + WEIGHT * (took - mean) };
            Some(next.to_bits())
        };
        // The closure always gives a value.
        let _ = self.mean.fetch_update(Ordering::Relaxed, Ordering::Relaxed, blend);
    }

    /// How long until one of `places` replies that run at once has ended.
    pub fn next_place(&self, places: usize) -> Duration {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        Duration::try_from_secs_f64(mean / places.max(1) as f64).unwrap_or(Duration::MAX)
    }

    /// How long a new reply would wait behind what `load` says is there, where `places` replies
    /// run at once: with all places taken, one comes free every mean time over `places`.
    pub fn wait(&self, load: Load, places: usize) -> Duration {
        let before = (load.running + load.waiting + 1).saturating_sub(places.max(1));
        self.next_place(places).saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(running: usize, waiting: usize) -> Load {
        Load { running, waiting, max_requests: 100 }
    }

    #[test]
    fn the_wait_grows_with_the_queue() {
        let pace = Pace::default();
        assert_eq!(pace.wait(load(4, 100), 4), Duration::ZERO, "nothing is known yet");
        pace.note(Duration::from_secs(8));
        assert_eq!(pace.wait(load(3, 0), 4), Duration::ZERO, "a place is free");
        assert_eq!(pace.wait(load(4, 0), 4), Duration::from_secs(2));
        assert_eq!(pace.wait(load(4, 3), 4), Duration::from_secs(8));
    }

    #[test]
    fn the_mean_follows_what_is_measured() {
        let pace = Pace::default();
        pace.note(Duration::from_secs(10));
        for _ in 0..50 {
            pace.note(Duration::from_secs(1));
        }
        let wait = pace.wait(load(1, 0), 1).as_secs_f64();
        assert!((1.0..1.01).contains(&wait), "{wait}");
    }
}
