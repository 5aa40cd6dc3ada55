//! `moe_add` on GPUs: the router, what it chooses, the experts, and their sum.

use super::MoeAdd;
use crate::Result;
use crate::gpu::lower::Lowering;
use crate::gpu::simd;
use crate::gpu::tiles::experts::Experts;

impl MoeAdd {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        match simd::can(lowering) {
            true => self.launch_simd(lowering),
            false => Experts::new(self, lowering)?.lower(lowering),
        }
    }
}
