//! `quarrel pull`: fetch models into the cache.

use anyhow::Result;

use crate::args::PullArgs;
use crate::{interrupt, loading, output};

/// Fetches each model in turn.
pub fn run(args: &PullArgs) -> Result<()> {
    interrupt::watch()?;
    for name in &args.models {
        let resolved = loading::fetch(name)?;
        output::show(&format!("{name}: {}\n", resolved.path.display()))?;
    }
    Ok(())
}
