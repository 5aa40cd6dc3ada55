//! How fast memory can be read at all: what decoding is measured against,
//! since it reads every weight once a step.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// How long is read.
const SPAN: Duration = Duration::from_millis(500);

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Lines between two looks at the clock: 1 MiB, far longer than a look takes.
const LINES_A_LOOK: usize = (1 << 20) / size_of::<Line>();

/// Bytes a second that `threads` threads read together, each its part of
/// `bytes` over and over.
pub fn rate(bytes: u64, threads: u32) -> f64 {
    let lines = (bytes / u64::from(threads)).div_ceil(size_of::<Line>() as u64).max(1);
    let ready = Barrier::new(threads as usize);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(|| read(lines, &ready))).collect();
        readers.into_iter().map(|reader| reader.join().expect("reading cannot panic")).sum()
    })
}

/// One thread's part.
fn read(lines: u64, ready: &Barrier) -> f64 {
    // Written here, so that the pages are this thread's and none is the zero page.
    let lines: Vec<Line> = (1..=lines).map(|i| Line([i; 8])).collect();
    ready.wait();
    let start = Instant::now();
    let mut sum = [0; 8];
    let mut read = 0;
    for part in lines.chunks(LINES_A_LOOK).cycle() {
        sum = add(sum, part);
        read += size_of_val(part);
        if start.elapsed() >= SPAN {
            break;
        }
    }
    black_box(sum);
    read as f64 / start.elapsed().as_secs_f64()
}

/// Eight sums side by side: vector registers, and no addition waits for another of its line.
fn add(mut sum: [u64; 8], lines: &[Line]) -> [u64; 8] {
    for line in lines {
        for (sum, value) in sum.iter_mut().zip(line.0) {
            *sum = sum.wrapping_add(value);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_counts() {
        let lines: Vec<Line> = (1..=100).map(|i| Line([i, 0, 0, 0, 0, 0, 0, u64::MAX])).collect();
        let sum = add([0; 8], &lines);
        assert_eq!((sum[0], sum[1], sum[7]), (5050, 0, 100_u64.wrapping_neg()));
    }

    #[test]
    fn even_nothing_is_read_at_some_rate() {
        assert!(rate(0, 2) > 0.0);
    }
}
