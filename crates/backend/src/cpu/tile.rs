//! The inner loops of linear maps: a panel of weights times a tile of activations.
#![allow(clippy::needless_range_loop, reason = "several arrays of registers are walked at once")]

use super::activations::{BLOCK_WORDS, TILE};
use super::linear::Store;
use super::panel::Panel;
use super::run::Matrix;
use super::simd::{Bias, Kernel, LANES, Simd, Words};

/// Sums of a tile's rows with a panel's, while columns are added.
pub type Sums = [[f32; LANES]; TILE];

/// Columns of floats that are summed apart, even ones and odd ones, before both
/// sums are added to what was there: so a single row does not wait for each
/// addition before the next. Chunks of columns are whole multiples.
pub const FLOATS_TOGETHER: usize = 256;

/// Adds the products of a panel with the words of a tile of `n` rows.
pub struct Multiply<'a, 'p> {
    /// The weights.
    pub panel: &'p Panel<'a>,
    /// The activations of the same columns.
    pub x: &'p [u32],
    /// Rows of the tile, 1 to [`TILE`].
    pub n: usize,
    /// Whether these are the first columns, and `sums` is not looked at.
    pub first: bool,
    /// Added to.
    pub sums: &'p mut Sums,
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.n {
            1 => self.rows::<S, 1>(),
            2 => self.rows::<S, 2>(),
            3 => self.rows::<S, 3>(),
            4 => self.rows::<S, 4>(),
            5 => self.rows::<S, 5>(),
            6 => self.rows::<S, 6>(),
            7 => self.rows::<S, 7>(),
            TILE => self.rows::<S, TILE>(),
            _ => unreachable!("a tile has 1 to {TILE} rows"),
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn rows<S: Simd, const T: usize>(self) {
        let x = self.x;
        let mut sums = [S::splat(0.0); T];
        if !self.first {
            for t in 0..T {
                sums[t] = S::load(&self.sums[t]);
            }
        }
        let sums = &mut sums;
        match self.panel {
            Panel::Int8 { w, scales, offsets, group, bias } => {
                let panel = Int8 { w, scales, offsets, bias: *bias };
                match (*group, offsets.is_empty()) {
                    (32, true) => panel.multiply::<S, 8, 1, false, T>(x, sums),
                    (32, false) => panel.multiply::<S, 8, 1, true, T>(x, sums),
                    (16, true) => panel.multiply::<S, 4, 2, false, T>(x, sums),
                    (16, false) => panel.multiply::<S, 4, 2, true, T>(x, sums),
                    _ => unreachable!("groups are of 16 or 32"),
                }
            }
            Panel::F32(w) => floats::<S, T>(w, x, sums),
            Panel::Bf16(w) => bf16_pairs::<S, T>(w, x, sums),
        }
        for t in 0..T {
            S::store(sums[t], &mut self.sums[t]);
        }
    }
}

/// The parts of [`Panel::Int8`].
struct Int8<'a> {
    w: &'a [Words],
    scales: &'a [[f32; LANES]],
    offsets: &'a [[f32; LANES]],
    bias: Bias,
}

impl Int8<'_> {
    /// `STEPS` words a group, `GROUPS` groups for each 32 columns.
    #[inline(always)]
    fn multiply<S: Simd, const STEPS: usize, const GROUPS: usize, const OFFSET: bool, const T: usize>(
        self,
        x: &[u32],
        sums: &mut [S::F32; T],
    ) {
        let w = self.w.as_chunks::<STEPS>().0;
        for i in 0..x.len() / (BLOCK_WORDS * T) {
            let x = &x[i * BLOCK_WORDS * T..][..BLOCK_WORDS * T];
            for g in 0..GROUPS {
                // The sums of all 32, or of each 16.
                let (of_integers, of_values) = if GROUPS == 1 { (9, 10) } else { (11 + g, 13 + g) };
                let q = &x[g * STEPS * T..(g + 1) * STEPS * T];
                let minus = &x[of_integers * T..(of_integers + 1) * T];
                let group = i * GROUPS + g;
                let dots = if OFFSET {
                    S::dots::<STEPS, T, false>(&w[group], q, minus, self.bias)
                } else {
                    S::dots::<STEPS, T, true>(&w[group], q, minus, self.bias)
                };
                let scale = S::load(&self.scales[group]);
                for t in 0..T {
                    let scale = S::mul(scale, S::splat(f32::from_bits(x[8 * T + t])));
                    sums[t] = S::mul_add(dots[t], scale, sums[t]);
                }
                if OFFSET {
                    let offset = S::load(&self.offsets[group]);
                    for t in 0..T {
                        let value = S::splat(f32::from_bits(x[of_values * T + t]));
                        sums[t] = S::mul_add(offset, value, sums[t]);
                    }
                }
            }
        }
    }
}

