//! `cargo xtask dist`: the binary of a release, built with a profile.

use std::path::Path;

use crate::error::{Result, at};
use crate::{pgo, quarrel, workspace};

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Instruction sets to profile besides the one this processor takes, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    isa: Vec<String>,
}

/// Leaves the binary in `target/dist`.
///
/// # Errors
/// What stops `cargo xtask pgo`; a file that cannot be copied.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let built = pgo::profiled(&root, &args.isa)?;
    let to = workspace::target_directory(&root)?.join("dist");
    place(&built.binary, &to)
}

fn place(binary: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(at(to))?;
    let to = to.join(quarrel::file_name());
    std::fs::copy(binary, &to).map_err(at(&to))?;
    println!("built {}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_has_its_name() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let binary = temp.path().join("built");
        std::fs::write(&binary, "binary").expect("writable");
        let to = temp.path().join("target/dist");
        place(&binary, &to).expect("it can be copied");
        assert_eq!(std::fs::read(to.join(quarrel::file_name())).expect("it is there"), b"binary");
    }
}
