//! Large zeroed allocations that fail with an error instead of an abort.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::{Error, Result};

/// A cache line, and the widest vector.
const ALIGNMENT: usize = align_of::<Line>();

#[repr(align(64))]
struct Line;

/// Bytes of memory that can be had, as the system reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Free, or used only for caches.
    pub available: u64,
    /// Installed, or allowed to this process.
    pub total: u64,
}

impl Memory {
    /// What the system says now; `None` where it says nothing (only Linux does).
    pub fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let machine = Self { available: kib(&text, "MemAvailable:")?, total: kib(&text, "MemTotal:")? };
        Some(match Self::of_cgroup() {
            Some(group) if group.total < machine.total => {
                Self { available: group.available.min(machine.available), total: group.total }
            }
            _ => machine,
        })
    }

    /// The limit of the control group, as containers have it.
    fn of_cgroup() -> Option<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let (total, used) = (read("memory.max")?, read("memory.current")?);
        // The page cache counts as used but is given back on demand.
        let stat = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
        let file = stat.lines().find_map(|line| line.strip_prefix("file ")?.trim().parse::<u64>().ok());
        let available = total.saturating_sub(used.saturating_sub(file.unwrap_or(0)));
        Some(Self { available, total })
    }

    /// An error unless `needed` more bytes are available.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn require(what: &str, needed: u64, advice: &str) -> Result<()> {
        match Self::now() {
            Some(memory) if needed > memory.available => Err(memory.lacking(what, needed, advice)),
            _ => Ok(()),
        }
    }

    fn lacking(self, what: &str, needed: u64, advice: &str) -> Error {
        let Self { available, total } = self;
        Error::OutOfMemory { what: what.to_owned(), needed, available, total, advice: advice.to_owned() }
    }
}

/// The value of a line of `/proc/meminfo`, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A fixed-size run of bytes, zero at first, aligned to a cache line. The
/// system hands out its pages when they are first touched.
#[derive(Debug)]
pub struct ZeroedBytes {
    /// The first aligned byte.
    start: NonNull<u8>,
    len: usize,
    /// What was allocated: `start` lies in it, `len` bytes before its end or more.
    base: NonNull<u8>,
}

// SAFETY: it owns its bytes as a `Box<[u8]>` does.
unsafe impl Send for ZeroedBytes {}
// SAFETY: shared references only read.
unsafe impl Sync for ZeroedBytes {}

impl Default for ZeroedBytes {
    fn default() -> Self {
        let start = NonNull::<Line>::dangling().cast();
        Self { start, len: 0, base: start }
    }
}

impl ZeroedBytes {
    /// `len` zero bytes for `what`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with `advice`.
    pub fn new(what: &str, len: usize, advice: &str) -> Result<Self> {
        if len == 0 {
            return Ok(Self::default());
        }
        Memory::require(what, len as u64, advice)?;
        let refused =
            || Memory::now().unwrap_or(Memory { available: 0, total: 0 }).lacking(what, len as u64, advice);
        let layout = allocation(len).ok_or_else(refused)?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        // SAFETY: the offset is less than `ALIGNMENT`, the bytes that were allocated beyond `len`.
        let start = unsafe { base.add(base.align_offset(ALIGNMENT)) };
        Ok(Self { start, len, base })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The first byte, for access from several threads.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that this value owns (or `len` is 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Room for `len` aligned bytes. The alignment is made by hand: asked for a large
/// one, the standard allocator writes its zeros itself, and so touches every page.
fn allocation(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.checked_add(ALIGNMENT)?, 1).ok()
}

impl Drop for ZeroedBytes {
    fn drop(&mut self) {
        if self.len > 0 {
            let layout = allocation(self.len).expect("it was valid when allocated");
            // SAFETY: `base` came from `alloc_zeroed` with this layout.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_an_error_with_numbers() {
        let error = ZeroedBytes::new("a test", isize::MAX as usize - 63, "ask for less").unwrap_err();
        let Error::OutOfMemory { needed, .. } = &error else { panic!("{error}") };
        assert_eq!(*needed, isize::MAX as u64 - 63);
        assert!(error.to_string().contains("ask for less"));
    }

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:       24627048 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(kib(text, "MemAvailable:"), Some(23_000_000 * 1024));
        assert_eq!(kib(text, "SwapTotal:"), None);
    }
}
