//! Whom a failed command buffer concerns: what it computed for, and what may have read of it,
//! and nobody later.

/// Numbers command buffers as they are committed; none has 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serial(u64);

impl Serial {
    /// The command buffer behind this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The failure that somebody may still have to be told of.
#[derive(Debug, Default)]
pub struct Failures {
    last: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    failed: Serial,
    /// The last that may have read what is missing now.
    encoded: Serial,
    reason: String,
    is_told: bool,
}

impl Failures {
    /// The command buffer `failed` ended in an error, which was noticed when all up to `encoded`
    /// had been begun, without knowing of it.
    pub fn note(&mut self, failed: Serial, encoded: Serial, reason: String) {
        match &mut self.last {
            // Nobody was told of the one before, or this one follows from it.
            Some(last) if !last.is_told || failed <= last.encoded => {
                last.encoded = last.encoded.max(encoded);
            }
            _ => self.last = Some(Failure { failed, encoded, reason, is_told: false }),
        }
    }

    /// Why what ended with `serial` cannot be trusted; `None` if it can. All up to `encoded` have
    /// been begun.
    ///
    /// The first to ask behind the failed one is told in any case: its work may have begun before.
    /// So are those that were begun before anybody was told.
    pub fn told_to(&mut self, serial: Serial, encoded: Serial) -> Option<&str> {
        let failure = self.last.as_mut()?;
        if serial < failure.failed || (serial > failure.encoded && failure.is_told) {
            return None;
        }
        if !failure.is_told {
            failure.encoded = failure.encoded.max(encoded);
        }
        failure.is_told = true;
        Some(&failure.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(n: u64) -> Serial {
        (0..n).fold(Serial::default(), |serial, _| serial.next())
    }

    fn noted(failures: &mut Failures, failed: u64, encoded: u64) {
        failures.note(serial(failed), serial(encoded), format!("{failed} failed"));
    }

    #[test]
    fn the_step_that_failed_and_those_begun_meanwhile_are_told_and_no_others() {
        let mut failures = Failures::default();
        assert_eq!(failures.told_to(serial(3), serial(3)), None);
        noted(&mut failures, 4, 7);
        assert_eq!(failures.told_to(serial(3), serial(3)), None, "it was there before");
        for n in [5, 6, 7] {
            assert_eq!(failures.told_to(serial(n), serial(n)), Some("4 failed"), "{n}");
        }
        assert_eq!(failures.told_to(serial(8), serial(8)), None, "it was begun afterwards");
        noted(&mut failures, 9, 9);
        assert_eq!(failures.told_to(serial(9), serial(9)), Some("9 failed"));
        assert_eq!(failures.told_to(serial(10), serial(10)), None);
    }

    #[test]
    fn a_step_that_was_longer_than_the_failure_is_told() {
        let mut failures = Failures::default();
        // Noticed while the same step was encoded, whose last command buffer is 6.
        noted(&mut failures, 3, 4);
        assert_eq!(failures.told_to(serial(6), serial(6)), Some("3 failed"));
        assert_eq!(failures.told_to(serial(7), serial(7)), None);
    }

    #[test]
    fn a_step_begun_before_anybody_was_told_is_told() {
        let mut failures = Failures::default();
        // Noticed while the next step's first command buffer was encoded; its last is 9.
        noted(&mut failures, 3, 5);
        assert_eq!(failures.told_to(serial(4), serial(9)), Some("3 failed"));
        assert_eq!(failures.told_to(serial(9), serial(9)), Some("3 failed"));
        assert_eq!(failures.told_to(serial(10), serial(10)), None);
    }

    #[test]
    fn failures_that_follow_from_one_are_one() {
        let mut failures = Failures::default();
        noted(&mut failures, 3, 5);
        noted(&mut failures, 4, 6);
        for n in [4, 6] {
            assert_eq!(failures.told_to(serial(n), serial(n)), Some("3 failed"));
        }
        assert_eq!(failures.told_to(serial(7), serial(7)), None);
    }
}
