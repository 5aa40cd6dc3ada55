//! A runner with a thread of its own, as a device has: it finds the likeliest
//! tokens itself, knows the ids it has drawn before the host does, and is done
//! after a seeded random time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use model::{CacheGroup, ForwardBatch, ModelRunner, RunnerLimits, SubmittedStep, TokenInputs, Wanted};

use super::{N_VOCAB, Parrot};

/// What a step gives of the outputs that wanted it.
#[derive(Default)]
struct Given {
    tokens: Vec<Option<u32>>,
    likeliest: Vec<(u32, f32)>,
    logits: Vec<f32>,
}
type Results = model::Result<Given>;

/// The most of the likeliest tokens that it gives: fewer than some requests want.
pub const MAX_LIKELIEST: usize = 48;

pub struct Delayed {
    limits: RunnerLimits,
    groups: Vec<CacheGroup>,
    steps: Option<Sender<SubmittedStep>>,
    results: Receiver<Results>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
    given: Given,
    /// Steps that were submitted while another ran.
    pub overlapped: Arc<AtomicUsize>,
    /// Rows whose id the host had not seen.
    pub carried: Arc<AtomicUsize>,
    /// Outputs of which the host got some tokens.
    pub likeliest: Arc<AtomicUsize>,
}

/// The device's thread.
struct Device {
    parrot: Parrot,
    last: Vec<Option<u32>>,
    random: u64,
}

impl Delayed {
    pub fn new(parrot: Parrot, seed: u64) -> Self {
        let (steps, queue) = channel::<SubmittedStep>();
        let (done, results) = channel();
        let (limits, groups) = (parrot.limits, parrot.groups.clone());
        let mut device = Device { parrot, last: vec![], random: seed };
        let thread = std::thread::spawn(move || {
            for step in queue {
                if done.send(device.run(step)).is_err() {
                    return;
                }
            }
        });
        Self {
            limits,
            groups,
            steps: Some(steps),
            results,
            thread: Some(thread),
            in_flight: 0,
            given: Given::default(),
            overlapped: Arc::default(),
            carried: Arc::default(),
            likeliest: Arc::default(),
        }
    }
}

impl Device {
    fn run(&mut self, mut step: SubmittedStep) -> Results {
        self.random = self.random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        // Often at once, now and then after a while.
        let micros = (self.random >> 33) % 400;
        if micros < 200 {
            std::thread::sleep(Duration::from_micros(micros));
        }
        let TokenInputs::Ids(ids) = &mut step.batch.tokens else { panic!("the engine sends ids") };
        for &(row, output) in &step.carried {
            assert_eq!(ids[row as usize], 0, "nobody knows the id yet");
            if self.last.is_empty() {
                let problem = "the step before has failed".into();
                return Err(model::Error::Tensor { name: "parrot".into(), problem });
            }
            ids[row as usize] = self.last[output as usize].expect("the token of a carried row was drawn");
        }
        self.last.clear();
        self.parrot.forward(&step.batch)?;
        assert_eq!(step.wanted.len(), step.batch.outputs.len());
        let mut given = Given::default();
        for (row, wanted) in self.parrot.logits()?.chunks_exact(N_VOCAB).zip(&step.wanted) {
            let mut tokens: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
            tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            given.tokens.push(match wanted {
                Wanted::Token => Some(tokens[0].0),
                Wanted::Drawn(draw) => draw.token(tokens.iter().copied()),
                Wanted::Likeliest(_) | Wanted::Logits => None,
            });
            assert!(wanted.n_likeliest() as usize <= MAX_LIKELIEST);
            match *wanted {
                Wanted::Token | Wanted::Drawn(_) => {}
                Wanted::Likeliest(n) => {
                    assert!(n > 0);
                    given.likeliest.extend(&tokens[..n as usize]);
                }
                Wanted::Logits => given.logits.extend_from_slice(row),
            }
        }
        self.last.clone_from(&given.tokens);
        Ok(given)
    }
}

impl ModelRunner for Delayed {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn groups(&self) -> &[CacheGroup] {
        &self.groups
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn max_likeliest(&self) -> usize {
        MAX_LIKELIEST
    }

    fn submit(&mut self, step: &SubmittedStep) -> model::Result<()> {
        assert!(self.in_flight < 2, "one step behind, not more");
        assert!(step.carried.is_empty() || self.in_flight == 1, "ids are carried from the step that runs");
        self.overlapped.fetch_add(self.in_flight, Ordering::Relaxed);
        self.carried.fetch_add(step.carried.len(), Ordering::Relaxed);
        let likeliest = step.wanted.iter().filter(|wanted| matches!(wanted, Wanted::Likeliest(_)));
        self.likeliest.fetch_add(likeliest.count(), Ordering::Relaxed);
        self.in_flight += 1;
        let steps = self.steps.as_ref().expect("only drop takes the sender");
        steps.send(step.clone()).expect("the device runs");
        Ok(())
    }

    fn complete(&mut self) -> model::Result<&[Option<u32>]> {
        self.in_flight = self.in_flight.checked_sub(1).expect("a step is in flight");
        self.given = self.results.recv().expect("the device runs")?;
        Ok(&self.given.tokens)
    }

    fn likeliest(&self) -> &[(u32, f32)] {
        &self.given.likeliest
    }

    fn forward(&mut self, _batch: &ForwardBatch) -> model::Result<()> {
        unreachable!("the engine submits")
    }

    fn logits(&mut self) -> model::Result<&[f32]> {
        Ok(&self.given.logits)
    }

    fn copy_pages(&mut self, _group: usize, _pages: &[(u32, u32)]) -> model::Result<()> {
        unreachable!("nothing forks yet")
    }

    fn description(&self) -> String {
        "delayed parrot".into()
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.in_flight == 0, "the engine completes what it submits");
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
