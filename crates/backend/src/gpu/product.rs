//! Products of matrices by the driver's own libraries, of the rows of prompts.

use super::lower::Argument;
use super::runtime::{Library, Matrices, Runtime};
use crate::Result;

/// A product of matrices of floats ([`Runtime::multiply`]).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub by: Library,
    pub x: Argument,
    pub w: Argument,
    pub out: Argument,
    pub cols: u32,
    pub outs: u32,
    pub scale: f32,
    pub adds: bool,
}

impl Product {
    /// Everything that it reads and writes.
    pub fn arguments(&self) -> [Argument; 3] {
        [self.x, self.w, self.out]
    }

    /// Enqueues it for `n_rows` rows behind the `first`; `buffer` finds an argument's memory and place in it.
    pub fn enqueue<'a, R: Runtime>(
        &self,
        runtime: &mut R,
        buffer: impl Fn(&Argument) -> (&'a R::Buffer, usize),
        (first, n_rows): (usize, usize),
    ) -> Result<()>
    where
        R::Buffer: 'a,
    {
        let (cols, outs) = (self.cols as usize, self.outs as usize);
        let behind = |argument: &Argument, floats: usize| {
            let (buffer, offset) = buffer(argument);
            (buffer, offset + 4 * floats)
        };
        for (at, rows) in self.by.parts(n_rows) {
            let matrices = Matrices { rows, cols, outs, scale: self.scale, adds: self.adds };
            let x = behind(&self.x, (first + at) * cols);
            let out = behind(&self.out, (first + at) * outs);
            runtime.multiply(self.by, matrices, x, buffer(&self.w), out)?;
        }
        Ok(())
    }
}

impl Library {
    /// Whether it can add a product to what is there.
    pub(crate) fn adds(self) -> bool {
        self == Self::Matrices
    }

    /// The parts, as first row and rows, that `n_rows` rows are multiplied in.
    ///
    /// A graph is compiled for each number of rows, so that these are powers of two: as many as fit, and behind
    /// them as few as take in the rest, which may begin among the rows before, whose products are made again.
    fn parts(self, n_rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let whole = match self {
            Self::Matrices => n_rows,
            Self::Graph => n_rows.checked_ilog2().map_or(0, |log| 1 << log),
        };
        // Less than `whole`, so that the next power of two is no more than that.
        let rest = n_rows - whole;
        let last = if rest == 0 { 0 } else { rest.next_power_of_two() };
        [(0, whole), (n_rows - last, last)].into_iter().filter(|&(_, rows)| rows > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_rows_in_few_sizes() {
        assert_eq!(Library::Matrices.parts(300).collect::<Vec<_>>(), [(0, 300)]);
        assert_eq!(Library::Graph.parts(300).collect::<Vec<_>>(), [(0, 256), (236, 64)]);
        assert_eq!(Library::Graph.parts(511).collect::<Vec<_>>(), [(0, 256), (255, 256)]);
        assert_eq!(Library::Graph.parts(512).collect::<Vec<_>>(), [(0, 512)]);
        for library in [Library::Matrices, Library::Graph] {
            assert_eq!(library.parts(0).count(), 0);
        }
        for n_rows in 1..=1100 {
            let mut end = 0;
            for (first, rows) in Library::Graph.parts(n_rows) {
                assert!(rows.is_power_of_two() && first <= end && first + rows > end, "{n_rows}");
                end = first + rows;
            }
            assert_eq!(end, n_rows);
        }
    }
}
