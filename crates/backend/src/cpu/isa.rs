//! Instruction sets, found at run time.

use crate::{Error, Result};

/// The vector instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What [`Isa::Amx`] computes, without its instructions: for tests, since few
    /// processors have them.
    #[cfg(target_arch = "x86_64")]
    AmxEmulated,
    /// What every processor of the architecture has.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (2013 and later).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI (2019 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same and AVX-512 BF16 (2020 and later): prompts multiply bf16 weights in pairs.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The same and AMX with bf16 tiles (2023 and later): prompts are multiplied in tiles.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON, which every 64-bit ARM processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same and dot products of bytes (2018 and later; Apple M1, Neoverse N1, Raspberry Pi 5).
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
}

impl Isa {
    /// Every one that this build has kernels for, slowest first.
    pub const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::AmxEmulated,
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        #[cfg(target_arch = "aarch64")]
        Self::NeonDotprod,
    ];

    /// The name people know.
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::AmxEmulated => "AMX, emulated",
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512 VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "AVX-512 BF16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "AMX",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "NEON dotprod",
        }
    }

    /// The name options use.
    pub const fn option(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::AmxEmulated => "amx-emulated",
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "neon-dotprod",
        }
    }

    /// Whether prompts are multiplied in bf16 tiles.
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self, Self::Amx | Self::AmxEmulated);
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether pairs of bf16 are multiplied in one instruction.
    pub(crate) fn has_bf16_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self >= Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether this processor, and the system for this process, has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::AmxEmulated => true,
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Bf16.is_available() && super::amx::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => {
                Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
        }
    }

    /// The ones that this processor has, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|isa| isa.is_available())
    }

    /// The fastest that this processor has, or `wanted` if it has that.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn choose(wanted: Option<Self>) -> Result<Self> {
        match wanted {
            Some(isa) if !isa.is_available() => {
                let reason = format!("this processor lacks {}", isa.name());
                Err(Error::Unavailable { backend: "cpu", reason })
            }
            Some(isa) => Ok(isa),
            None => Ok(Self::available().last().expect("scalar is always available")),
        }
    }
}
