//! Writes weights as [`Packing`] says that they lie in device memory.

use bytemuck::{bytes_of, cast_slice};
use gguf::format::block::{MAX_GROUPS, Multiples};
use gguf::format::{Block, Float, Visitor, f16};

use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use crate::{Error, Result, Weight};

/// A weight in tiles for a backend of this name: a band of 16 rows after the other, along the columns.
///
/// # Errors
/// [`Error::Absent`] for a scale that f16 cannot hold.
pub(crate) fn pack(weight: &Weight, packing: Packing, backend: &'static str) -> Result<Vec<u8>> {
    let mut tiles = vec![0; packing.bytes(weight.rows(), weight.cols())];
    let band_bytes = packing.bytes(TILE_ROWS, weight.cols());
    let bands = weight.rows().div_ceil(TILE_ROWS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(bands);
    let share = bands.div_ceil(threads.max(1)).max(1);
    let in_range = std::thread::scope(|scope| {
        let parts = tiles.chunks_mut(share * band_bytes).enumerate();
        let workers: Vec<_> = parts
            .map(|(i, part)| scope.spawn(move || pack_bands(weight, packing, i * share, part)))
            .collect();
        workers.into_iter().all(|worker| worker.join().expect("packing does not panic"))
    });
    if in_range {
        return Ok(tiles);
    }
    Err(Error::Absent {
        backend,
        op: "load",
        what: format!("scales of weight `{}`", weight.name()),
        reason: "they are larger than an f16 holds; use the CPU backend",
    })
}

/// Packs whole bands from `first` on; whether every scale and offset could be held.
fn pack_bands(weight: &Weight, packing: Packing, first: usize, out: &mut [u8]) -> bool {
    let mut band = Band::new(packing, weight.cols());
    let mut in_range = true;
    for (i, tiles) in out.chunks_exact_mut(packing.bytes(TILE_ROWS, weight.cols())).enumerate() {
        let start = (first + i) * TILE_ROWS;
        band.clear();
        for row in start..weight.rows().min(start + TILE_ROWS) {
            weight.format().visit(ReadRow { bytes: weight.row(row), row: row - start, band: &mut band });
        }
        in_range &= band.scales.iter().chain(&band.offsets).all(|number| number.is_finite());
        let together = packing.together();
        for (j, run) in tiles.chunks_exact_mut(together * packing.tile_bytes()).enumerate() {
            let (elements, others) = run.split_at_mut(together * packing.element_bytes());
            for (i, elements) in elements.chunks_exact_mut(packing.element_bytes()).enumerate() {
                band.write_elements(j * together + i, elements);
            }
            if packing == Packing::P4K {
                band.write_multiples(j, others)
            } else {
                band.write_scales(j, others)
            }
        }
    }
    in_range
}

/// Sixteen rows as integers (of P16: the upper and lower bytes of floats) and f16 scales.
struct Band {
    packing: Packing,
    /// Columns, whole tiles.
    cols: usize,
    /// Elements, row by row.
    quants: Vec<i8>,
    /// Of P16, the elements.
    floats: Vec<u16>,
    /// For each row and group of columns a scale.
    scales: Vec<f16>,
    offsets: Vec<f16>,
    /// Of P4K, for each of these how often scales and offsets of 32 columns are they.
    multiples: Vec<[(u8, u8); 8]>,
    /// Columns a scale.
    group: usize,
}

impl Band {
    fn new(packing: Packing, cols: usize) -> Self {
        let cols = cols.next_multiple_of(TILE_COLS);
        let group = packing.group();
        let n = TILE_ROWS * cols;
        let (quants, floats) = if packing == Packing::P16 { (0, n) } else { (n, 0) };
        let groups = n / group;
        let multiples = if packing == Packing::P4K { groups } else { 0 };
        Self {
            packing,
            cols,
            quants: vec![0; quants],
            floats: vec![0; floats],
            scales: vec![f16::ZERO; groups],
            offsets: vec![f16::ZERO; groups],
            multiples: vec![[(0, 0); 8]; multiples],
            group,
        }
    }

    fn clear(&mut self) {
        self.quants.fill(0);
        self.floats.fill(0);
        self.scales.fill(f16::ZERO);
        self.offsets.fill(f16::ZERO);
        self.multiples.fill([(0, 0); 8]);
    }

    /// The elements of tile `j` of the band.
    fn write_elements(&self, j: usize, elements: &mut [u8]) {
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            // Row, and first of four columns, of each of a lane's words in order.
            let place = |block: usize, word: usize| {
                (g + 8 * (word % 2), TILE_COLS * j + 32 * block + 4 * t + 16 * (word / 2))
            };
            match self.packing {
                Packing::P2A => {
                    for i in 0..2 {
                        let (row, col) = place(0, i);
                        elements[8 * lane + 4 * i..][..4].copy_from_slice(&self.pairs(row, col));
                    }
                }
                Packing::P4
                | Packing::P4A
                | Packing::P4K
                | Packing::P4S
                | Packing::P5
                | Packing::P5A
                | Packing::P6S => {
                    for i in 0..4 {
                        let (row, col) = place(i / 2, i % 2);
                        elements[16 * lane + 4 * i..][..4].copy_from_slice(&self.nibbles(row, col));
                    }
                    // What elements have above them lies behind all of them.
                    let n = self.packing.bits() - 4;
                    for (i, byte) in elements[512 + 4 * n * lane..][..4 * n].iter_mut().enumerate() {
                        *byte = self.upper_bits(n, i / 4, |word| {
                            let (row, col) = place(word / 4, word % 4);
                            row * self.cols + col + i % 4
                        });
                    }
                }
                Packing::P8 => {
                    for i in 0..8 {
                        let (row, col) = place(i / 4, i % 4);
                        let quants = &self.quants[row * self.cols + col..][..4];
                        elements[512 * (i / 4) + 16 * lane + 4 * (i % 4)..][..4]
                            .copy_from_slice(cast_slice(quants));
                    }
                }
                Packing::P16 => {
                    for i in 0..16 {
                        let (row, col) = (g + 8 * (i % 2), TILE_COLS * j + 16 * (i / 4) + 4 * t + i / 2 % 2);
                        let floats = &self.floats[row * self.cols + col..];
                        elements[512 * (i / 4) + 16 * lane + 4 * (i % 4)..][..4]
                            .copy_from_slice(bytes_of(&[floats[0], floats[2]]));
                    }
                }
            }
        }
    }

    /// Four elements of each 16 columns of a tile, in the quarters of four bytes.
    fn pairs(&self, row: usize, col: usize) -> [u8; 4] {
        let quants = &self.quants[row * self.cols + col..];
        std::array::from_fn(|i| {
            (0..4).fold(0, |byte, group| byte | (quants[16 * group + i] as u8 & 3) << (2 * group))
        })
    }

    /// Four elements and the four 16 columns further, in the halves of four bytes.
    fn nibbles(&self, row: usize, col: usize) -> [u8; 4] {
        let quants = &self.quants[row * self.cols + col..];
        // As the upper half of a signed byte, the code of a signed nibble is 16 times its value.
        std::array::from_fn(|i| (quants[i] as u8 & 15) | (quants[16 + i] as u8) << 4)
    }

    /// A byte of the `n` bits that elements have above four, those of the first of a lane's words topmost: of all eight,
    /// or of the `part`th of as many as have room. `at` says where a word's element is.
    fn upper_bits(&self, n: usize, part: usize, at: impl Fn(usize) -> usize) -> u8 {
        let words = 8 / n;
        (0..words).fold(0, |byte, i| {
            let bits = self.quants[at(part * words + i)] as u8 >> 4 & ((1 << n) - 1);
            byte | bits << (8 - n - n * i)
        })
    }

    /// A lane group's scales lie together: of each group of columns those of rows `g` and `g + 8`, then the offsets so.
    fn write_scales(&self, j: usize, out: &mut [u8]) {
        let n = self.packing.scales_per_row();
        let affine = self.packing.is_affine();
        for g in 0..n.min(1) * 8 {
            for i in 0..2 * n {
                let values = if affine && i >= n { &self.offsets } else { &self.scales };
                let group = if affine { i % n / 2 } else { i / 2 };
                let row = g + 8 * (i % 2);
                let at = row * (self.cols / self.group) + j * (TILE_COLS / self.group) + group;
                out[2 * (2 * n * g + i)..][..2].copy_from_slice(bytes_of(&values[at].to_bits()));
            }
        }
    }

    /// Keeps what the scales and offsets of the `at`th 256 columns are multiples of.
    fn keep_multiples(&mut self, at: usize, of: &Multiples) {
        self.scales[at] = f16::from_f32(of.scale.to_f32());
        self.offsets[at] = f16::from_f32(-of.minimum.to_f32());
        self.multiples[at] = std::array::from_fn(|group| (of.scales[group], of.minima[group]));
    }

    /// What the `j`th four tiles share. For each lane group 32 bytes: a word a tile, of whose bytes each has the lower four
    /// bits of a scale and above them an offset's, of both rows of the first 32 columns and then of the others; a word for
    /// each two tiles of their upper two bits, the first tile's lowest; and the scales and offsets they are multiples of.
    fn write_multiples(&self, j: usize, out: &mut [u8]) {
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            for upper in 0..2 {
                let at = (g + 8 * upper) * (self.cols / self.group) + j;
                for (group, (scale, offset)) in self.multiples[at].into_iter().enumerate() {
                    let (tile, byte) = (group / 2, 2 * (group % 2) + upper);
                    out[4 * tile + byte] = scale & 15 | offset << 4;
                    out[16 + 4 * (tile / 2) + byte] |= (scale >> 4 | offset >> 4 << 2) << (4 * (tile % 2));
                }
                out[24 + 2 * upper..][..2].copy_from_slice(bytes_of(&self.scales[at].to_bits()));
                out[28 + 2 * upper..][..2].copy_from_slice(bytes_of(&self.offsets[at].to_bits()));
            }
        }
    }
}

