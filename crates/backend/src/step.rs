//! A forward step as data.

use crate::{Error, Op, Result};

/// Names a buffer of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// Names a weight: an index into what [`crate::Backend::load`] was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// Names a layer's cache: an index into [`crate::CacheConfig::layers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheLayerId(pub u32);

/// A buffer's number of rows, known only when a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row a token of the step.
    Tokens,
    /// One row an entry of [`crate::StepInputs::outputs`].
    Outputs,
}

/// An activation matrix `[rows, cols]`; f32 as far as a step can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferDesc {
    /// What it holds, for messages and dumps.
    pub name: &'static str,
    /// Symbolic row count.
    pub rows: Rows,
    /// Elements a row.
    pub cols: usize,
}

/// An ordered list of ops over buffers.
#[derive(Debug, Clone, Default)]
pub struct Step {
    buffers: Vec<BufferDesc>,
    ops: Vec<Op>,
}

impl Step {
    /// An empty step.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a buffer.
    pub fn buffer(&mut self, name: &'static str, rows: Rows, cols: usize) -> BufferId {
        let id = BufferId(u32::try_from(self.buffers.len()).expect("a step has far fewer than 2^32 buffers"));
        self.buffers.push(BufferDesc { name, rows, cols });
        id
    }

    /// Appends an op.
    pub fn push(&mut self, op: impl Into<Op>) {
        self.ops.push(op.into());
    }

    /// The declared buffers; [`BufferId`] indexes them.
    pub fn buffers(&self) -> &[BufferDesc] {
        &self.buffers
    }

    /// The ops in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// A buffer's description.
    ///
    /// # Errors
    /// [`Error::Step`] for an id this step did not declare.
    pub fn desc(&self, id: BufferId) -> Result<&BufferDesc> {
        self.buffers
            .get(id.0 as usize)
            .ok_or_else(|| Error::Step(format!("buffer {} was never declared", id.0)))
    }
}
