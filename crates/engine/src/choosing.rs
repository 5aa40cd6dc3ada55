//! From what a step gave to the next token of each sequence.

use crate::batch::Output;
use crate::constraint::Matcher;
use crate::sampling::{SampleInput, Sampled, Sampler};
use crate::sequence::{Sequence, Task};
use crate::{Error, Result};

/// What a step gave, in the order of its outputs.
pub(crate) struct Results<'a> {
    /// Of each output, the token that the runner drew.
    pub drawn: &'a [Option<u32>],
    /// Of the outputs that wanted some.
    pub likeliest: &'a [(u32, f32)],
    /// Of the outputs that wanted them, `[_, n_vocab]`.
    pub logits: &'a [f32],
    pub n_vocab: usize,
}

/// What it gave for one output.
pub(crate) enum Given<'a> {
    Token(Option<u32>),
    Likeliest(&'a [(u32, f32)]),
    Logits(&'a [f32]),
}

impl<'a> Results<'a> {
    /// What belongs to `output`, which follows the one asked for last.
    pub fn next(&mut self, output: Output) -> Given<'a> {
        match output {
            Output::Drawn(output) => Given::Token(self.drawn.get(output as usize).copied().flatten()),
            Output::Likeliest(n) => Given::Likeliest(split_off(&mut self.likeliest, n as usize)),
            Output::Sampled => Given::Logits(split_off(&mut self.logits, self.n_vocab)),
        }
    }
}

fn split_off<'a, T>(rest: &mut &'a [T], n: usize) -> &'a [T] {
    rest.split_off(..n).expect("a runner gives what is wanted of an output")
}

impl Given<'_> {
    /// The next token of a sequence that writes a reply.
    ///
    /// # Errors
    /// [`Error::NoToken`] where none can follow, and what the reply's form says.
    pub fn choose(&self, sampler: &mut Sampler, sequence: &mut Sequence) -> Result<Sampled> {
        let Task::Generate(reply) = &mut sequence.task else { unreachable!("only replies have outputs") };
        let (params, history) = (&reply.sampling, &sequence.tokens);
        let (position, state) = (history.len() as u64, &mut reply.sampler_state);
        let token = |id: Option<u32>| Ok(Sampled { id: id.ok_or(Error::NoToken)?, logprob: None });
        let logits = match *self {
            Self::Token(id) => return token(id),
            Self::Likeliest(tokens) => {
                return token(sampler.choose_from(tokens, (params, position), history, state));
            }
            Self::Logits(logits) => logits,
        };
        let mask = reply.matcher.as_mut().map(Matcher::mask).transpose()?;
        let input = SampleInput { logits, params, history, position, mask, logprobs: reply.logprobs };
        let sampled = sampler.choose(&input, state).ok_or(Error::NoToken)?;
        if let Some(matcher) = &mut reply.matcher {
            matcher.accept(sampled.id)?;
        }
        Ok(sampled)
    }
}
