//! The names people quantise by.

use gguf::Format;

macro_rules! recipes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $base:ident, $file_type:literal;)*) => {
        /// How to quantise a model: a format for most tensors, and rules for the rest.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names the field uses")]
        pub enum Recipe { $($(#[$doc])* $variant,)* }

        impl Recipe {
            /// Every recipe.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name people know.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The format of every tensor that no rule treats otherwise.
            pub const fn base(self) -> Format {
                match self { $(Self::$variant => Format::$base,)* }
            }

            /// `general.file_type` of its files.
            pub const fn file_type(self) -> u32 {
                match self { $(Self::$variant => $file_type,)* }
            }
        }
    };
}

recipes! {
    /// Single precision.
    F32 = "F32", F32, 0;
    /// Half precision.
    F16 = "F16", F16, 1;
    /// The upper half of single precision.
    BF16 = "BF16", BF16, 32;
    /// 8 bits.
    Q8_0 = "Q8_0", Q8_0, 7;
    /// 4 bits, symmetric.
    Q4_0 = "Q4_0", Q4_0, 2;
    /// 4 bits with a minimum.
    Q4_1 = "Q4_1", Q4_1, 3;
    /// 5 bits, symmetric.
    Q5_0 = "Q5_0", Q5_0, 8;
    /// 5 bits with a minimum.
    Q5_1 = "Q5_1", Q5_1, 9;
    /// About 2.6 bits, sensitive tensors at 3 and 4.
    Q2_K = "Q2_K", Q2_K, 10;
    /// 3 bits throughout.
    Q3_K_S = "Q3_K_S", Q3_K, 11;
    /// 3 bits, sensitive tensors at 4 and 5.
    Q3_K_M = "Q3_K_M", Q3_K, 12;
    /// 3 bits, sensitive tensors at 5.
    Q3_K_L = "Q3_K_L", Q3_K, 13;
    /// 4 bits, the first layers' sensitive tensors at 5.
    Q4_K_S = "Q4_K_S", Q4_K, 14;
    /// 4 bits, half of the sensitive tensors at 6.
    Q4_K_M = "Q4_K_M", Q4_K, 15;
    /// 5 bits throughout.
    Q5_K_S = "Q5_K_S", Q5_K, 16;
    /// 5 bits, half of the sensitive tensors at 6.
    Q5_K_M = "Q5_K_M", Q5_K, 17;
    /// 6 bits.
    Q6_K = "Q6_K", Q6_K, 18;
    /// 4 bits through a non-linear table, a few tensors at 5.
    IQ4_NL = "IQ4_NL", IQ4_NL, 25;
}

impl Recipe {
    /// The recipe called `name`, in any case; `Q3_K`, `Q4_K` and `Q5_K` stand for the `_M` mixes.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = match name.to_ascii_uppercase().as_str() {
            mix @ ("Q3_K" | "Q4_K" | "Q5_K") => format!("{mix}_M"),
            name => name.to_owned(),
        };
        Self::ALL.iter().copied().find(|recipe| recipe.name() == name)
    }
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
