//! `quarrel --version`, and with `--verbose` what no test has covered.

use anyhow::Result;
use backend::metal;

use crate::output;

/// Prints it.
pub fn run(verbose: bool) -> Result<()> {
    let mut text = concat!("quarrel ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    if verbose {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        text +=
            &format!("system    {os} {arch}\nbackends  cpu, cuda, metal\nuntested  {}\n", metal::NEVER_RUN);
        text += "          the CPU's NEON code has never run on ARM hardware: it was tested with QEMU\n";
    }
    output::show(&text).map_err(Into::into)
}
