//! Measuring: what is run, not how fast.

mod common;

use common::{OPTIONS, cpu, tiny};
use quarrel_model::bench::{Workload, measure};
use quarrel_model::{Error, LoadOptions};

const WORKLOAD: Workload = Workload { prompt: 40, generated: 48, depth: 40, batch: 3, repetitions: 2 };

const THREE: LoadOptions = LoadOptions { context: Some(128), max_sequences: 3, max_outputs: 3, ..OPTIONS };

#[test]
fn sequences_side_by_side() {
    // A window whose pages come round, and chunks shorter than the prompt.
    for name in ["llama", "llama-window"] {
        let options = LoadOptions { max_batch_tokens: 8, ..THREE };
        let mut model = tiny(name, cpu(), &options);
        let figures = measure(&mut model, &WORKLOAD).expect("128 tokens of three sequences fit");
        let rates = [figures.prefill, figures.decode].map(|rate| rate.expect("both were asked for").mean);
        assert!(rates.iter().all(|&rate| rate > 0.0), "{rates:?}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let load = |options| tiny("llama", cpu(), &options);
    let cases = [
        (THREE, Workload { generated: 49, ..WORKLOAD }, "tokens of context"),
        (LoadOptions { max_sequences: 2, ..THREE }, WORKLOAD, "sequences"),
        (LoadOptions { max_outputs: 2, ..THREE }, WORKLOAD, "outputs"),
        (LoadOptions { max_batch_tokens: 2, ..THREE }, WORKLOAD, "outputs"),
    ];
    for (options, workload, expected) in cases {
        match measure(&mut load(options), &workload) {
            Err(Error::Batch { what, .. }) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(
        measure(&mut load(THREE), &Workload { batch: 0, ..WORKLOAD }),
        Err(Error::Option { option: "batch", .. })
    ));
    let one = Workload { batch: 1, generated: 88, ..WORKLOAD };
    assert!(measure(&mut load(THREE), &one).is_ok(), "a single sequence generates without the prompt");
}
