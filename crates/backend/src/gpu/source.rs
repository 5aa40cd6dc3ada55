//! Kernel sources as text, with the project's own includes written out, since
//! neither NVRTC nor Metal's run-time compiler has files to look in.

use std::collections::HashSet;

/// One kernel file in both dialects.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The op's folder, which names the files.
    pub name: &'static str,
    /// `None` for what only Metal has.
    cuda: Option<&'static str>,
    /// `None` for what only CUDA has.
    metal: Option<&'static str>,
}

/// A source and the definitions that it is compiled with.
pub type Program<'a> = (&'static Source, &'a str);

/// A language kernels are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// CUDA C++.
    Cuda,
    /// The Metal Shading Language.
    Metal,
}

macro_rules! sources {
    ($($constant:ident = $name:literal $(in $dir:literal: $only:ident)?;)*) => {
        $(
            #[doc = concat!("The kernels of `", $name, "`.")]
            pub(crate) static $constant: Source = sources!(@source $name $($dir $only)?);
        )*

        /// Every kernel file.
        pub static SOURCES: &[&Source] = &[$(&$constant,)*];
    };
    (@source $name:literal) => {
        Source {
            name: $name,
            cuda: Some(include_str!(concat!("../kernels/", $name, "/", $name, ".cu"))),
            metal: Some(include_str!(concat!("../kernels/", $name, "/", $name, ".metal"))),
        }
    };
    (@source $name:literal $dir:literal cuda) => {
        Source { name: $name, cuda: Some(include_str!(concat!($dir, "/", $name, ".cu"))), metal: None }
    };
    (@source $name:literal $dir:literal metal) => {
        Source { name: $name, cuda: None, metal: Some(include_str!(concat!($dir, "/", $name, ".metal"))) }
    };
}

sources! {
    CHOOSE = "choose";
    EMBED = "embed";
    HEAD = "head" in "../kernels/head": cuda;
    LINEAR_ADD = "linear_add" in "../kernels/linear_add": cuda;
    MOE_ADD = "moe_add";
    ROUTE = "route" in "../kernels/moe_add": cuda;
    NORM_LINEAR = "norm_linear" in "../kernels/norm_linear": cuda;
    MATRIX_ATTENTION = "matrix_attention" in "../kernels/paged_attention": metal;
    PAGED_ATTENTION = "paged_attention" in "../kernels/paged_attention": cuda;
    DECODE_ATTENTION = "decode_attention" in "../kernels/paged_attention": cuda;
    PROMPT_ATTENTION = "prompt_attention" in "../kernels/paged_attention": cuda;
    RMS_NORM = "rms_norm";
    ROPE_STORE = "rope_store";
    SIMD_GATED = "simd_gated" in "simd": metal;
    SIMD_MAPS = "simd_maps" in "simd": metal;
    SIMD_PRODUCTS = "simd_products" in "simd": metal;
    SIMD_PROMPTS = "simd_prompts" in "simd": metal;
    SIMD_QKV = "simd_qkv" in "simd": metal;
    SIMD_TENSORS = "simd_tensors" in "simd": metal;
    SPLIT_ATTENTION = "split_attention" in "../kernels/paged_attention": metal;
    SWIGLU_LINEAR_ADD = "swiglu_linear_add" in "../kernels/swiglu_linear_add": cuda;
    ACTIVATIONS = "activations" in "tiles": cuda;
    EMBED_TILES = "embed_tiles" in "tiles": cuda;
    FOLDED_LINEAR = "folded_linear" in "tiles": cuda;
    GENERATED_EXPERTS = "generated_experts" in "tiles": cuda;
    GENERATED_GATED = "generated_gated" in "tiles": cuda;
    GENERATED_LINEAR = "generated_linear" in "tiles": cuda;
    GENERATED_QKV = "generated_qkv" in "tiles": cuda;
    PROMPT_EXPERTS = "prompt_experts" in "tiles": cuda;
    PROMPT_GATED = "prompt_gated" in "tiles": cuda;
    PROMPT_LINEAR = "prompt_linear" in "tiles": cuda;
    ROUNDED_ADD_NORM = "rounded_add_norm" in "tiles": cuda;
    ROUNDED_GATED = "rounded_gated" in "tiles": cuda;
    ROUNDED_QKV = "rounded_qkv" in "tiles": cuda;
    ROUNDED_LINEAR = "rounded_linear" in "tiles": cuda;
    STEP = "step" in "tiles": cuda;
}

