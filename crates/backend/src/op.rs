//! The op table: every op a step may contain, one row each.

use crate::check::{Access, Shapes};
use crate::cpu::run::{Run, Sizes};
use crate::cpu::shared::Bump;
use crate::harness::{Case, Random};
use crate::kernels;
use crate::reference::Context;
use crate::{Bucket, BufferId, Result};

macro_rules! op_table {
    ($($(#[$doc:meta])* $variant:ident, $module:ident, $name:literal;)*) => {
        /// One op of a step; the struct behind each variant says what it does.
        #[derive(Debug, Clone)]
        pub enum Op { $($(#[$doc])* $variant(kernels::$module::$variant),)* }

        impl Op {
            /// Every op's name, in the table's order.
            pub const NAMES: &[&'static str] = &[$($name,)*];

            /// The op's name, which is its folder under `kernels/`.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// Checks the op against its weights, buffers and cache layer.
            ///
            /// # Errors
            /// [`crate::Error::Step`].
            pub fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
                match self { $(Self::$variant(op) => op.check(shapes),)* }
            }

            /// Tells `visit` every buffer the op uses, inputs first.
            pub fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
                match self { $(Self::$variant(op) => op.accesses(visit),)* }
            }

            /// Runs the op slowly and obviously.
            ///
            /// # Errors
            /// [`crate::Error::Weight`].
            pub fn reference(&self, context: &mut Context<'_>) -> Result<()> {
                match self { $(Self::$variant(op) => op.reference(context),)* }
            }

            /// Takes from `bump` what [`Op::cpu`] will take, to be counted.
            pub(crate) fn cpu_scratch(&self, sizes: &Sizes<'_>, bump: &mut Bump<'_>) {
                match self { $(Self::$variant(op) => { op.cpu_scratch(sizes, bump); })* }
            }

            /// How many numbers in a row ([`crate::cpu::run::RowOrder::numbers`]) the op asks for.
            pub(crate) fn cpu_numbers(&self, bucket: Bucket) -> usize {
                match self {
                    Self::MoeAdd(op) => bucket.tokens.saturating_mul(op.n_used),
                    _ => bucket.tokens.max(bucket.outputs),
                }
            }

            /// Runs the op on the CPU.
            pub(crate) fn cpu(&self, run: &mut Run<'_>, scratch: &mut [u8]) {
                match self { $(Self::$variant(op) => op.cpu(run, &mut Bump::new(scratch)),)* }
            }

            /// Every op's cases.
            pub fn cases(random: &mut Random) -> Vec<Case> {
                let mut cases = Vec::new();
                $(cases.extend(kernels::$module::$variant::cases(random));)*
                cases
            }
        }

        $(impl From<kernels::$module::$variant> for Op {
            fn from(op: kernels::$module::$variant) -> Self { Self::$variant(op) }
        })*
    };
}

op_table! {
    /// Token ids to rows.
    Embed, embed, "embed";
    /// Root-mean-square normalisation.
    RmsNorm, rms_norm, "rms_norm";
    /// Optional RMSNorm, then one or more linear maps of the same input.
    NormLinear, norm_linear, "norm_linear";
    /// QK-norm, rotary embedding, and writing K and V to their pages.
    RopeStore, rope_store, "rope_store";
    /// Attention over the pages of each row's sequence.
    PagedAttention, paged_attention, "paged_attention";
    /// A linear map added to the residual stream.
    LinearAdd, linear_add, "linear_add";
    /// Gated activation, down projection, added to the residual stream.
    SwigluLinearAdd, swiglu_linear_add, "swiglu_linear_add";
    /// A whole mixture-of-experts feed-forward, added to the residual stream.
    MoeAdd, moe_add, "moe_add";
    /// Logits of the wanted rows.
    Head, head, "head";
}
