//! Which weight formats the GPU kernels read.

use gguf::Format;

use super::tiles::packing::Packing;

use crate::KvFormat;
use crate::support::{Stored, Support, absent};

/// The name a format has in the names of kernels, or why there are none.
///
/// # Errors
/// The reason.
pub(crate) fn kernel_name(format: Format) -> Result<&'static str, &'static str> {
    const LISTED: &str = "only the size of this format is known; requantise the model to a supported one";
    match format {
        Format::F32 => Ok("f32"),
        Format::F16 => Ok("f16"),
        Format::BF16 => Ok("bf16"),
        Format::Q4_0 => Ok("q4_0"),
        Format::Q4_1 => Ok("q4_1"),
        Format::Q5_0 => Ok("q5_0"),
        Format::Q5_1 => Ok("q5_1"),
        Format::Q8_0 => Ok("q8_0"),
        Format::Q2_K => Ok("q2_k"),
        Format::Q3_K => Ok("q3_k"),
        Format::Q4_K => Ok("q4_k"),
        Format::Q5_K => Ok("q5_k"),
        Format::Q6_K => Ok("q6_k"),
        Format::IQ4_NL => Ok("iq4_nl"),
        Format::IQ4_XS => Ok("iq4_xs"),
        Format::TQ2_0 => Ok("tq2_0"),
        Format::MXFP4 => Ok("mxfp4"),
        Format::Q8_1
        | Format::Q8_K
        | Format::IQ2_XXS
        | Format::IQ2_XS
        | Format::IQ3_XXS
        | Format::IQ1_S
        | Format::IQ3_S
        | Format::IQ2_S
        | Format::I8
        | Format::I16
        | Format::I32
        | Format::I64
        | Format::F64
        | Format::IQ1_M
        | Format::TQ1_0 => Err(LISTED),
    }
}

/// What `cache.h` calls a format of keys and values.
pub(crate) fn kv_type(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F32 => "KvF32",
        KvFormat::F16 => "KvF16",
        KvFormat::BF16 => "KvBF16",
        KvFormat::Q8_0 => "KvQ8_0",
        KvFormat::Fp8 => "KvFP8",
    }
}

/// What CUDA has kernels for: weights in tiles besides.
pub fn support_with_tiles(op: &'static str, stored: Stored) -> Support {
    match stored {
        Stored::Weight(format) if Packing::of(format).is_some() => Support::Yes,
        Stored::Weight(_) | Stored::Kv(_) => support(op, stored),
    }
}

/// What Metal has kernels for.
pub fn support(_op: &'static str, stored: Stored) -> Support {
    match stored {
        Stored::Weight(format) => match kernel_name(format) {
            Ok(_) => Support::Yes,
            Err(reason) => absent(reason),
        },
        Stored::Kv(_) => Support::Yes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf::format::Support as FormatSupport;

    #[test]
    fn reasons_agree_with_the_table_of_formats() {
        for &format in Format::ALL {
            let listed = kernel_name(format).is_err_and(|reason| reason.starts_with("only the size"));
            assert_eq!(listed, format.support() == FormatSupport::Listed, "{format}");
        }
    }
}