/// Headers that sources include, by the name they are included by.
const HEADERS: &[(&str, &str)] = &[
    ("dialect.h", include_str!("include/dialect.h")),
    ("formats.h", include_str!("include/formats.h")),
    ("pair_formats.h", include_str!("include/pair_formats.h")),
    ("table_formats.h", include_str!("include/table_formats.h")),
    ("linear.h", include_str!("include/linear.h")),
    ("linear_kernels.h", include_str!("include/linear_kernels.h")),
    ("normalise.h", include_str!("include/normalise.h")),
    ("activate.h", include_str!("include/activate.h")),
    ("kv_pairs.h", include_str!("include/kv_pairs.h")),
    ("cache.h", include_str!("include/cache.h")),
    ("weight_parts.h", include_str!("simd/weight_parts.h")),
    ("pair_parts.h", include_str!("simd/pair_parts.h")),
    ("table_parts.h", include_str!("simd/table_parts.h")),
    ("gated_rows.h", include_str!("simd/gated_rows.h")),
    ("choose_experts.h", include_str!("../kernels/moe_add/choose_experts.h")),
    ("moe_add.h", include_str!("../kernels/moe_add/moe_add.h")),
    ("simd_maps.h", include_str!("simd/simd_maps.h")),
    ("simd_prompts.h", include_str!("simd/simd_prompts.h")),
    ("tensor_prompts.h", include_str!("simd/tensor_prompts.h")),
    ("matrix_tiles.h", include_str!("simd/matrix_tiles.h")),
    ("activations.h", include_str!("tiles/activations.h")),
    ("copies.h", include_str!("tiles/copies.h")),
    ("choose.h", include_str!("include/choose.h")),
    ("draw.h", include_str!("include/draw.h")),
    ("cuda.h", include_str!("tiles/cuda.h")),
    ("few_rows.h", include_str!("tiles/few_rows.h")),
    ("fragments.h", include_str!("tiles/fragments.h")),
    ("heads.h", include_str!("tiles/heads.h")),
    ("many_rows.h", include_str!("tiles/many_rows.h")),
    ("maps.h", include_str!("tiles/maps.h")),
    ("items.h", include_str!("tiles/items.h")),
    ("matrix.h", include_str!("tiles/matrix.h")),
    ("generated_linear.h", include_str!("tiles/generated_linear.h")),
    ("parts.h", include_str!("tiles/parts.h")),
    ("places.h", include_str!("tiles/places.h")),
    ("packings.h", include_str!("tiles/packings.h")),
    ("prompt_linear.h", include_str!("tiles/prompt_linear.h")),
    ("prompt_product.h", include_str!("tiles/prompt_product.h")),
    ("rounded.h", include_str!("tiles/rounded.h")),
    ("rounded_exchange.h", include_str!("tiles/rounded_exchange.h")),
    ("rounded_ring.h", include_str!("tiles/rounded_ring.h")),
    ("prompt_x.h", include_str!("tiles/prompt_x.h")),
    ("split_tiles.h", include_str!("tiles/split_tiles.h")),
    ("tiles.h", include_str!("tiles/tiles.h")),
    ("ring.h", include_str!("tiles/ring.h")),
    ("row.h", include_str!("tiles/row.h")),
    ("step.h", include_str!("tiles/step.h")),
    ("step_attention.h", include_str!("tiles/step_attention.h")),
    ("step_feed.h", include_str!("tiles/step_feed.h")),
    ("step_row.h", include_str!("tiles/step_row.h")),
    ("step_splits.h", include_str!("tiles/step_splits.h")),
    ("step_results.h", include_str!("tiles/step_results.h")),
    ("step_weights.h", include_str!("tiles/step_weights.h")),
    ("letters.h", include_str!("tiles/letters.h")),
    ("embed.h", include_str!("../kernels/embed/embed.h")),
    ("head.h", include_str!("../kernels/head/head.h")),
    ("linear_add.h", include_str!("../kernels/linear_add/linear_add.h")),
    ("norm_linear.h", include_str!("../kernels/norm_linear/norm_linear.h")),
    ("cache_fours.h", include_str!("../kernels/paged_attention/cache_fours.h")),
    ("matrix_attention.h", include_str!("../kernels/paged_attention/matrix_attention.h")),
    ("cache_tiles.h", include_str!("../kernels/paged_attention/cache_tiles.h")),
    ("decode_attention.h", include_str!("../kernels/paged_attention/decode_attention.h")),
    ("merge_attention.h", include_str!("../kernels/paged_attention/merge_attention.h")),
    ("prompt_attention.h", include_str!("../kernels/paged_attention/prompt_attention.h")),
    ("split_attention.h", include_str!("../kernels/paged_attention/split_attention.h")),
    ("splits.h", include_str!("../kernels/paged_attention/splits.h")),
    ("warpgroup.h", include_str!("../kernels/paged_attention/warpgroup.h")),
    ("paged_attention.h", include_str!("../kernels/paged_attention/paged_attention.h")),
    ("rms_norm.h", include_str!("../kernels/rms_norm/rms_norm.h")),
    ("known_turns.h", include_str!("../kernels/rope_store/known_turns.h")),
    ("rope_store.h", include_str!("../kernels/rope_store/rope_store.h")),
    ("swiglu.h", include_str!("../kernels/swiglu_linear_add/swiglu.h")),
];

