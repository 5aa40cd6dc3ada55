//! Running a lowered step on the CPU allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use gguf::Format;
use quarrel_backend::harness::{ModelShape, Random, inputs};
use quarrel_backend::{Backend, Cpu, CpuConfig, GroupConfig};

/// Allocations of all threads so far.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the ones asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this binary: others would allocate beside it.
#[test]
fn steady_state_allocates_nothing() {
    let groups = vec![GroupConfig { n_pages: 16, page_size: 16, window: None }];
    let mut case = ModelShape::TINY.case(&mut Random::new(3), Format::Q4_0, groups);
    case.runs = (1..=40).map(|n| inputs(&case.cache, &[(1, n), (3, n + 3)])).collect();
    let mut cpu = Cpu::new(CpuConfig { threads: Some(2), ..CpuConfig::default() }).unwrap();
    cpu.load(case.weights.clone()).unwrap();
    cpu.create_cache(&case.cache).unwrap();
    let lowered = cpu.lower(&case.step, case.bucket()).unwrap();
    let mut logits = Vec::with_capacity(2 * ModelShape::TINY.n_vocab);
    // The first run may set up what the system does once for each thread.
    cpu.run(lowered, &case.runs[0]).unwrap();
    let mut round = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for run in &case.runs {
            cpu.run(lowered, run).unwrap();
            cpu.read(lowered, case.compare[0], &mut logits).unwrap();
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    // On a busy machine the worker thread may begin its life in any one of them.
    let allocating = (0..10).filter(|_| round() > 0).count();
    assert!(allocating <= 1, "{allocating} of 10 rounds allocated");
}
