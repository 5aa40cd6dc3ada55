//! `linear_add` on GPUs: one launch, or two where a norm follows the map.

use super::LinearAdd;
use crate::Result;
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Lowering};
use crate::gpu::simd;
use crate::gpu::source::{LINEAR_ADD, NORM_LINEAR};
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{self, Map, Maps};
use crate::kernels::rms_norm::Norm;

impl LinearAdd {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (x, residual) = (lowering.buffer(self.x), lowering.buffer(self.residual));
        let map = Linear::new(self.weight, self.bias, lowering.desc(self.x).rows);
        launch(lowering, map, self.post_norm, self.scale, (x, 0), residual)
    }
}

/// `residual += scale * post_norm(W · x + b)`, where `skip` bytes of scratch are in use.
pub(crate) fn launch(
    lowering: &mut Lowering<'_>,
    map: Linear,
    post_norm: Option<Norm>,
    scale: f32,
    (x, skip): (Argument, usize),
    residual: Argument,
) -> Result<()> {
    let input = Input { x, cols: lowering.weight(map.weight).cols(), norm: None, gather: false };
    if simd::can(lowering) {
        return launch_tiles(lowering, map, post_norm, scale, skip, residual, &|lowering, maps, skip| {
            simd::launch(lowering, &input, maps, skip)
        });
    }
    if linear::can(lowering, [map.weight]) {
        return launch_tiles(lowering, map, post_norm, scale, skip, residual, &|lowering, maps, skip| {
            maps.launch(lowering, &input, skip)
        });
    }
    let Some(norm) = post_norm else {
        return Linear { scale, ..map }.launch(lowering, &LINEAR_ADD, x, residual);
    };
    let (rows, cols) = (map.rows, lowering.weight(map.weight).rows());
    let (scratch, _) = lowering.scratch(skip, rows, cols)?;
    map.launch(lowering, &NORM_LINEAR, x, scratch)?;
    norm.launch_add(lowering, (rows, cols), scale, scratch, residual)
}

/// The same by kernels that take several maps: `multiply` launches the one it is given.
pub(crate) fn launch_tiles(
    lowering: &mut Lowering<'_>,
    map: Linear,
    post_norm: Option<Norm>,
    scale: f32,
    skip: usize,
    residual: Argument,
    multiply: &dyn Fn(&mut Lowering<'_>, &Maps<'_>, usize) -> Result<()>,
) -> Result<()> {
    let (rows, cols) = (map.rows, lowering.weight(map.weight).rows());
    let (out, skip) = match post_norm {
        None => (residual, skip),
        Some(_) => lowering.scratch(skip, rows, cols)?,
    };
    let maps = [Map { weight: map.weight, bias: map.bias, out }];
    let scaled = if post_norm.is_some() { 1.0 } else { scale };
    let maps = Maps { maps: &maps, rows, scale: scaled, softcap: None, add: post_norm.is_none() };
    multiply(lowering, &maps, skip)?;
    match post_norm {
        None => Ok(()),
        Some(norm) => norm.launch_add(lowering, (rows, cols), scale, out, residual),
    }
}