impl Source {
    /// Whether it is written in `dialect`.
    pub fn has(&self, dialect: Dialect) -> bool {
        match dialect {
            Dialect::Cuda => self.cuda.is_some(),
            Dialect::Metal => self.metal.is_some(),
        }
    }

    /// Whether it is of Metal 4, by whose tensor operations it multiplies.
    pub fn has_tensors(&self) -> bool {
        self == &SIMD_TENSORS
    }

    /// Definitions of which each makes other kernels of it.
    pub fn variants(&self) -> &'static [&'static str] {
        match self.name {
            "activations" | "decode_attention" | "folded_linear" | "rope_store" | "step" => &["", KNOWN],
            "generated_experts" | "generated_gated" | "generated_linear" | "generated_qkv" => {
                &["", KNOWN_ONE, KNOWN_EIGHT]
            }
            "prompt_experts" | "prompt_gated" | "prompt_linear" | "rounded_add_norm" => &["", SOME_ROWS],
            "rounded_gated" | "rounded_linear" | "rounded_qkv" => &["", SOME_ROWS_ALONE],
            "prompt_attention" => &["", ATTENTION_ALONE],
            _ => &[""],
        }
    }

    /// The whole text in `dialect`, each of the project's headers written out
    /// once where it is first included. `#line` marks keep messages readable.
    ///
    /// `definitions` come first; there are those of one format or shape, where
    /// compiling the kernels of all would keep the first run waiting.
    ///
    /// # Panics
    /// When it is not written in `dialect`.
    pub fn text(&self, dialect: Dialect, definitions: &str) -> String {
        let (extension, text) = match dialect {
            Dialect::Cuda => ("cu", self.cuda),
            Dialect::Metal => ("metal", self.metal),
        };
        let text = text.unwrap_or_else(|| panic!("{} is not written in {dialect:?}", self.name));
        let file = format!("{}.{extension}", self.name);
        let mut out = definitions.to_owned();
        append(&file, text, &mut HashSet::new(), &mut out);
        out
    }
}

/// The definition by which kernels of generated rows take them in bfloat16.
pub(crate) const BF16_ACTIVATIONS: &str = "#define BF16_ACTIVATIONS\n";

