//! Tiles of bf16 (AMX): sixteen rows of activations times sixteen rows of weights.
//!
//! The intrinsics are unstable, so that instructions are written out. A tile of
//! activations holds 32 columns of sixteen rows, row by row; a tile of weights
//! the same columns of a panel, two columns a word, as panels are; sums are
//! f32, added up over all columns in the tile registers.

use std::arch::asm;
use std::sync::OnceLock;

use super::Isa;
use super::activations::TILE_ROWS;
use super::simd::LANES;

/// Words of a tile: sixteen rows of 64 bytes.
pub const TILE_WORDS: usize = 256;

/// Sums of two tiles of activations with two of weights: `[activations][weights]`.
pub type Sums = [[[[f32; LANES]; TILE_ROWS]; 2]; 2];

/// Where [`Tiles::multiply`] puts sums that are to be a [`Sums`].
pub fn places(sums: &mut Sums) -> [[*mut f32; 2]; 2] {
    let [[a, b], [c, d]] = sums;
    [
        [a.as_flattened_mut().as_mut_ptr(), b.as_flattened_mut().as_mut_ptr()],
        [c.as_flattened_mut().as_mut_ptr(), d.as_flattened_mut().as_mut_ptr()],
    ]
}

/// Whether the processor has tiles and bf16, and the system lets this process use them.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_permits())
}

fn processor_has_tiles() -> bool {
    if !is_x86_feature_detected!("xsave") || std::arch::x86_64::__cpuid(0).eax < 7 {
        return false;
    }
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let (bf16, tiles) = (1 << 22, 1 << 24);
    // Tile configuration and data must be among what the system saves.
    let saved = 0b11 << 17;
    features & (bf16 | tiles) == bf16 | tiles && saved_state() & saved == saved
}

/// What the system saves when it switches threads.
fn saved_state() -> u32 {
    let state: u32;
    // SAFETY: reads a register; the processor has `xsave`, and Linux turns it on.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack)) };
    state
}

/// Linux grants tile registers to a process that asks.
#[cfg(target_os = "linux")]
fn system_permits() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call changes what this process may use, no memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn system_permits() -> bool {
    false
}

/// What `ldtilecfg` reads: palette 1, eight tiles of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Tile registers of this thread, configured until it is dropped.
pub struct Tiles {
    emulated: bool,
}

/// Multiplies with [`Tiles`]: what `$start` gives to registers 0 to 3, plus `n`
/// products. Weights are read past the first cache, where activations stay.
macro_rules! multiply {
    ($start:literal, $x:ident, $w:ident, $n:ident, $out:ident, $stride:ident) => {
        asm!(
            $start,
            "2:",
            "tileloadd tmm4, [{x0} + {row}*1]",
            "tileloaddt1 tmm6, [{w0} + {row}*1]",
            "tileloaddt1 tmm7, [{w1} + {row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{x1} + {row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {n}",
            "jnz 2b",
            "tilestored [{o00} + {stride}*4], tmm0",
            "tilestored [{o01} + {stride}*4], tmm1",
            "tilestored [{o10} + {stride}*4], tmm2",
            "tilestored [{o11} + {stride}*4], tmm3",
            x0 = inout(reg) $x[0] => _,
            x1 = inout(reg) $x[1] => _,
            w0 = inout(reg) $w[0] => _,
            w1 = inout(reg) $w[1] => _,
            n = inout(reg) $n => _,
            o00 = in(reg) $out[0][0],
            o01 = in(reg) $out[0][1],
            o10 = in(reg) $out[1][0],
            o11 = in(reg) $out[1][1],
            row = in(reg) 64_usize,
            stride = in(reg) $stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Tiles {
    /// Configures them, or takes ordinary instructions for them.
    ///
    /// # Panics
    /// Where tiles are not available and not emulated.
    pub fn configure(isa: Isa) -> Self {
        let emulated = isa == Isa::AmxEmulated;
        if !emulated {
            assert!(is_available(), "`Isa::choose` gives only what the processor has");
            // SAFETY: the processor has the instruction (just checked), and reads 64 bytes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
        }
        Self { emulated }
    }

    /// The sums over `n` tiles of each of two runs of activations and two of
    /// weights, each run's tiles one after the other: sixteen rows of sixteen
    /// each, to `out[activations][weights]`, a row every `stride` elements.
    ///
    /// # Safety
    /// Each pointer of `x` and `w` is to `n` tiles, at least one, and each of `out`
    /// to the rows.
    pub unsafe fn multiply(
        &self,
        x: [*const u32; 2],
        w: [*const u32; 2],
        n: usize,
        out: [[*mut f32; 2]; 2],
        stride: usize,
    ) {
        debug_assert!(n > 0, "there is a tile at least");
        // SAFETY: the tiles are configured; the caller's pointers are good for `n` tiles of
        // 1024 bytes, and for what is stored. The compiler itself uses no tile registers.
        unsafe {
            if self.emulated {
                return emulate(x, w, n, out, stride, false);
            }
            multiply!("tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3", x, w, n, out, stride);
        }
    }

    /// As [`multiply`](Self::multiply), the sums added to what is at `out`.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn multiply_add(
        &self,
        x: [*const u32; 2],
        w: [*const u32; 2],
        n: usize,
        out: [[*mut f32; 2]; 2],
        stride: usize,
    ) {
        debug_assert!(n > 0, "there is a tile at least");
        // SAFETY: as above; what is loaded is where results go.
        unsafe {
            if self.emulated {
                return emulate(x, w, n, out, stride, true);
            }
            multiply!(
                "tileloadd tmm0, [{o00} + {stride}*4]\n\
                 tileloadd tmm1, [{o01} + {stride}*4]\n\
                 tileloadd tmm2, [{o10} + {stride}*4]\n\
                 tileloadd tmm3, [{o11} + {stride}*4]",
                x,
                w,
                n,
                out,
                stride
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if !self.emulated {
            // SAFETY: the processor has the instruction, or there would be no such value.
            unsafe { asm!("tilerelease", options(nomem, nostack)) };
        }
    }
}

/// What the instructions of [`Tiles`] do, product by product.
///
/// # Safety
/// As of [`Tiles::multiply`].
unsafe fn emulate(
    x: [*const u32; 2],
    w: [*const u32; 2],
    n: usize,
    out: [[*mut f32; 2]; 2],
    stride: usize,
    add: bool,
) {
    let (low, high) =
        (|word: u32| f32::from_bits(word << 16), |word: u32| f32::from_bits(word & 0xffff_0000));
    for (x, out) in x.into_iter().zip(out) {
        for (w, out) in w.into_iter().zip(out) {
            for (row, column) in (0..TILE_ROWS).flat_map(|row| (0..LANES).map(move |column| (row, column))) {
                // SAFETY: the caller's promise.
                let out = unsafe { &mut *out.add(row * stride + column) };
                let mut sum = if add { *out } else { 0.0 };
                for (tile, k) in (0..n).flat_map(|tile| (0..LANES).map(move |k| (tile, k))) {
                    // SAFETY: as above.
                    let (x, w) = unsafe {
                        (
                            *x.add(tile * TILE_WORDS + row * LANES + k),
                            *w.add(tile * TILE_WORDS + k * LANES + column),
                        )
                    };
                    sum += low(x) * low(w) + high(x) * high(w);
                }
                *out = sum;
            }
        }
    }
}
