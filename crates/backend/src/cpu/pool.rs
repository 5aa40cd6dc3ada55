//! Worker threads for loops that take microseconds.
//!
//! A worker that has nothing to do spins for a while, because the next loop of
//! a step comes at once, and then parks, because the next step may not.
//! Starting a loop allocates nothing.
//!
//! A loop is closed when its last items are taken. A worker that comes later,
//! because another process had its core, is not waited for.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Checks for work before a worker parks: some 50 µs.
const SPINS: u32 = 4000;

/// Set in [`Shared::state`] while no worker may enter.
const CLOSED: usize = 1;

/// What each worker inside adds to [`Shared::state`].
const INSIDE: usize = 2;

/// What a loop runs on each thread that comes in time, given the thread's number.
type Task<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    /// Grows by one for each loop.
    epoch: AtomicUsize,
    /// Whether the loop is closed, and how many workers are inside.
    state: AtomicUsize,
    /// The current loop. Written while it is closed and nobody is inside, read inside.
    task: UnsafeCell<Option<Task<'static>>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    spins: u32,
}

// SAFETY: `task` is written only while `state` is closed and nobody is inside,
// published by the release store that opens it, and read only by who entered
// with an acquire; everything else is atomic.
unsafe impl Sync for Shared {}

/// A fixed set of threads; the thread that starts a loop takes part in it.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<(JoinHandle<()>, Thread)>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; at least one.
    ///
    /// # Errors
    /// What the system says when it refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            state: AtomicUsize::new(CLOSED),
            task: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            // Who spins on a core that another thread needs delays what it waits for.
            spins: if threads <= cores { SPINS } else { 0 },
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let name = format!("quarrel-cpu-{index}");
            let worker = std::thread::Builder::new().name(name).spawn(move || work(&shared, index))?;
            let thread = worker.thread().clone();
            pool.workers.push((worker, thread));
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(thread)` on this thread and on those that come in time, and
    /// waits for them. A thread may run it twice, one time after the other.
    fn run(&mut self, task: Task<'_>) {
        if self.workers.is_empty() {
            return task(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers use the task only inside
        // the loop, and `Finish` closes it and waits until nobody is inside
        // before this function returns or unwinds.
        let task_static = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the last loop's `Finish` saw to it that the loop is closed and empty.
        unsafe { *shared.task.get() = Some(task_static) };
        shared.state.store(0, Ordering::Release);
        shared.epoch.fetch_add(1, Ordering::Release);
        // A worker that is not parked takes note and returns from its next park at once.
        self.workers.iter().for_each(|(_, thread)| thread.unpark());
        let finish = Finish(shared);
        task(0);
        drop(finish);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a worker thread panicked");
    }

    /// Runs `body(thread, range)` over ranges of at most `grain` items that
    /// together are `0..n`; who gets which is decided as they go.
    ///
    /// # Panics
    /// When a worker's `body` panicked.
    pub fn for_each_range(&mut self, n: usize, grain: usize, body: impl Fn(usize, Range<usize>) + Sync) {
        let grain = grain.max(1);
        if n <= grain {
            if n > 0 {
                body(0, 0..n);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|thread| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= n {
                    return;
                }
                body(thread, start..n.min(start + grain));
            }
        });
    }
}

/// Closes the loop and waits for who is inside, also when the caller's own part panics.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_or(CLOSED, Ordering::Relaxed);
        let mut spins = self.0.spins;
        while self.0.state.load(Ordering::Acquire) != CLOSED {
            if spins > 0 {
                spins -= 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while wait(shared, &mut seen) {
        let open = |state: usize| (state & CLOSED == 0).then_some(state + INSIDE);
        if shared.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, open).is_err() {
            continue;
        }
        // SAFETY: this worker is inside: the task is visible, and nobody writes it
        // until the worker has left.
        let task = unsafe { *shared.task.get() }.expect("a loop has a task");
        if catch_unwind(AssertUnwindSafe(|| task(index))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(INSIDE, Ordering::Release);
    }
}

/// Waits for the next loop; false when the pool is dropped.
fn wait(shared: &Shared, seen: &mut usize) -> bool {
    let mut spins = shared.spins;
    loop {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch != *seen {
            *seen = epoch;
            return !shared.stop.load(Ordering::Relaxed);
        }
        if spins > 0 {
            spins -= 1;
            std::hint::spin_loop();
        } else {
            std::thread::park();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for (worker, thread) in self.workers.drain(..) {
            thread.unpark();
            // A worker catches its tasks' panics, so there is none to report.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for threads in [1, 2, 3, 9] {
            let mut pool = Pool::new(threads).unwrap();
            for n in [0, 1, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each_range(n, 3, |thread, range| {
                    assert!(thread < threads);
                    range.for_each(|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    /// Runs a loop of two items in which the caller's part waits until `worker` has run.
    fn with_a_worker(pool: &mut Pool, worker: impl Fn() + Sync) {
        let started = AtomicBool::new(false);
        pool.for_each_range(2, 1, |thread, _| {
            if thread > 0 {
                started.store(true, Ordering::Release);
                worker();
            }
            while !started.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn parked_workers_wake() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            with_a_worker(&mut pool, || ());
        }
    }

    #[test]
    #[should_panic = "a worker thread panicked"]
    fn a_worker_that_panics_is_noticed() {
        with_a_worker(&mut Pool::new(2).unwrap(), || panic!("on purpose"));
    }

    #[test]
    fn loops_follow_each_other_at_once() {
        let mut pool = Pool::new(4).unwrap();
        for i in 0..20_000 {
            let sum = AtomicUsize::new(0);
            pool.for_each_range(5, 1, |_, range| {
                sum.fetch_add(range.start + i, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 10 + 5 * i);
        }
    }
}