/// What CUDA's kernels may be told of a model, all of it, as a literal.
macro_rules! known {
    () => {
        "#define BF16_ACTIVATIONS
#define ROW_QUADS 1
#define GATED_RESULTS 2
#define GATED_GELU 1
#define MERGE_RESULTS 2
#define MERGE_SINGLE false
#define ROPE_NORM 0
#define ROPE_ADJACENT 1
#define ROPE_PAIRS 64
#define ROPE_K_DIM 128
#define ROPE_V_DIM 128
#define ROPE_K_FORMAT 1
#define ROPE_V_FORMAT 1
#define ATTENTION_K KvF16
#define ATTENTION_V KvF16
#define ATTENTION_K_DIM 128
#define ATTENTION_V_DIM 128
#define ATTENTION_GROUP 4
#define ATTENTION_HEADS 32
#define ATTENTION_PAGE 16
#define ATTENTION_WINDOWED false
#define ATTENTION_CAPPED false
"
    };
}

macro_rules! some_rows {
    () => {
        "#define WEIGHT_FORMATS(KERNELS, OP) KERNELS(OP, P4K, p4k)\n#define ROWS_EACH 64\n"
    };
}

/// For the kernels of any number of rows.
const KNOWN: &str = known!();
/// For those of a single row, and of eight.
const KNOWN_ONE: &str = concat!(known!(), "#define ROWS_EACH 1\n");
const KNOWN_EIGHT: &str = concat!(known!(), "#define ROWS_EACH 8\n");

/// As hosts ask for the kernels of one weight format and number of rows.
const SOME_ROWS: &str = some_rows!();
/// The same where no threadgroups share a map's columns.
const SOME_ROWS_ALONE: &str = concat!(some_rows!(), "#define PART_GROUPS 1u\n");

/// The definition by which a multiprocessor has one threadgroup of prompts' attention.
pub(crate) const ATTENTION_ALONE: &str = "#define ATTENTION_ALONE\n";

/// The definition by which a source has the kernels of one weight format (or packing) alone.
pub(crate) fn weight_format(name: &str) -> String {
    format!("#define WEIGHT_FORMATS(KERNELS, OP) KERNELS(OP, {}, {name})\n", name.to_uppercase())
}

/// The definition by which a source has its kernels for so many rows a threadgroup alone.
pub(crate) fn rows_each(rows: u32) -> String {
    format!("#define ROWS_EACH {rows}\n")
}

fn append(file: &str, text: &str, seen: &mut HashSet<String>, out: &mut String) {
    *out += &format!("#line 1 \"{file}\"\n");
    for (number, line) in text.lines().enumerate() {
        let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match included {
            None => {
                *out += line;
                *out += "\n";
            }
            Some(name) => {
                if seen.insert(name.to_owned()) {
                    append(name, &header(name), seen, out);
                }
                *out += &format!("#line {} \"{file}\"\n", number + 2);
            }
        }
    }
}

fn header(name: &str) -> String {
    match name {
        "args.h" => super::args::header(),
        "blocks.h" => blocks(),
        "prompt_memory.h" => super::tiles::prompts::header(),
        "rounded_memory.h" => super::tiles::rounded::header(),
        _ => {
            let found = HEADERS.iter().find(|(header, _)| *header == name);
            found.map_or_else(|| format!("#error no header {name}\n"), |(_, text)| (*text).to_owned())
        }
    }
}

/// The block structs that `formats.h` unpacks, from the table of formats.
fn blocks() -> String {
    // NVRTC may have no headers of CUDA's to include, and `#pragma once` is for files.
    "#define GGUF_HALF_BITS\n".to_owned() + &gguf::format::c_header().replace("#pragma once\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_name_alone() {
        let names: HashSet<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), HEADERS.len());
    }

    #[test]
    fn sources_hold_everything_they_include_once() {
        for source in SOURCES {
            for dialect in [Dialect::Cuda, Dialect::Metal].into_iter().filter(|&dialect| source.has(dialect))
            {
                let text = source.text(dialect, "");
                assert!(!text.contains("#include \""), "{}: an include is left", source.name);
                assert!(!text.contains("#error"), "{}: a header is missing", source.name);
                assert_eq!(text.matches("#define QUARREL_ARGS_H").count(), 1, "{}", source.name);
            }
        }
    }
}
