//! `quarrel rm`: remove models from the cache.

use anyhow::Result;
use store::ModelName;

use crate::args::RmArgs;
use crate::progress::PullProgress;
use crate::{loading, output};

/// Removes each model in turn.
pub fn run(args: &RmArgs) -> Result<()> {
    let store = loading::store()?;
    for name in &args.models {
        let parsed: ModelName = name.parse()?;
        store.remove(&parsed, &mut PullProgress::new())?;
        output::show(&format!("removed {name}\n"))?;
    }
    Ok(())
}