/// Adds the products of panel columns with a tile's columns.
#[inline(always)]
pub fn floats<S: Simd, const T: usize>(w: &[[f32; LANES]], x: &[u32], sums: &mut [S::F32; T]) {
    let x = &x[..w.len() * T];
    let mut start = 0;
    while start < w.len() {
        let end = w.len().min(start + FLOATS_TOGETHER);
        let (mut even, mut odd) = ([S::splat(0.0); T], [S::splat(0.0); T]);
        let mut i = start;
        while i + 2 <= end {
            let (first, second) = (S::load(&w[i]), S::load(&w[i + 1]));
            let x = &x[i * T..(i + 2) * T];
            for t in 0..T {
                even[t] = S::mul_add(first, S::splat(f32::from_bits(x[t])), even[t]);
                odd[t] = S::mul_add(second, S::splat(f32::from_bits(x[T + t])), odd[t]);
            }
            i += 2;
        }
        if i < end {
            let (last, x) = (S::load(&w[i]), &x[i * T..]);
            for t in 0..T {
                even[t] = S::mul_add(last, S::splat(f32::from_bits(x[t])), even[t]);
            }
        }
        add_both::<S, T>(sums, even, odd);
        start = end;
    }
}

#[inline(always)]
fn bf16_pairs<S: Simd, const T: usize>(w: &[Words], x: &[u32], sums: &mut [S::F32; T]) {
    let x = &x[..w.len() * T];
    let mut start = 0;
    while start < w.len() {
        let end = w.len().min(start + FLOATS_TOGETHER / 2);
        let (mut even, mut odd) = ([S::splat(0.0); T], [S::splat(0.0); T]);
        let mut i = start;
        while i + 2 <= end {
            let x = &x[i * T..(i + 2) * T];
            S::add_bf16_pairs(&mut even, S::load_u32(&w[i]), &x[..T]);
            S::add_bf16_pairs(&mut odd, S::load_u32(&w[i + 1]), &x[T..]);
            i += 2;
        }
        if i < end {
            S::add_bf16_pairs(&mut even, S::load_u32(&w[i]), &x[i * T..]);
        }
        add_both::<S, T>(sums, even, odd);
        start = end;
    }
}

#[inline(always)]
fn add_both<S: Simd, const T: usize>(sums: &mut [S::F32; T], even: [S::F32; T], odd: [S::F32; T]) {
    for t in 0..T {
        sums[t] = S::add(sums[t], S::add(even[t], odd[t]));
    }
}

/// Stores a tile's sums.
pub struct Finish<'a, 'p> {
    /// The sums of each row.
    pub sums: &'p [[f32; LANES]],
    /// Lanes that were computed for another panel.
    pub skip: usize,
    /// Rows of the output, one for each row of the tile.
    pub out_rows: &'p [u32],
    /// Where they go.
    pub out: Matrix<'a>,
    /// The first column; sixteen or what is left of the output are stored.
    pub first: usize,
    /// Added to the sums, a column each.
    pub bias: Option<&'p [f32]>,
    /// What becomes of them.
    pub store: Store,
}

impl Kernel for Finish<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = LANES.min(self.out.cols - self.first);
        let mut bias = [0.0; LANES];
        if let Some(all) = self.bias {
            bias[..width].copy_from_slice(&all[self.first..self.first + width]);
        }
        for (sums, &row) in self.sums.iter().zip(self.out_rows) {
            // SAFETY: threads have disjoint weight rows, hence disjoint columns, and
            // nobody reads the output before the loop is over.
            let out = unsafe { self.out.part(row as usize, self.first, width) };
            if let (Some(out), 0) = (out.as_mut_array(), self.skip) {
                finish::<S>(S::load(sums), &bias, self.store, out);
                continue;
            }
            let (mut last, mut whole) = ([0.0; LANES], [0.0; LANES]);
            last[..width].copy_from_slice(&sums[self.skip..self.skip + width]);
            whole[..width].copy_from_slice(out);
            finish::<S>(S::load(&last), &bias, self.store, &mut whole);
            out.copy_from_slice(&whole[..width]);
        }
    }
}

#[inline(always)]
fn finish<S: Simd>(sums: S::F32, bias: &[f32; LANES], store: Store, out: &mut [f32; LANES]) {
    let result = S::add(sums, S::load(bias));
    match store {
        Store::Set => S::store(result, out),
        Store::AddScaled(scale) => S::store(S::mul_add(result, S::splat(scale), S::load(out)), out),
    }
}
