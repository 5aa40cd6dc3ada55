//! Two engines that use a device at once: neither may wait for processors that the other has, and both have the bits that one
//! has alone, while the other comes, runs and goes.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use quarrel_backend::cuda::{Cuda, CudaOptions};
use quarrel_backend::harness::{Case, inputs};
use quarrel_backend::{Backend, Bucket, Error, LoweredId, Role, StepInputs, TokenInputs};

use crate::{Done, invariance, text};

/// Rows of a step: all layers in one launch, and maps whose threadgroups wait for each other.
const ROWS: [u32; 3] = [1, 20, 64];
/// The first engine's and the second's.
const PAIRS: [[usize; 2]; 4] = [[0, 1], [1, 1], [1, 2], [2, 2]];
/// How often the second engine runs a step, and after how many logits are looked at.
const TIMES: usize = 4000;
const LOOKS: usize = 100;
/// Steps of either take milliseconds, and who looks at logits does so every hundred of them.
const MOST: Duration = Duration::from_secs(20);
/// How often it is looked at how far they are.
const EACH: Duration = Duration::from_millis(10);
/// Kernels may not be there yet.
const COMPILING: Duration = Duration::from_secs(120);

/// Both by a model whose maps have a threadgroup for almost every processor.
pub fn check(options: &CudaOptions) -> Done {
    let case = Arc::new(invariance::model_of_engines());
    for pair in PAIRS {
        let stop = Arc::new(AtomicBool::new(false));
        let (said, heard) = mpsc::channel();
        let first = Engine::opened(options, &case, ROWS[pair[0]])?;
        let expected = first.expected.clone();
        let n_runs = first.n_runs.clone();
        let (told, until) = (said.clone(), stop.clone());
        thread::spawn(move || first.run(&told, |_| until.load(Ordering::Relaxed)));
        wait_for_runs(&n_runs, &heard)?;
        // Opened, compiled and loaded while the first runs.
        let second = Engine::opened(options, &case, ROWS[pair[1]])?;
        if pair[0] == pair[1] && second.expected != expected {
            return Err("an engine's bits differ with another beside it".to_owned());
        }
        let both = [n_runs.clone(), second.n_runs.clone()];
        thread::spawn(move || second.run(&said, |n| n >= TIMES));
        hear(&heard, &both)?;
        wait_for_runs(&n_runs, &heard)?;
        stop.store(true, Ordering::Relaxed);
        hear(&heard, &both[..1])?;
        let [first, second] = both.map(|n_runs| n_runs.load(Ordering::Relaxed));
        let rows = pair.map(|i| ROWS[i]);
        println!("engines: {rows:?} rows at once have the bits of one engine, {first} and {second} steps");
    }
    Ok(())
}

/// Waits for an engine to end, while all of them run.
fn hear(heard: &mpsc::Receiver<Done>, n_runs: &[Arc<AtomicUsize>]) -> Done {
    let mut seen: Vec<_> = n_runs.iter().map(|n| (n.load(Ordering::Relaxed), Instant::now())).collect();
    loop {
        match heard.recv_timeout(EACH) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err("an engine's thread ended".to_owned()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        for (nth, ((before, since), n_runs)) in seen.iter_mut().zip(n_runs).enumerate() {
            let now = n_runs.load(Ordering::Relaxed);
            if now != *before {
                (*before, *since) = (now, Instant::now());
            } else if since.elapsed() > MOST {
                give_up(nth, n_runs);
            }
        }
    }
}

/// Where an engine waits for ever nothing can be given back to the device: so the process ends.
fn give_up(nth: usize, n_runs: &AtomicUsize) -> ! {
    println!("FAILED engines: number {nth} makes no steps after {}", n_runs.load(Ordering::Relaxed));
    process::exit(1);
}

/// Waits until an engine has looked at its logits once more.
fn wait_for_runs(n_runs: &AtomicUsize, heard: &mpsc::Receiver<Done>) -> Done {
    let begin = n_runs.load(Ordering::Relaxed);
    for _ in 0..MOST.as_millis() / EACH.as_millis() {
        if n_runs.load(Ordering::Relaxed) >= begin + 2 * LOOKS {
            return Ok(());
        }
        match heard.recv_timeout(EACH) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(done) => return done.and(Err("an engine ended too early".to_owned())),
            Err(RecvTimeoutError::Disconnected) => return Err("an engine's thread ended".to_owned()),
        }
    }
    give_up(0, n_runs)
}

/// An engine with a step to run again and again, and what it gave at first.
struct Engine {
    cuda: Cuda,
    lowered: LoweredId,
    inputs: StepInputs,
    case: Arc<Case>,
    expected: Vec<f32>,
    n_runs: Arc<AtomicUsize>,
}

impl Engine {
    /// As [`open`](Self::open), which itself runs a step beside another engine's: or the process ends.
    fn opened(options: &CudaOptions, case: &Arc<Case>, n_rows: u32) -> Result<Self, String> {
        let (options, case) = (options.clone(), case.clone());
        let (to, opened) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = to.send(Self::open(&options, &case, n_rows));
        });
        match opened.recv_timeout(COMPILING) {
            Ok(engine) => engine.map_err(text),
            Err(_) => {
                println!("FAILED engines: none of {n_rows} rows is open after {COMPILING:?}");
                process::exit(1);
            }
        }
    }

    /// Of a step of so many generated rows from position 0 on.
    fn open(options: &CudaOptions, case: &Arc<Case>, n_rows: u32) -> Result<Self, Error> {
        let mut cuda = Cuda::open(options)?;
        cuda.load(case.weights.clone())?;
        cuda.create_cache(&case.cache)?;
        let rows = n_rows as usize;
        let max_pages = case.cache.groups[0].n_pages as usize;
        let bucket = Bucket { tokens: rows, sequences: 1, outputs: rows, max_pages };
        let lowered = cuda.lower(&case.step, bucket)?;
        let mut inputs = inputs(&case.cache, &[(n_rows, n_rows)]);
        inputs.tokens = TokenInputs::Ids(inputs.positions.iter().map(|position| position * 7 % 13).collect());
        inputs.sequences[0].role = Role::Generated;
        inputs.outputs = (0..n_rows).collect();
        let n_runs = Arc::new(AtomicUsize::new(0));
        let mut engine = Self { cuda, lowered, inputs, case: case.clone(), expected: Vec::new(), n_runs };
        engine.cuda.run(engine.lowered, &engine.inputs)?;
        engine.expected = engine.logits()?;
        Ok(engine)
    }

    fn logits(&mut self) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        self.cuda.read(self.lowered, self.case.compare[0], &mut logits)?;
        Ok(logits)
    }

    /// Runs until it `is_enough`, and says how it went once the engine is gone.
    fn run(mut self, said: &Sender<Done>, is_enough: impl Fn(usize) -> bool) {
        let done = self.run_until(is_enough);
        drop(self);
        // Nobody listens any more where another has failed.
        let _ = said.send(done);
    }

    fn run_until(&mut self, is_enough: impl Fn(usize) -> bool) -> Done {
        while !is_enough(self.n_runs.load(Ordering::Relaxed)) {
            for _ in 0..LOOKS {
                self.cuda.run(self.lowered, &self.inputs).map_err(text)?;
            }
            self.n_runs.fetch_add(LOOKS, Ordering::Relaxed);
            if self.logits().map_err(text)? != self.expected {
                return Err(format!(
                    "{} rows differ with another engine beside them",
                    self.inputs.positions.len()
                ));
            }
        }
        Ok(())
    }
}
