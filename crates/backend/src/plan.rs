//! Where each buffer of a step lies in the scratch arena: buffers that are
//! never needed at the same time share memory.

use crate::check::Access;
use crate::{Bucket, BufferDesc, BufferId, Error, Result, Rows, Step};

/// Buffers start at multiples of this many bytes: a cache line, and what the
/// widest vector loads of any device want.
pub const ALIGNMENT: usize = 256;

/// One buffer's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the start of the arena.
    pub offset: usize,
    /// Bytes at the bucket's size.
    pub bytes: usize,
    /// Whether the buffer is read before anything writes it, so that it may be set from outside.
    pub input: bool,
    /// Whether the buffer still holds its value when the step ends.
    pub kept: bool,
    first: usize,
    last: usize,
}

/// The places of all buffers of one step in one bucket.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    places: Vec<Option<Place>>,
    bytes: usize,
}

impl Plan {
    /// Lays out the buffers of `step`, at most `bucket` rows each.
    ///
    /// # Errors
    /// [`Error::Step`] when sizes overflow.
    pub fn new(step: &Step, bucket: Bucket) -> Result<Self> {
        let mut plan = Self { places: lifetimes(step, bucket)?, bytes: 0 };
        // Largest first: the classic greedy order for this problem.
        let mut order: Vec<usize> = (0..plan.places.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(plan.places[i].map_or(0, |place| place.bytes)));
        let mut placed: Vec<Place> = Vec::new();
        for i in order {
            let Some(place) = &mut plan.places[i] else { continue };
            place.offset = lowest_gap(place, &placed)?;
            plan.bytes = plan.bytes.max(place.offset + place.bytes);
            let at = placed.partition_point(|other| other.offset < place.offset);
            placed.insert(at, *place);
        }
        Ok(plan)
    }

    /// Bytes of arena the step needs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A buffer's place; `None` for one that no op uses or that was not declared.
    pub fn place(&self, id: BufferId) -> Option<&Place> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    /// The place of a buffer that may be read after a run.
    ///
    /// # Errors
    /// [`Error::Step`] for a buffer that was not kept.
    pub fn require_kept(&self, id: BufferId) -> Result<&Place> {
        let place = self.place(id).filter(|place| place.kept);
        place.ok_or_else(|| Error::Step(format!("buffer {} is not kept to the end of the step", id.0)))
    }

    /// The place of a buffer that may be set to `len` values before a run.
    ///
    /// # Errors
    /// [`Error::Step`] for a buffer that is written first, or a length that is
    /// no whole number of rows or too many.
    pub fn require_input(&self, id: BufferId, desc: &BufferDesc, len: usize) -> Result<&Place> {
        let place = self.place(id).filter(|place| place.input);
        let place = place
            .ok_or_else(|| Error::Step(format!("buffer `{}` is not an input of the step", desc.name)))?;
        if desc.cols == 0 || !len.is_multiple_of(desc.cols) || len > place.bytes / 4 {
            let problem = format!("{len} values do not fit buffer `{}` of {} columns", desc.name, desc.cols);
            return Err(Error::Step(problem));
        }
        Ok(place)
    }
}

fn overflow() -> Error {
    Error::Step("the buffers take more bytes than can be addressed".to_owned())
}

/// Sizes and lifetimes, with no offsets yet.
fn lifetimes(step: &Step, bucket: Bucket) -> Result<Vec<Option<Place>>> {
    let mut places = vec![None; step.buffers().len()];
    for (index, op) in step.ops().iter().enumerate() {
        op.accesses(&mut |id, access| {
            let place: &mut Option<Place> = &mut places[id.0 as usize];
            let place = place.get_or_insert(Place {
                offset: 0,
                bytes: 0,
                input: access != Access::Write,
                kept: false,
                first: if access == Access::Write { index } else { 0 },
                last: index,
            });
            place.last = index;
            place.kept = access != Access::Read;
        });
    }
    for (desc, place) in step.buffers().iter().zip(&mut places) {
        let Some(place) = place else { continue };
        let rows = match desc.rows {
            Rows::Tokens => bucket.tokens,
            Rows::Outputs => bucket.outputs,
        };
        let bytes = rows.checked_mul(desc.cols).and_then(|n| n.checked_mul(4));
        let bytes = bytes.and_then(|n| n.checked_next_multiple_of(ALIGNMENT));
        place.bytes = bytes.filter(|&n| n <= isize::MAX as usize).ok_or_else(overflow)?;
        if place.kept {
            place.last = usize::MAX;
        }
    }
    Ok(places)
}

/// The lowest offset where `place` overlaps none of `placed` (ascending
/// offsets) that lives at the same time.
fn lowest_gap(place: &Place, placed: &[Place]) -> Result<usize> {
    let mut offset = 0_usize;
    for other in placed {
        let apart = other.last < place.first || place.last < other.first;
        if apart || other.offset + other.bytes <= offset {
            continue;
        }
        if other.offset >= offset && other.offset - offset >= place.bytes {
            break;
        }
        offset = other.offset + other.bytes;
    }
    offset.checked_add(place.bytes).filter(|&end| end <= isize::MAX as usize).ok_or_else(overflow)?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightId;
    use crate::kernels::norm_linear::{NormLinear, Projection};

    fn linear(step: &mut Step, x: BufferId, out: BufferId) {
        let projections = vec![Projection { weight: WeightId(0), bias: None, out }];
        step.push(NormLinear { x, norm: None, projections });
    }

    #[test]
    fn buffers_share_memory_only_when_apart_in_time() {
        let mut step = Step::new();
        let ids: Vec<_> = (0..5).map(|_| step.buffer("b", Rows::Tokens, 64)).collect();
        for pair in ids.windows(2) {
            linear(&mut step, pair[0], pair[1]);
        }
        let unused = step.buffer("unused", Rows::Tokens, 64);
        let bucket = Bucket { tokens: 4, sequences: 1, outputs: 1, max_pages: 1 };
        let plan = Plan::new(&step, bucket).unwrap();
        let offset = |i: usize| plan.place(ids[i]).unwrap().offset;
        assert_eq!(plan.bytes(), 2 * 4 * 64 * 4, "a chain needs two buffers");
        for i in 0..4 {
            assert_ne!(offset(i), offset(i + 1));
        }
        assert!(plan.place(ids[0]).unwrap().input && !plan.place(ids[1]).unwrap().input);
        assert!(plan.place(ids[4]).unwrap().kept && !plan.place(ids[3]).unwrap().kept);
        assert_eq!(plan.place(unused), None);
    }
}
