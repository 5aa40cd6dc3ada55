//! Which sequences run in the next step, and with how many rows: a pure
//! function of what is known, without clock, device or I/O.
//!
//! The rules: sequences that generate always run, prompts fill what is left of
//! the token budget in the order of the queue (by priority, then by arrival), of
//! which long ones may have only a part beside sequences that generate; a
//! sequence that finds no page takes them from the last one in the queue; the
//! first one therefore always makes progress.

/// Names a sequence.
pub type SequenceId = u64;

/// What the scheduler knows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceState {
    /// Its name.
    pub id: SequenceId,
    /// Whether it takes part already, or still waits.
    pub running: bool,
    /// Tokens whose keys and values are in the cache.
    pub n_cached: usize,
    /// Tokens known: prompt and generated. More than `n_cached`.
    pub n_tokens: usize,
    /// Whether it is at a prompt that takes more than one step in any case.
    pub is_long: bool,
    /// Where a chunk must end at the latest, so that a step holds one role only.
    pub chunk_end: usize,
    /// Logical pages it has in each group.
    pub pages: Vec<usize>,
    /// Pages of each group that come free if it is preempted.
    pub freeable: Vec<usize>,
}

/// What one step may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Rows.
    pub tokens: usize,
    /// Rows of long prompts in a step in which other sequences generate.
    pub long_tokens: usize,
    /// Sequences.
    pub sequences: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// Free pages in each group.
    pub free_pages: Vec<usize>,
    /// Pages one sequence can hold at once in each group: bounded by a window.
    pub page_limit: Vec<usize>,
}

/// The decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduledBatch {
    /// Sequences in the order of the queue, and how many of their next tokens run.
    pub rows: Vec<(SequenceId, usize)>,
    /// Sequences that lose all their pages and wait again.
    pub preempted: Vec<SequenceId>,
}

/// Decides the next step. `sequences` are in the order of the queue.
pub fn schedule(sequences: &[SequenceState], mut budget: Budget) -> ScheduledBatch {
    let mut batch = ScheduledBatch::default();
    let running: Vec<&SequenceState> = sequences.iter().filter(|s| s.running).collect();
    let decoding = |s: &&SequenceState| s.n_tokens - s.n_cached == 1;
    let (decodes, prefills): (Vec<_>, Vec<_>) = running.iter().copied().partition(decoding);
    for sequence in decodes {
        place(sequence, &running, &mut batch, &mut budget);
    }
    if batch.rows.is_empty() {
        budget.long_tokens = budget.tokens;
    }
    for sequence in prefills {
        place(sequence, &running, &mut batch, &mut budget);
    }
    if batch.preempted.is_empty() {
        admit(sequences, &mut batch, &mut budget);
    }
    let turn = |id| sequences.iter().position(|s| s.id == id);
    batch.rows.sort_by_cached_key(|(id, _)| turn(*id));
    batch
}

/// Gives a running sequence what it can get, if need be from those behind it.
fn place(
    sequence: &SequenceState,
    running: &[&SequenceState],
    batch: &mut ScheduledBatch,
    budget: &mut Budget,
) {
    if batch.preempted.contains(&sequence.id) {
        return;
    }
    let mut rows = fitting_rows(sequence, budget);
    while rows == 0 && tokens_for(sequence, budget) > 0 && budget.sequences > 0 {
        let Some(victim) = last_victim(running, sequence.id, batch) else { break };
        preempt(victim, batch, budget);
        if victim.id == sequence.id {
            break;
        }
        rows = fitting_rows(sequence, budget);
    }
    take(sequence, rows, batch, budget);
}

/// Rows that it may have, if there are pages.
fn tokens_for(sequence: &SequenceState, budget: &Budget) -> usize {
    if is_held_back(sequence) { budget.tokens.min(budget.long_tokens) } else { budget.tokens }
}

/// Whether it is at a long prompt, before its last token.
fn is_held_back(sequence: &SequenceState) -> bool {
    sequence.is_long && sequence.n_tokens - sequence.n_cached > 1
}

/// Starts waiting sequences in order, as long as what is known of them fits.
fn admit(sequences: &[SequenceState], batch: &mut ScheduledBatch, budget: &mut Budget) {
    for sequence in sequences.iter().filter(|s| !s.running) {
        let fits = missing(sequence, sequence.n_tokens, budget.page_size)
            .zip(&budget.free_pages)
            .zip(&budget.page_limit)
            .all(|((need, free), limit)| need.min(*limit) <= *free);
        let rows = if fits { fitting_rows(sequence, budget) } else { 0 };
        if rows == 0 {
            return;
        }
        take(sequence, rows, batch, budget);
    }
}

/// The most rows that budget and pages allow.
fn fitting_rows(sequence: &SequenceState, budget: &Budget) -> usize {
    if budget.sequences == 0 {
        return 0;
    }
    let room = sequence
        .pages
        .iter()
        .zip(&budget.free_pages)
        .map(|(held, free)| (held + free) * budget.page_size)
        .min()
        .unwrap_or(usize::MAX);
    let most = sequence.n_cached + tokens_for(sequence, budget);
    let end = sequence.n_tokens.min(sequence.chunk_end).min(room).min(most);
    end.saturating_sub(sequence.n_cached)
}

/// Who gives way for `asking`: the last in the queue, which may be itself, unless it is alone.
fn last_victim<'a>(
    running: &[&'a SequenceState],
    asking: SequenceId,
    batch: &ScheduledBatch,
) -> Option<&'a SequenceState> {
    let mut left = running.iter().filter(|s| !batch.preempted.contains(&s.id));
    let last = left.next_back()?;
    let alone = left.next().is_none();
    // Who was preempted does not ask, so `asking` is the last one or before it.
    (!(alone && last.id == asking)).then_some(*last)
}

