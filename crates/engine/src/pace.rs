//! How many rows of long prompts a step takes beside replies that are
//! generated: with all that fit, every reply would wait for as long as they take,
//! step after step. A prompt that fits in one step runs whole: in pieces it
//! would hold the replies up for longer in all.
//!
//! Long prompts and replies share the time of a step: prompts get as long as
//! the replies need, longer where there are more of them than replies, but never
//! fewer rows than are worth a step. So running replies become half as fast while
//! a long prompt comes, or slower where so many rows take longer than they.

use std::time::Duration;

/// How much of each new measurement is taken over.
const WEIGHT: f64 = 0.25;

/// After so many steps with prompts comes one without, to see what the replies take.
const LOOK_EVERY: usize = 16;

/// What steps took lately, in seconds.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Fewest rows of prompts, which the runner takes hardly longer for than for one: a row becomes
    /// the dearer the fewer there are, and with no least number they would become ever fewer.
    least: usize,
    /// A step of replies alone.
    replies: Option<f64>,
    /// Steps since the last such.
    mixed: usize,
    /// A row of a prompt.
    row: Option<f64>,
}

impl Pace {
    /// With nothing known but the fewest rows that are worth a step.
    pub fn new(least: usize) -> Self {
        Self { least, replies: None, mixed: 0, row: None }
    }

    /// Notes a step that had so many rows of prompts beside `replies`.
    pub fn record(&mut self, rows: usize, replies: usize, took: Duration) {
        let took = took.as_secs_f64();
        self.mixed += 1;
        if rows == 0 {
            blend(&mut self.replies, took);
            self.mixed = 0;
        } else if replies == 0 {
            blend(&mut self.row, took / rows as f64);
        } else if let Some(alone) = self.replies {
            blend(&mut self.row, (took - alone).max(0.0) / rows as f64);
        }
    }

    /// Rows that `prompts` get together beside `replies`, at most `most`.
    pub fn rows(&self, prompts: usize, replies: usize, most: usize) -> usize {
        let (Some(alone), Some(row)) = (self.replies, self.row) else { return most };
        if self.mixed >= LOOK_EVERY {
            return 0;
        }
        let share = (prompts as f64 / replies.max(1) as f64).max(1.0);
        // What takes no time gives infinity, or NaN: the cast makes them the most and nothing.
        ((alone * share / row) as usize).max(self.least).min(most)
    }
}

/// Moves `known` towards `new`.
fn blend(known: &mut Option<f64>, new: f64) {
    *known = Some(known.map_or(new, |known| known + (new - known) * WEIGHT));
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_held_back_before_anything_is_known() {
        let mut pace = Pace::new(8);
        assert_eq!(pace.rows(1, 1, 512), 512);
        pace.record(512, 0, 512 * MS);
        assert_eq!(pace.rows(1, 1, 512), 512);
    }

    #[test]
    fn prompts_get_as_long_as_replies_or_more_where_more_wait() {
        let mut pace = Pace::new(8);
        pace.record(512, 0, 512 * MS);
        pace.record(0, 4, 40 * MS);
        assert_eq!([1, 4, 8, 100].map(|prompts| pace.rows(prompts, 4, 512)), [40, 40, 80, 512]);
    }

    #[test]
    fn rows_that_become_dearer_become_fewer_but_never_too_few() {
        let mut pace = Pace::new(8);
        for _ in 0..50 {
            pace.record(0, 1, 40 * MS);
            pace.record(40, 1, 120 * MS);
        }
        assert_eq!(pace.rows(1, 1, 512), 20);
        for _ in 0..50 {
            pace.record(0, 1, 40 * MS);
            pace.record(1, 1, 1000 * MS);
        }
        assert_eq!(pace.rows(1, 1, 512), 8);
    }

    #[test]
    fn a_runner_that_takes_long_for_one_row_gets_as_many_as_that_allows() {
        let mut pace = Pace::new(256);
        for _ in 0..50 {
            pace.record(0, 64, 7 * MS);
            pace.record(256, 64, 22 * MS);
        }
        assert_eq!([pace.rows(1, 64, 2048), pace.rows(1, 64, 100)], [256, 100]);
    }

    #[test]
    fn replies_run_alone_now_and_then() {
        let mut pace = Pace::new(8);
        pace.record(0, 4, 40 * MS);
        let steps: Vec<bool> = (0..40)
            .map(|_| {
                let rows = pace.rows(1, 4, 512).min(32);
                pace.record(rows, 4, 80 * MS);
                rows == 0
            })
            .collect();
        assert_eq!(steps.iter().filter(|alone| **alone).count(), 2);
    }

    #[test]
    fn a_backend_that_takes_no_time_holds_nothing_back() {
        let mut pace = Pace::new(8);
        pace.record(0, 1, Duration::ZERO);
        pace.record(8, 1, Duration::ZERO);
        assert_eq!(pace.rows(1, 1, 512), 8);
        pace.record(0, 1, MS);
        assert_eq!(pace.rows(1, 1, 512), 512);
    }
}
