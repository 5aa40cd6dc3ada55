//! The arguments of every kernel, declared once for Rust and for the kernels'
//! header. All fields are 32 bits wide, so that both layouts agree.
//!
//! Fields that end in `_at` are places in the array of inputs, see
//! [`super::inputs::Layout`].

macro_rules! kernel_args {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
            #[repr(C)]
            pub(crate) struct $name { $($(#[$field_doc])* pub $field: $ty,)* }
        )*

        /// The declarations as CUDA and Metal read them.
        pub(super) fn header() -> String {
            let mut text = String::from("#ifndef QUARREL_ARGS_H\n#define QUARREL_ARGS_H\n");
            $(
                text += concat!("struct ", stringify!($name), " {\n");
                $(text += concat!("    ", kernel_args!(@c $ty), " ", stringify!($field), ";\n");)*
                text += "};\n";
            )*
            text + "#endif\n"
        }
    };
    (@c u32) => { "unsigned int" };
    (@c f32) => { "float" };
    (@c $args:ident) => { stringify!($args) };
}

kernel_args! {
    /// A row-wise normalisation.
    NormArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Elements a row.
        cols: u32,
        /// Rows to read instead of `0..`, or 0.
        gather_at: u32,
        /// Added to the mean square.
        eps: f32,
        /// Multiplies what is added to a residual.
        scale: f32,
    }
    /// A linear map.
    LinearArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Inputs.
        cols: u32,
        /// Outputs.
        out_cols: u32,
        /// 1 if there is a bias.
        has_bias: u32,
        /// Multiplies the result.
        scale: f32,
        /// The soft-cap of logits, or 0.
        softcap: f32,
    }
    /// Rows that are converted, or multiplied over tiles.
    TileShape {
        /// First row.
        first_at: u32,
        /// Behind the last row.
        end_at: u32,
        /// Elements a row.
        cols: u32,
        /// Tiles of 64 columns a row.
        n_tiles: u32,
        /// Rows that the converted ones have room for, of prompts.
        x_rows: u32,
        /// Of a kernel that converts rows: those to read instead of `0..`, or 0.
        gather_at: u32,
        /// Of such a kernel: 1 if rows are normalised.
        has_norm: u32,
        /// Added to the mean square.
        eps: f32,
        /// Groups of parts of the columns; each group's sums are added up first.
        groups: u32,
    }
    /// Up to three linear maps of the same rows, over tiles.
    TileArgs {
        /// The rows.
        shape: TileShape,
        /// Blocks of bands in all; a threadgroup does one, or several in turn.
        n_blocks: u32,
        /// First block of the second map.
        block1: u32,
        /// First block of the third map.
        block2: u32,
        /// Outputs of the first map.
        cols0: u32,
        /// Outputs of the second map.
        cols1: u32,
        /// Outputs of the third map.
        cols2: u32,
        /// A bit for each map that has a bias.
        has_bias: u32,
        /// Multiplies the result.
        scale: f32,
        /// The soft-cap of logits, or 0.
        softcap: f32,
    }
    /// A linear map over tiles whose results are added to rows, which are left normalised besides.
    AddNormArgs {
        /// The map.
        maps: TileArgs,
        /// Added to the mean square.
        eps: f32,
    }
    /// Gate and up projections with the gated activation, over tiles.
    GatedArgs {
        /// The rows.
        shape: TileShape,
        /// Outputs.
        cols: u32,
        /// 1 for the tanh form of GELU, 0 for SiLU.
        gelu_tanh: u32,
        /// What results of one to eight rows are left as.
        results: u32,
    }
    /// The router's map, of floats.
    RouterArgs {
        /// Behind the last row.
        end_at: u32,
        /// Elements a row.
        cols: u32,
        /// Experts in all.
        n_experts: u32,
        /// Added to the mean square.
        eps: f32,
    }
    /// Which experts rows go to.
    RouteArgs {
        /// First row.
        first_at: u32,
        /// Behind the last row.
        end_at: u32,
        /// Experts in all.
        n_experts: u32,
        /// Experts a row.
        n_used: u32,
        /// 1 if shares add up to 1.
        renormalise: u32,
        /// Slots an item, at most.
        each: u32,
        /// 1 if there is one row whose slots become items.
        has_items: u32,
    }
    /// A map of rows and their experts, over tiles.
    ExpertArgs {
        /// Its shape and outputs, and for gate and up what becomes of results.
        gated: GatedArgs,
        /// Slots that share a row, or 0 where each place has its own.
        divide: u32,
        /// Slots an item, at most.
        each: u32,
    }
    /// A map of rows and their experts, of weights as they are in the file.
    SlotMapArgs {
        /// First row.
        first_at: u32,
        /// Behind the last row.
        end_at: u32,
        /// Inputs.
        cols: u32,
        /// Outputs.
        out_cols: u32,
        /// Experts a row.
        n_used: u32,
        /// Slots that share a row.
        divide: u32,
        /// Threadgroups a slot.
        groups: u32,
    }
    /// The sum of what a row's experts make.
    SumSlotsArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Elements a row.
        cols: u32,
        /// Experts a row.
        n_used: u32,
        /// Multiplies the sum.
        scale: f32,
    }
    /// A gated activation.
    SwigluArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Elements a row.
        cols: u32,
        /// 1 for the tanh form of GELU, 0 for SiLU.
        gelu_tanh: u32,
    }
    /// Finding outputs' likeliest tokens.
    ChooseArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// For each row, how many tokens are wanted, the pair that the first goes to, and how one of them is drawn.
        wanted_at: u32,
        /// Logits a row.
        cols: u32,
        /// Chunks a row.
        n_chunks: u32,
        /// Chunks a span.
        span: u32,
        /// Where pairs of a token and its logit begin, behind the tokens.
        pairs_at: u32,
    }
    /// Carrying tokens to the next step.
    CarryArgs {
        /// Number of pairs.
        n_carried_at: u32,
        /// Pairs of a row and the output whose token it is.
        carried_at: u32,
        /// Token ids.
        ids_at: u32,
    }
    /// Looking up embeddings.
    EmbedArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Token ids.
        ids_at: u32,
        /// Elements a row.
        cols: u32,
        /// Multiplies every element.
        scale: f32,
    }
    /// Rotation of q and k, and storing k and v.
    RopeStoreArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Positions to rotate by.
        positions_at: u32,
        /// Where each row's k and v go.
        slots_at: u32,
        /// Tokens a page.
        page_size: u32,
        /// Query heads.
        n_heads: u32,
        /// Key/value heads.
        n_kv_heads: u32,
        /// Elements of a key.
        k_dim: u32,
        /// Elements of a value.
        v_dim: u32,
        /// Index into `KvFormat::ALL`.
        k_format: u32,
        /// Index into `KvFormat::ALL`.
        v_format: u32,
        /// 1 if q and k are normalised.
        has_norm: u32,
        /// Rotated pairs.
        n_pairs: u32,
        /// 1 if pairs are `(2i, 2i + 1)`, 0 if `(i, i + n_pairs)`.
        adjacent: u32,
        /// Added to q's mean square.
        q_eps: f32,
        /// Added to k's mean square.
        k_eps: f32,
        /// Multiplies cosine and sine.
        magnitude: f32,
    }
    /// Maps of queries, keys and values, over tiles, with what turns and stores them.
    QkvTileArgs {
        /// The maps.
        maps: TileArgs,
        /// Rotation and storing.
        rope: RopeStoreArgs,
        /// What the first map's outputs are: 0 queries, 1 keys, 2 values.
        kind0: u32,
        /// The second map's.
        kind1: u32,
        /// The third map's.
        kind2: u32,
    }
    /// Attention over pages.
    AttentionArgs {
        /// Number of rows.
        n_rows_at: u32,
        /// Each row's place in its sequence's context.
        places_at: u32,
        /// Each row's sequence.
        sequences_at: u32,
        /// Block tables, `max_pages` entries a sequence.
        block_tables_at: u32,
        /// Length of a block table.
        max_pages: u32,
        /// Tokens a page.
        page_size: u32,
        /// Query heads.
        n_heads: u32,
        /// Key/value heads.
        n_kv_heads: u32,
        /// Elements of a key.
        k_dim: u32,
        /// Elements of a value.
        v_dim: u32,
        /// Positions a query sees, or 0 for all.
        window: u32,
        /// Multiplies scores.
        scale: f32,
        /// The soft-cap of scores, or 0.
        softcap: f32,
        /// Number of prompt items.
        n_items_at: u32,
        /// Prompt items: first row and number of rows.
        items_at: u32,
        /// The item of each generated row's first split, in its batch.
        row_items_at: u32,
        /// Items of a batch whose results have places in scratch.
        max_items: u32,
        /// Threadgroups that share a key/value head's splits where all layers are one launch.
        sharing: u32,
        /// How far apart splits are that are added up one after another: a multiple of that.
        chains: u32,
    }
    /// Splits of attention that are folded for the map behind it.
    MergeArgs {
        /// The splits.
        attention: AttentionArgs,
        /// Rows that there is room for.
        x_rows: u32,
    }
    /// The map behind attention, over tiles, of a row whose splits are folded where they are read.
    FoldedArgs {
        /// The map.
        maps: TileArgs,
        /// The splits.
        attention: AttentionArgs,
    }
    /// Which layers' weights are packed in the other of their map's two ways: a bit for each layer.
    OtherArgs {
        /// Queries.
        q: u32,
        /// Keys.
        k: u32,
        /// Values.
        v: u32,
        /// Attention's output.
        output: u32,
        /// Down.
        down: u32,
    }
    /// All layers of a step of a single generated row.
    StepArgs {
        /// The maps of q, k and v.
        qkv: TileArgs,
        /// Attention's output.
        output: TileArgs,
        /// Gate and up.
        gated: GatedArgs,
        /// Down.
        down: TileArgs,
        /// Rotation and storing.
        rope: RopeStoreArgs,
        /// Attention.
        attention: AttentionArgs,
        /// The most splits that a row has.
        max_splits: u32,
        /// Bands of gate and up that each threadgroup does in pairs.
        paired: u32,
        /// Packings.
        other: OtherArgs,
    }
}
