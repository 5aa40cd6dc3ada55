//! Ctrl-C: the first ends a generation, a second one the program.

use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of an interrupted command, as shells expect it.
pub const EXIT_CODE: u8 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Starts to watch for Ctrl-C.
///
/// # Errors
/// When the system refuses a handler.
pub fn watch() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_CODE.into());
        }
    })?;
    Ok(())
}

/// Whether Ctrl-C came since the last call of [`clear`].
pub fn is_set() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Forgets an interrupt that has been dealt with.
pub fn clear() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}
