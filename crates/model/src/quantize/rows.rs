//! Converts a tensor's rows on several threads.

use gguf::{Format, Tensor};

use crate::{Error, Result};

/// Elements a slab: what is held in memory at once, for each thread's rows together.
const SLAB: usize = 1 << 24;

/// Gives the tensor as `to`, in slabs of whole rows; `sink` gets the input
/// bytes that went into each slab, and the slab.
pub(super) fn convert(
    tensor: &Tensor,
    to: Format,
    threads: usize,
    sink: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let (row_len, from_bytes) = (tensor.row_len(), tensor.row_bytes());
    let slab_bytes = (SLAB / row_len).max(1) * from_bytes;
    if to == tensor.format {
        return tensor.data.chunks(slab_bytes).try_for_each(|slab| sink(slab.len(), slab));
    }
    let to_bytes = to.row_bytes(row_len)?;
    let mut out = vec![];
    for slab in tensor.data.chunks(slab_bytes) {
        let rows = slab.len() / from_bytes;
        out.resize(rows * to_bytes, 0);
        let share = rows.div_ceil(threads.max(1));
        let shares = slab.chunks(share * from_bytes).zip(out.chunks_mut(share * to_bytes));
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let work = |(from, into)| scope.spawn(move || convert_rows(tensor, to, from, into));
            let workers: Vec<_> = shares.map(work).collect();
            workers.into_iter().map(|worker| worker.join().expect("workers do not panic")).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        sink(slab.len(), &out)?;
    }
    Ok(())
}

fn convert_rows(tensor: &Tensor, to: Format, from: &[u8], into: &mut [u8]) -> Result<()> {
    let row_len = tensor.row_len();
    let mut values = vec![0.0; row_len];
    let rows = from.chunks_exact(tensor.row_bytes());
    for (from, into) in rows.zip(into.chunks_exact_mut(to.row_bytes(row_len)?)) {
        tensor.format.dequantize(from, &mut values)?;
        if let Some(x) = values.iter().find(|x| !x.is_finite()) {
            let problem = format!("has the value {x}, which cannot be quantised");
            return Err(Error::Tensor { name: tensor.name.clone(), problem });
        }
        to.quantize(&values, into)?;
    }
    Ok(())
}
