//! What an op's reference reads and writes.

use crate::host::HostCache;
use crate::{BufferDesc, BufferId, Result, StepInputs, Weight, WeightId};

/// A matrix in double precision, row by row.
pub type Rows = Vec<Vec<f64>>;

/// One running step.
pub struct Context<'a> {
    /// The step's inputs, checked.
    pub inputs: &'a StepInputs,
    /// The KV cache.
    pub cache: &'a mut HostCache,
    weights: &'a [Weight],
    descs: &'a [BufferDesc],
    buffers: &'a mut [Vec<f32>],
}

impl<'a> Context<'a> {
    /// A context over checked inputs; `buffers[i]` is described by `descs[i]`.
    pub fn new(
        inputs: &'a StepInputs,
        weights: &'a [Weight],
        cache: &'a mut HostCache,
        descs: &'a [BufferDesc],
        buffers: &'a mut [Vec<f32>],
    ) -> Self {
        Self { inputs, cache, weights, descs, buffers }
    }

    /// The rows of a buffer; those that nothing has written are zero.
    pub fn rows(&self, id: BufferId) -> Rows {
        let desc = &self.descs[id.0 as usize];
        let n_rows = match desc.rows {
            crate::Rows::Tokens => self.inputs.tokens.len(),
            crate::Rows::Outputs => self.inputs.outputs.len(),
        };
        let mut values = self.buffers[id.0 as usize].clone();
        values.resize(n_rows * desc.cols, 0.0);
        values.chunks_exact(desc.cols).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
    }

    /// Replaces a buffer's contents, rounded to f32.
    pub fn set(&mut self, id: BufferId, rows: &Rows) {
        self.buffers[id.0 as usize] = rows.iter().flatten().map(|&x| x as f32).collect();
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> &'a Weight {
        &self.weights[id.0 as usize]
    }

    /// The values of one row of a weight.
    ///
    /// # Errors
    /// [`crate::Error::Weight`].
    pub fn weight_row(&self, id: WeightId, row: usize) -> Result<Vec<f64>> {
        let weight = self.weight(id);
        let mut values = vec![0.0; weight.cols()];
        weight.dequantize_row(row, &mut values)?;
        Ok(values.into_iter().map(f64::from).collect())
    }

    /// `x · Wᵀ + b` for rows `first..first + n` of `weight`.
    ///
    /// # Errors
    /// [`crate::Error::Weight`].
    pub fn linear_rows(&self, weight: WeightId, first: usize, n: usize, x: &Rows) -> Result<Rows> {
        let mut out = vec![Vec::with_capacity(n); x.len()];
        for row in first..first + n {
            let row = self.weight_row(weight, row)?;
            for (x, out) in x.iter().zip(&mut out) {
                out.push(x.iter().zip(&row).map(|(x, w)| x * w).sum());
            }
        }
        Ok(out)
    }

    /// `x · Wᵀ + b` with the whole of `weight`.
    ///
    /// # Errors
    /// [`crate::Error::Weight`].
    pub fn linear(&self, weight: WeightId, bias: Option<WeightId>, x: &Rows) -> Result<Rows> {
        let mut out = self.linear_rows(weight, 0, self.weight(weight).rows(), x)?;
        if let Some(bias) = bias {
            let bias = self.weight_row(bias, 0)?;
            for row in &mut out {
                row.iter_mut().zip(&bias).for_each(|(out, b)| *out += b);
            }
        }
        Ok(out)
    }

    /// Adds `scale * delta` to a buffer.
    pub fn add(&mut self, residual: BufferId, scale: f32, delta: &Rows) {
        let mut rows = self.rows(residual);
        for (row, delta) in rows.iter_mut().zip(delta) {
            row.iter_mut().zip(delta).for_each(|(x, d)| *x += f64::from(scale) * d);
        }
        self.set(residual, &rows);
    }
}