fn preempt(victim: &SequenceState, batch: &mut ScheduledBatch, budget: &mut Budget) {
    if let Some(at) = batch.rows.iter().position(|(id, _)| *id == victim.id) {
        let (_, rows) = batch.rows.remove(at);
        budget.tokens += rows;
        budget.sequences += 1;
        let taken = missing(victim, victim.n_cached + rows, budget.page_size);
        budget.free_pages.iter_mut().zip(taken).for_each(|(free, taken)| *free += taken);
    }
    budget.free_pages.iter_mut().zip(&victim.freeable).for_each(|(free, pages)| *free += pages);
    batch.preempted.push(victim.id);
}

fn take(sequence: &SequenceState, rows: usize, batch: &mut ScheduledBatch, budget: &mut Budget) {
    if rows == 0 {
        return;
    }
    let needed = missing(sequence, sequence.n_cached + rows, budget.page_size);
    budget.free_pages.iter_mut().zip(needed).for_each(|(free, needed)| *free -= needed);
    budget.tokens -= rows;
    if is_held_back(sequence) {
        budget.long_tokens -= rows;
    }
    budget.sequences -= 1;
    batch.rows.push((sequence.id, rows));
}

/// Pages of each group still missing for `n_tokens`.
fn missing(sequence: &SequenceState, n_tokens: usize, page_size: usize) -> impl Iterator<Item = usize> {
    sequence.pages.iter().map(move |held| n_tokens.div_ceil(page_size).saturating_sub(*held))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(
        id: SequenceId,
        running: bool,
        n_cached: usize,
        n_tokens: usize,
        pages: usize,
    ) -> SequenceState {
        SequenceState {
            id,
            running,
            n_cached,
            n_tokens,
            is_long: false,
            chunk_end: n_tokens,
            pages: vec![pages],
            freeable: vec![pages],
        }
    }

    fn budget(tokens: usize, free: usize) -> Budget {
        Budget {
            tokens,
            long_tokens: tokens,
            sequences: 8,
            page_size: 4,
            free_pages: vec![free],
            page_limit: vec![100],
        }
    }

    #[test]
    fn decodes_run_and_prompts_fill_the_rest_in_order() {
        let all = [sequence(1, true, 4, 20, 1), sequence(2, true, 7, 8, 2), sequence(3, false, 0, 9, 0)];
        let batch = schedule(&all, budget(10, 100));
        assert_eq!(batch.rows, [(1, 9), (2, 1)]);
        let batch = schedule(&all, budget(20, 100));
        assert_eq!(batch.rows, [(1, 16), (2, 1), (3, 3)]);
        assert!(batch.preempted.is_empty());
    }

    #[test]
    fn long_prompts_have_a_smaller_budget_beside_replies() {
        let mut all = [sequence(1, true, 4, 40, 1), sequence(2, true, 7, 8, 2), sequence(3, false, 0, 9, 0)];
        all[0].is_long = true;
        let limited = Budget { long_tokens: 6, ..budget(20, 100) };
        assert_eq!(schedule(&all, limited.clone()).rows, [(1, 6), (2, 1), (3, 9)]);
        assert_eq!(schedule(&[all[0].clone(), all[2].clone()], limited).rows, [(1, 20)]);
        let none = Budget { long_tokens: 0, ..budget(20, 0) };
        let batch = schedule(&all, none);
        assert_eq!((batch.rows, batch.preempted), (vec![(2, 1)], vec![]), "nobody gives way for no rows");
    }

    #[test]
    fn the_newest_gives_way_and_nobody_is_admitted_meanwhile() {
        let all = [sequence(1, true, 8, 9, 2), sequence(2, true, 8, 9, 2), sequence(3, false, 0, 1, 0)];
        let batch = schedule(&all, budget(10, 0));
        assert_eq!(batch.rows, [(1, 1)]);
        assert_eq!(batch.preempted, [2]);
        let alone = schedule(&all[..1], budget(10, 0));
        assert_eq!(alone, ScheduledBatch::default(), "alone, it has nobody to take pages from");
    }

    #[test]
    fn the_order_of_the_queue_counts_not_the_names() {
        let all = [sequence(9, true, 8, 9, 2), sequence(1, true, 8, 9, 2), sequence(5, false, 0, 1, 0)];
        let batch = schedule(&all, budget(10, 0));
        assert_eq!((batch.rows, batch.preempted), (vec![(9, 1)], vec![1]));
        let batch = schedule(&[all[2].clone(), all[0].clone()], budget(10, 5));
        assert_eq!(batch.rows, [(5, 1), (9, 1)]);
    }

    #[test]
    fn a_chunk_ends_where_the_role_changes_and_where_pages_end() {
        let mut one = sequence(1, true, 0, 20, 0);
        one.chunk_end = 6;
        assert_eq!(schedule(&[one.clone()], budget(100, 100)).rows, [(1, 6)]);
        one.chunk_end = 20;
        assert_eq!(schedule(&[one], budget(100, 2)).rows, [(1, 8)]);
    }

    #[test]
    fn waiting_sequences_start_in_order_or_not_at_all() {
        let all = [sequence(1, false, 0, 40, 0), sequence(2, false, 0, 1, 0)];
        assert_eq!(schedule(&all, budget(100, 9)), ScheduledBatch::default());
        assert_eq!(schedule(&all, budget(100, 11)).rows, [(1, 40), (2, 1)]);
    }
}
