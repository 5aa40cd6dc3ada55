//! The scheduler over a simulated machine: seeded arrivals, cancels and page
//! shortage, a million steps in all. A failure names its seed.

use quarrel_engine::scheduler::{Budget, ScheduledBatch, SequenceId, SequenceState, schedule};

const PAGE: usize = 4;
const SEEDS: u64 = 200;
const STEPS: usize = 5_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A sequence as the engine would keep it, with the least that scheduling needs.
#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    running: bool,
    n_prompt: usize,
    n_tokens: usize,
    n_cached: usize,
    /// Tokens at which it is over.
    end: usize,
    pages: Vec<usize>,
    /// Steps in which it was the oldest and got nothing.
    starved: usize,
}

struct Machine {
    random: Random,
    sequences: Vec<Sequence>,
    /// Pages of each group in all.
    pools: Vec<usize>,
    max_tokens: usize,
    max_sequences: usize,
    next_id: SequenceId,
    finished: usize,
    preempted: usize,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let n_groups = 1 + random.below(3);
        let pools = (0..n_groups).map(|_| 16 + random.below(48)).collect();
        let (max_tokens, max_sequences) = (1 + random.below(40), 1 + random.below(12));
        Self {
            random,
            sequences: Vec::new(),
            pools,
            max_tokens,
            max_sequences,
            next_id: 0,
            finished: 0,
            preempted: 0,
        }
    }

    fn free(&self) -> Vec<usize> {
        let used = |g: usize| self.sequences.iter().map(|s| s.pages[g]).sum::<usize>();
        (0..self.pools.len()).map(|g| self.pools[g] - used(g)).collect()
    }

    fn arrive(&mut self) {
        // Alone, a sequence always fits: admission refuses what never could.
        let most = self.pools.iter().min().unwrap() * PAGE;
        let n_prompt = 1 + self.random.below(most - 1);
        let end = n_prompt + 1 + self.random.below(most - n_prompt);
        let pages = vec![0; self.pools.len()];
        let id = self.next_id;
        self.next_id += 1;
        self.sequences.push(Sequence {
            id,
            running: false,
            n_prompt,
            n_tokens: n_prompt,
            n_cached: 0,
            end,
            pages,
            starved: 0,
        });
    }

    fn states(&self) -> Vec<SequenceState> {
        let state = |s: &Sequence| SequenceState {
            id: s.id,
            running: s.running,
            n_cached: s.n_cached,
            n_tokens: s.n_tokens,
            is_long: s.n_cached < s.n_prompt && s.n_prompt > self.max_tokens,
            chunk_end: if s.n_cached < s.n_prompt { s.n_prompt } else { s.n_tokens },
            pages: s.pages.clone(),
            freeable: s.pages.clone(),
        };
        self.sequences.iter().map(state).collect()
    }

    fn step(&mut self) {
        if self.sequences.len() < 24 && self.random.below(3) == 0 {
            self.arrive();
        }
        if !self.sequences.is_empty() && self.random.below(50) == 0 {
            let victim = self.random.below(self.sequences.len());
            self.sequences.remove(victim);
        }
        let budget = Budget {
            tokens: self.max_tokens,
            long_tokens: self.random.below(self.max_tokens),
            sequences: self.max_sequences,
            page_size: PAGE,
            free_pages: self.free(),
            page_limit: vec![usize::MAX; self.pools.len()],
        };
        let states = self.states();
        let batch = schedule(&states, budget.clone());
        assert_eq!(batch, schedule(&states, budget), "a pure function decides the same twice");
        self.check(&batch);
        self.apply(&batch);
    }

    fn check(&mut self, batch: &ScheduledBatch) {
        assert!(batch.rows.iter().map(|(_, n)| n).sum::<usize>() <= self.max_tokens);
        assert!(batch.rows.len() <= self.max_sequences);
        assert!(batch.rows.iter().all(|(id, n)| *n > 0 && !batch.preempted.contains(id)));
        assert!(batch.rows.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, each once");
        let running = || self.sequences.iter().filter(|s| s.running);
        for id in &batch.preempted {
            let kept_newer = running().any(|s| s.id > *id && !batch.preempted.contains(&s.id));
            assert!(!kept_newer, "the newest give way first");
        }
        // Generated tokens wait for nobody but those generating before them.
        let decodes = running().filter(|s| s.n_tokens - s.n_cached == 1 && !batch.preempted.contains(&s.id));
        let missed = decodes.filter(|s| batch.rows.iter().all(|(id, _)| id != &s.id)).count();
        assert!(missed == 0 || batch.rows.len() == self.max_sequences.min(self.max_tokens), "{batch:?}");
        if let Some(oldest) = self.sequences.first_mut() {
            let progress = batch.rows.iter().any(|(id, _)| *id == oldest.id);
            oldest.starved = if progress { 0 } else { oldest.starved + 1 };
            // It can wait while others use the sequence or token budget up, until they are done.
            assert!(oldest.starved <= 1000, "sequence {} starves", oldest.id);
        }
        assert!(self.sequences.is_empty() || !batch.rows.is_empty(), "somebody always runs");
    }

    fn apply(&mut self, batch: &ScheduledBatch) {
        for sequence in self.sequences.iter_mut().filter(|s| batch.preempted.contains(&s.id)) {
            self.preempted += 1;
            sequence.running = false;
            sequence.n_cached = 0;
            sequence.pages.fill(0);
        }
        for &(id, n) in &batch.rows {
            let sequence = self.sequences.iter_mut().find(|s| s.id == id).expect("only known sequences run");
            assert!(sequence.n_cached + n <= sequence.n_tokens);
            sequence.running = true;
            sequence.n_cached += n;
            let pages = sequence.n_cached.div_ceil(PAGE);
            sequence.pages.iter_mut().for_each(|held| *held = pages.max(*held));
            if sequence.n_cached == sequence.n_tokens {
                sequence.n_tokens += 1;
            }
        }
        for (used, pool) in (0..self.pools.len())
            .map(|g| (self.sequences.iter().map(|s| s.pages[g]).sum::<usize>(), self.pools[g]))
        {
            assert!(used <= pool, "{used} pages of {pool}");
        }
        let before = self.sequences.len();
        self.sequences.retain(|s| s.n_tokens < s.end);
        self.finished += before - self.sequences.len();
    }
}

#[test]
fn invariants_hold_over_seeded_histories() {
    let (mut finished, mut preempted) = (0, 0);
    for seed in 0..SEEDS {
        let mut machine = Machine::new(seed);
        let history = std::panic::AssertUnwindSafe(|| (0..STEPS).for_each(|_| machine.step()));
        if std::panic::catch_unwind(history).is_err() {
            panic!("seed {seed} broke an invariant, see above");
        }
        finished += machine.finished;
        preempted += machine.preempted;
    }
    assert!(finished > 1000 && preempted > 1000, "{finished} finished, {preempted} preempted: too tame");
}
