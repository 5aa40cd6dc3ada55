//! Which tensors get more bits than a recipe's base, and what stands in where
//! rows are not whole blocks. The choices are llama.cpp's, which is what
//! people expect behind these names.

use gguf::Format;

use super::Recipe;

/// What a recipe's rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    TokenEmbd,
    Output,
    /// Values, or q, k and v in one tensor.
    AttnV,
    AttnK,
    AttnOutput,
    FfnDown,
    Other,
}

impl Category {
    pub fn of(name: &str) -> Self {
        let parts = [
            ("attn_qkv.weight", Self::AttnV),
            ("attn_v.weight", Self::AttnV),
            ("attn_k.weight", Self::AttnK),
            ("attn_output.weight", Self::AttnOutput),
            ("ffn_down", Self::FfnDown),
        ];
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" => Self::TokenEmbd,
            _ => parts.iter().find(|(part, _)| name.contains(part)).map_or(Self::Other, |&(_, of)| of),
        }
    }
}

/// The model, as far as the rules care.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub n_layers: usize,
    /// Query heads for each key/value head.
    pub n_gqa: usize,
    pub n_experts: usize,
    /// Whether the embeddings are also the output projection.
    pub tied: bool,
}

impl Facts {
    /// The large models whose small value matrix is worth its bits.
    fn is_70b(&self) -> bool {
        self.n_layers == 80 && self.n_gqa > 1
    }
}

/// Where a tensor stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its number among its kind, in layer order.
    pub index: usize,
    /// How many of its kind there are.
    pub count: usize,
    /// Elements a row.
    pub row_len: usize,
}

impl Place {
    /// The first and last eighth and every third between.
    fn is_sensitive(&self) -> bool {
        let eighth = self.count / 8;
        self.index < eighth || self.index >= 7 * self.count / 8 || (self.index - eighth) % 3 == 2
    }
}

/// The format a recipe wants for a tensor, before its row length is considered.
pub(super) fn format(recipe: Recipe, category: Category, place: Place, facts: &Facts) -> Format {
    match category {
        Category::Output => output(recipe, place),
        Category::TokenEmbd if facts.tied => output(recipe, place),
        Category::AttnV => attn_v(recipe, place, facts),
        Category::AttnK if facts.n_experts == 8 => Format::Q8_0,
        Category::AttnOutput => attn_output(recipe, facts),
        Category::FfnDown => ffn_down(recipe, place),
        Category::TokenEmbd | Category::AttnK | Category::Other => recipe.base(),
    }
}

fn output(recipe: Recipe, place: Place) -> Format {
    let base = recipe.base();
    match base == Format::Q8_0 || !place.row_len.is_multiple_of(base.block_len()) {
        true => Format::Q8_0,
        false => Format::Q6_K,
    }
}

fn attn_v(recipe: Recipe, place: Place, facts: &Facts) -> Format {
    let shared = facts.n_gqa >= 4;
    let format = match recipe {
        _ if facts.n_experts == 8 => return Format::Q8_0,
        Recipe::Q2_K if shared => Format::Q4_K,
        Recipe::Q2_K => Format::Q3_K,
        Recipe::Q3_K_M if place.index < 2 => Format::Q5_K,
        Recipe::Q3_K_M => Format::Q4_K,
        Recipe::Q3_K_L => Format::Q5_K,
        Recipe::IQ4_NL if shared => Format::Q5_K,
        Recipe::Q4_K_M | Recipe::Q5_K_M if place.is_sensitive() => Format::Q6_K,
        Recipe::Q4_K_S if place.index < 4 => Format::Q5_K,
        other => other.base(),
    };
    match format {
        Format::Q3_K | Format::Q4_K if facts.is_70b() => Format::Q5_K,
        format => format,
    }
}

fn attn_output(recipe: Recipe, facts: &Facts) -> Format {
    match recipe {
        Recipe::Q2_K | Recipe::Q3_K_S | Recipe::Q3_K_M | Recipe::Q4_K_S | Recipe::Q4_K_M | Recipe::IQ4_NL
            if facts.n_experts == 8 =>
        {
            Format::Q5_K
        }
        _ if facts.n_experts == 8 => recipe.base(),
        Recipe::Q2_K => Format::Q3_K,
        Recipe::Q3_K_M => Format::Q4_K,
        Recipe::Q3_K_L => Format::Q5_K,
        other => other.base(),
    }
}

fn ffn_down(recipe: Recipe, place: Place) -> Format {
    match recipe {
        Recipe::Q2_K => Format::Q3_K,
        Recipe::Q3_K_M if place.index < place.count / 16 => Format::Q5_K,
        Recipe::Q3_K_M => Format::Q4_K,
        Recipe::Q3_K_L => Format::Q5_K,
        Recipe::Q4_K_M | Recipe::Q5_K_M if place.is_sensitive() => Format::Q6_K,
        Recipe::Q4_K_S | Recipe::IQ4_NL if place.index < place.count / 8 => Format::Q5_K,
        other => other.base(),
    }
}

/// What a tensor with rows of `row_len` gets where `format` was wanted: itself
/// if the rows are whole blocks, else a format of blocks of 32, else F16.
pub(super) fn fallback(format: Format, row_len: usize) -> Format {
    let fits = |format: &Format| row_len.is_multiple_of(format.block_len());
    let smaller = match format {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        other => other,
    };
    [format, smaller].into_iter().find(fits).unwrap_or(Format::F16)
}