/// Reads one row of a weight into a band.
struct ReadRow<'a> {
    bytes: &'a [u8],
    row: usize,
    band: &'a mut Band,
}

impl Visitor for ReadRow<'_> {
    type Output = ();

    fn float<F: Float>(self) {
        let to = &mut self.band.floats[self.row * self.band.cols..];
        for (to, bits) in to.iter_mut().zip(self.bytes.chunks_exact(2)) {
            *to = u16::from_le_bytes([bits[0], bits[1]]);
        }
    }

    fn block<B: Block>(self) {
        let Self { bytes, row, band } = self;
        let (mut scales, mut offsets) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
        let groups_at = row * (band.cols / band.group);
        for (i, block) in bytes.chunks_exact(size_of::<B>()).enumerate() {
            let block: &B = bytemuck::from_bytes(block);
            block.unpack(
                &mut band.quants[row * band.cols + i * B::LEN..][..B::LEN],
                &mut scales,
                &mut offsets,
            );
            if band.packing == Packing::P4K {
                band.keep_multiples(
                    groups_at + i,
                    &block.multiples().expect("the packing is that of blocks that have them"),
                );
                continue;
            }
            for g in 0..B::GROUPS {
                band.scales[groups_at + i * B::GROUPS + g] = f16::from_f32(scales[g]);
                if B::HAS_OFFSET {
                    band.offsets[groups_at + i * B::GROUPS + g] = f16::from_f32(offsets[g]);
                }
            }
        }
    }

    fn opaque(self) {
        unreachable!("no packing is chosen for a format that is only listed")
    }
}

