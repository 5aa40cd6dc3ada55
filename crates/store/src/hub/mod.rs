//! Models from the Hugging Face Hub, or a mirror that speaks its API.

mod repo;
mod select;

pub(crate) use repo::{Repo, RepoFile};
pub(crate) use select::{QUANT_PREFERENCE, Selection, base_name, select};
