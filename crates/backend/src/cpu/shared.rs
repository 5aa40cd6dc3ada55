//! Memory that several threads write at once, each its own part.

use std::marker::PhantomData;

use super::simd::{LANES, Words};

/// A type that scratch memory may hold: any bits are a value.
///
/// # Safety
/// Any initialised bits of its size are a value of it.
pub unsafe trait Plain: Copy {}
// SAFETY: any bits are a value of each.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for [u32; 2] {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for Words {}
// SAFETY: as above.
unsafe impl Plain for [f32; LANES] {}
// SAFETY: as above.
unsafe impl Plain for [[f32; LANES]; 2] {}

/// A run of elements in an arena, handed to all threads of a loop. Indices are
/// checked; that no two threads use one element, unless both only read, is the
/// caller's promise.
#[derive(Debug)]
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    arena: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a pointer; using it takes a promise about threads each time.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Plain> Shared<'a, T> {
    /// All of a slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), arena: PhantomData }
    }

    /// Elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Panics unless elements `at..at + len` are there.
    #[inline(always)]
    fn check(self, at: usize, len: usize) {
        // The message is made elsewhere: here it would take registers from inner loops.
        if at > self.len || len > self.len - at {
            not_there(at, len, self.len);
        }
    }

    /// The run of elements `at..at + len`.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn range(self, at: usize, len: usize) -> Self {
        self.check(at, len);
        // SAFETY: `at` is inside the run (just checked).
        Self { start: unsafe { self.start.add(at) }, len, arena: PhantomData }
    }

    /// Writes elements `at`, `at + stride`, `at + 2 * stride`, …
    ///
    /// # Safety
    /// Nobody else uses them at the same time.
    ///
    /// # Panics
    /// When they are not all there.
    #[inline(always)]
    pub unsafe fn set_each<const N: usize>(self, at: usize, stride: usize, values: [T; N]) {
        assert!(
            at + (N - 1) * stride < self.len,
            "element {at} and {N} in steps of {stride} of {}",
            self.len
        );
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: inside the run (the last one was just checked); the caller keeps others away.
            unsafe { self.start.add(at + i * stride).write(value) };
        }
    }

    /// Elements `at..at + len`, to read.
    ///
    /// # Safety
    /// Nobody writes them while the slice lives.
    ///
    /// # Panics
    /// When they are not all there.
    pub unsafe fn read(self, at: usize, len: usize) -> &'a [T] {
        self.check(at, len);
        // SAFETY: inside the run (just checked), which lives as long as 'a; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.add(at), len) }
    }

    /// Elements `at..at + len`, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes them while the slice lives.
    ///
    /// # Panics
    /// When they are not all there.
    pub unsafe fn write(self, at: usize, len: usize) -> &'a mut [T] {
        self.check(at, len);
        // SAFETY: inside the run (just checked), which lives as long as 'a; the caller keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cold]
#[inline(never)]
fn not_there(at: usize, len: usize, of: usize) -> ! {
    panic!("elements {at} and {len} more of {of}")
}

/// Deals out an arena from its start. Over no memory at all it only counts, so
/// that one function both sizes an op's scratch and takes it.
#[derive(Debug)]
pub struct Bump<'a> {
    start: *mut u8,
    len: usize,
    used: usize,
    arena: PhantomData<&'a mut [u8]>,
}

impl<'a> Bump<'a> {
    /// Every run starts at a multiple of this.
    const ALIGNMENT: usize = 64;

    /// Deals out `arena`, which starts at a multiple of 64.
    pub fn new(arena: &'a mut [u8]) -> Self {
        assert!(arena.as_ptr().addr().is_multiple_of(Self::ALIGNMENT), "arenas are aligned");
        Self { start: arena.as_mut_ptr(), len: arena.len(), used: 0, arena: PhantomData }
    }

    /// Counts only; what it deals out is empty.
    pub fn counting() -> Self {
        Self { start: std::ptr::null_mut(), len: 0, used: 0, arena: PhantomData }
    }

    /// Bytes dealt out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// `n` elements with whatever bits they have.
    ///
    /// # Panics
    /// When the arena is smaller than was counted.
    pub fn take<T: Plain>(&mut self, n: usize) -> Shared<'a, T> {
        const { assert!(align_of::<T>() <= Self::ALIGNMENT) };
        let bytes = n.saturating_mul(size_of::<T>());
        let at = self.used;
        self.used = at.saturating_add(bytes.checked_next_multiple_of(Self::ALIGNMENT).unwrap_or(usize::MAX));
        if self.start.is_null() {
            return Shared { start: std::ptr::dangling_mut(), len: 0, arena: PhantomData };
        }
        assert!(self.used <= self.len, "the arena was sized by the same calls");
        // SAFETY: `at` is inside the arena (just checked) and a multiple of the alignment.
        let start = unsafe { self.start.add(at) }.cast();
        Shared { start, len: n, arena: PhantomData }
    }
}