#[cfg(test)]
mod tests {
    use gguf::Format;

    use super::*;
    use crate::harness::{Random, matrix};

    /// Element `(row, col)` of a packed weight, read as `packing`'s documentation says.
    fn element(tiles: &[u8], packing: Packing, cols: usize, row: usize, col: usize) -> f32 {
        let nth = row / TILE_ROWS * cols.div_ceil(TILE_COLS) + col / TILE_COLS;
        if packing == Packing::P4K {
            return multiple(&tiles[nth / 4 * 4 * packing.tile_bytes()..], nth % 4, row, col);
        }
        let tile = &tiles[nth * packing.tile_bytes()..][..packing.tile_bytes()];
        let (g, upper, c) = (row % 8, row / 8 % 2, col % TILE_COLS);
        let (block, half, t, j) = (c / 32, c / 16 % 2, c % 16 / 4, c % 4);
        let lane = 4 * g + t;
        let n = packing.scales_per_row();
        let number = |i: usize| {
            let at = packing.element_bytes() + 2 * (2 * n * g + i);
            f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32()
        };
        let (q, group) = match packing {
            Packing::P2A => {
                let byte = tile[8 * lane + 4 * upper + j];
                (f32::from(byte >> (2 * (c / 16)) & 3), c / 16)
            }
            Packing::P4K => unreachable!("four of them were told apart"),
            Packing::P4 | Packing::P4A | Packing::P4S | Packing::P5 | Packing::P5A | Packing::P6S => {
                let byte = tile[16 * lane + 8 * block + 4 * upper + j];
                let (bits, word) = (packing.bits(), 4 * block + 2 * half + upper);
                let code = (byte >> (4 * half) & 15)
                    | match bits {
                        5 => (tile[512 + 4 * lane + j] >> (7 - word) & 1) << 4,
                        6 => (tile[512 + 8 * lane + 4 * block + j] >> (6 - 2 * (word % 4)) & 3) << 4,
                        _ => 0,
                    };
                let signed = ((code << (8 - bits)) as i8) >> (8 - bits);
                let q = if packing.is_affine() { f32::from(code) } else { f32::from(signed) };
                (q, if packing.group() == 16 { c / 16 } else { block })
            }
            Packing::P8 => {
                let q = tile[512 * block + 16 * lane + 8 * half + 4 * upper + j] as i8;
                (f32::from(q), block)
            }
            Packing::P16 => {
                let at = 512 * (c / 16) + 16 * lane + 8 * (j % 2) + 4 * upper + 2 * (j / 2);
                return f32::from_bits(u32::from(u16::from_le_bytes([tile[at], tile[at + 1]])) << 16);
            }
        };
        let offset = packing.is_affine().then(|| number(n + 2 * group + upper));
        number(2 * group + upper) * q + offset.unwrap_or(0.0)
    }

