//! The shape of the KV cache: groups of layers that share a page pool and block tables.

/// How a key or value element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, the default.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// Signed bytes, then for each 32 of them an IEEE half that they are multiplied
    /// with: the largest of the 32 over 127.
    Q8_0,
    /// E4M3 (OCP 8-bit floating point), rounded to even and held within ±448. NaN is
    /// stored as 0x7f, which reads as 480: what is NaN stays so in the residual stream.
    Fp8,
}

/// Elements of [`KvFormat::Q8_0`] that share a scale.
pub const KV_GROUP: usize = 32;

impl KvFormat {
    /// Every format.
    pub const ALL: &[Self] = &[Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Fp8];

    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Fp8 => "fp8",
        }
    }

    /// Bytes one head's vector of `dim` elements takes.
    pub const fn bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::F16 | Self::BF16 => 2 * dim,
            Self::Q8_0 => dim + 2 * dim.div_ceil(KV_GROUP),
            Self::Fp8 => dim,
        }
    }
}

/// One group: layers that see the same tokens and so share block tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// Pages in each of the group's layers.
    pub n_pages: u32,
    /// Tokens a page.
    pub page_size: u32,
    /// `None` for full attention; `Some(w)` when a query sees only the last `w` positions, itself included.
    pub window: Option<u32>,
}

/// One layer's share of the cache: K `[n_pages, n_kv_heads, page_size, k_dim]`
/// and V `[n_pages, n_kv_heads, page_size, v_dim]`, separate arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLayerConfig {
    /// Index into [`CacheConfig::groups`].
    pub group: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of one head's key.
    pub k_dim: usize,
    /// Elements of one head's value.
    pub v_dim: usize,
    /// How keys are stored.
    pub k_format: KvFormat,
    /// How values are stored.
    pub v_format: KvFormat,
}

/// The whole cache of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The groups, each with its own pool.
    pub groups: Vec<GroupConfig>,
    /// One entry per attention layer; [`crate::CacheLayerId`] indexes it.
    pub layers: Vec<CacheLayerConfig>,
}

impl CacheLayerConfig {
    /// Bytes of keys and values that one token takes in this layer.
    pub fn bytes_per_token(&self) -> usize {
        self.n_kv_heads * (self.k_format.bytes(self.k_dim) + self.v_format.bytes(self.v_dim))
    }
}
