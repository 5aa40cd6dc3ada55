//! Two engines that use a device at once: neither may wait for processors that the other has, and both have the bits that one
//! has alone.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use quarrel_backend::cuda::{Cuda, CudaOptions};
use quarrel_backend::harness::{Case, inputs};
use quarrel_backend::{Backend, Bucket, Error, Role, TokenInputs};

use crate::{Done, text};

/// Rows of a step: all layers in one launch, and maps whose threadgroups wait for each other.
const ROWS: [u32; 3] = [1, 20, 64];
/// How often a step runs: launches meet by chance.
const TIMES: usize = 2000;
/// Steps of either take milliseconds.
const MOST: Duration = Duration::from_secs(60);

/// Both at once by a model of `case`, whose cache has room for the longest step.
pub fn check(cuda: &mut Cuda, options: &CudaOptions, case: Case) -> Done {
    let mut expected = Vec::new();
    for n_rows in ROWS {
        expected.push(logits(cuda, &case, n_rows, 1).map_err(text)?);
    }
    let (case, expected) = (Arc::new(case), Arc::new(expected));
    for pair in [[0, 1], [1, 1], [1, 2], [2, 2]] {
        let (done, results) = mpsc::channel();
        for i in pair {
            let engine = Cuda::open(options).map_err(text)?;
            let (case, expected, done) = (case.clone(), expected.clone(), done.clone());
            thread::spawn(move || run(engine, &case, (ROWS[i], &expected[i]), &done));
        }
        drop(done);
        let names = pair.map(|i| ROWS[i]);
        for _ in pair {
            match results.recv_timeout(MOST) {
                Ok(done) => done?,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("engines with {names:?} rows wait for ever"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err("an engine's thread ended".to_owned()),
            }
        }
        println!("invariance: two engines at once with {names:?} rows have the bits of one");
    }
    Ok(())
}

fn run(mut engine: Cuda, case: &Case, (n_rows, expected): (u32, &[f32]), done: &Sender<Done>) {
    let found = logits(&mut engine, case, n_rows, TIMES).map_err(text);
    let same = |found: Vec<f32>| match found == expected {
        true => Ok(()),
        false => Err(format!("{n_rows} rows differ with another engine's beside them")),
    };
    // Nobody waits for what comes after another has failed.
    let _ = done.send(found.and_then(same));
}

/// Logits of the last of `times` runs of a step of so many generated rows from position 0 on.
fn logits(cuda: &mut Cuda, case: &Case, n_rows: u32, times: usize) -> Result<Vec<f32>, Error> {
    cuda.load(case.weights.clone())?;
    cuda.create_cache(&case.cache)?;
    let rows = n_rows as usize;
    let max_pages = case.cache.groups[0].n_pages as usize;
    let lowered = cuda.lower(&case.step, Bucket { tokens: rows, sequences: 1, outputs: rows, max_pages })?;
    let mut run = inputs(&case.cache, &[(n_rows, n_rows)]);
    run.tokens = TokenInputs::Ids(run.positions.iter().map(|position| position * 7 % 13).collect());
    run.sequences[0].role = Role::Generated;
    run.outputs = (0..n_rows).collect();
    for _ in 0..times {
        cuda.run(lowered, &run)?;
    }
    let mut logits = Vec::new();
    cuda.read(lowered, case.compare[0], &mut logits)?;
    Ok(logits)
}