    /// The same of P4K: in the `nth` of four tiles.
    fn multiple(four: &[u8], nth: usize, row: usize, col: usize) -> f32 {
        let (g, upper, c) = (row % 8, row / 8 % 2, col % TILE_COLS);
        let (block, half, t, j) = (c / 32, c / 16 % 2, c % 16 / 4, c % 4);
        let q = four[512 * nth + 16 * (4 * g + t) + 8 * block + 4 * upper + j] >> (4 * half) & 15;
        let shared = &four[2048 + 32 * g..][..32];
        let byte = 2 * block + upper;
        let (low, high) = (shared[4 * nth + byte], shared[16 + nth / 2 * 4 + byte] >> (nth % 2 * 4));
        let number = |at: usize| f16::from_le_bytes([shared[at], shared[at + 1]]).to_f32();
        let scale = number(24 + 2 * upper) * f32::from(low & 15 | (high & 3) << 4);
        scale * f32::from(q) + number(28 + 2 * upper) * f32::from(low >> 4 | (high >> 2 & 3) << 4)
    }

    #[test]
    fn every_element_is_found_where_it_is_said_to_be() {
        let mut random = Random::new(7);
        let mut packings = std::collections::HashSet::new();
        for &format in Format::ALL {
            let Some(packing) = Packing::of(format) else { continue };
            packings.insert(packing);
            let (rows, cols) = (37, if format.block_len() == 256 { 768 } else { 288 });
            let weight = matrix(&mut random, "w", format, rows, cols);
            let tiles = pack(&weight, packing, "cuda").unwrap();
            let mut values = vec![0.0; cols];
            for row in 0..rows {
                weight.dequantize_row(row, &mut values).unwrap();
                let largest = values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                for (col, &value) in values.iter().enumerate() {
                    let found = element(&tiles, packing, cols, row, col);
                    // Scales of the K formats are products of two numbers, which P4K keeps and others round to f16.
                    // Their range is up to twice the largest value, their offset once: half an ε of each.
                    let allowed = if packing == Packing::P4K { 0.0 } else { 3.0 * largest / 2048.0 };
                    assert!(
                        (found - value).abs() <= allowed,
                        "{format} [{row}, {col}]: {found} is not {value}"
                    );
                }
            }
            for row in rows..rows.next_multiple_of(TILE_ROWS) {
                assert_eq!(element(&tiles, packing, cols, row, 0), 0.0, "{format}: padding");
            }
        }
        assert_eq!(packings, Packing::ALL.into(), "every packing has a format");
    }
}
