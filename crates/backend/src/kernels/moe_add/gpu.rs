//! `moe_add` on GPUs: on Metal the router, what it chooses, the experts, and their sum.

use super::MoeAdd;
use crate::Result;
use crate::gpu::formats::MOE_ABSENT;
use crate::gpu::lower::Lowering;
use crate::gpu::simd;

impl MoeAdd {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        match simd::can(lowering) {
            true => self.launch_simd(lowering),
            false => Err(lowering.absent("moe_add", "any shape", MOE_ABSENT)),
        }
    }
}
