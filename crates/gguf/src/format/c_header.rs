//! The block formats for kernels written in CUDA C++ or the Metal Shading
//! Language: constants and structs, generated from the table and from the Rust
//! blocks, so that no layout is written twice.

use super::iq4::IQ4_VALUES;
use super::mxfp4::E2M1_DOUBLED;
use super::{Block, Float, Format, Visitor};

const PREAMBLE: &str = r#"// Block formats of GGUF. Generated from gguf::format; do not edit.
// Plain C, CUDA C++ and the Metal Shading Language all accept it.
#pragma once

#if defined(GGUF_HALF_BITS) /* asked for: needs no header of CUDA's */
typedef unsigned short gguf_half;
#elif defined(__METAL_VERSION__)
typedef half gguf_half;
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)
#include <cuda_fp16.h>
typedef __half gguf_half;
#else
typedef unsigned short gguf_half; /* its bits */
#endif

#if defined(__cplusplus) || defined(__METAL_VERSION__)
#define GGUF_STATIC_ASSERT(condition, what) static_assert(condition, what)
#else
#define GGUF_STATIC_ASSERT(condition, what) _Static_assert(condition, what)
#endif
"#;

/// The header's text.
///
/// For each format `X` that Quarrel computes with: `GGUF_X_ID`, `GGUF_X_LEN`
/// (elements a block) and `GGUF_X_BYTES`; for a block format also `GGUF_X_GROUP`
/// (elements that share a scale), `GGUF_X_HAS_OFFSET` and `struct block_x` with
/// a check of its size; and the tables of the non-linear formats as
/// initialisers.
///
/// Structs hold halves at alignment 2, which every block of a well-formed
/// tensor has: tensors are aligned to more, and a block with halves has an even
/// size.
pub fn c_header() -> String {
    let mut header = PREAMBLE.to_owned();
    for format in Format::ALL {
        header.push_str(&format.visit(Declare(*format)));
    }
    for (name, values) in [("IQ4_VALUES", IQ4_VALUES), ("E2M1_DOUBLED", E2M1_DOUBLED)] {
        let values = values.map(|value| value.to_string()).join(", ");
        header.push_str(&format!("\n#define GGUF_{name} {{ {values} }}\n"));
    }
    header
}

/// Declares one format.
struct Declare(Format);

impl Declare {
    /// What every format has.
    fn constants(&self) -> String {
        let (name, id) = (self.0.name(), self.0 as u32);
        let (len, bytes) = (self.0.block_len(), self.0.block_bytes());
        format!(
            "\n#define GGUF_{name}_ID {id}\n#define GGUF_{name}_LEN {len}\n#define GGUF_{name}_BYTES {bytes}\n"
        )
    }
}

impl Visitor for Declare {
    type Output = String;

    fn float<F: Float>(self) -> String {
        self.constants()
    }

    fn block<B: Block>(self) -> String {
        let (name, lower) = (self.0.name(), self.0.name().to_lowercase());
        let fields: String = B::FIELDS
            .iter()
            .map(|field| match field.count {
                Some(count) => format!("    {} {}[{count}];\n", field.c_type, field.name),
                None => format!("    {} {};\n", field.c_type, field.name),
            })
            .collect();
        let (constants, group, has_offset) = (self.constants(), B::GROUP, u8::from(B::HAS_OFFSET));
        format!(
            "{constants}\
             #define GGUF_{name}_GROUP {group}\n\
             #define GGUF_{name}_HAS_OFFSET {has_offset}\n\
             struct block_{lower} {{\n{fields}}};\n\
             GGUF_STATIC_ASSERT(sizeof(struct block_{lower}) == GGUF_{name}_BYTES, \"{name} has another size\");\n"
        )
    }

    fn opaque(self) -> String {
        String::new()
    }
}
