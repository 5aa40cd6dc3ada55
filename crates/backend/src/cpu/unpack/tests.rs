//! Every short cut, from rows and from interleaved panels, on every instruction
//! set, against unpacking row by row.

use gguf::format::{Block, Visitor};
use gguf::{Format, format::Float};

use super::super::Pool;
use super::super::interleave::Interleaved;
use super::super::panel::{From, Panel, UnpackBlocks, bias_of};
use super::super::simd::{InRows, LANES, Rows, Words, dispatch};
use super::{Groups, has_short_cut, unpack_any};
use crate::harness::{Random, matrix};
use crate::{Isa, Weight};

/// Rows beyond a panel, so that the last one is read from rows before it.
const ROWS: usize = LANES + 5;
const COLS: usize = 512;

/// What a panel holds, as bits.
#[derive(Debug, PartialEq)]
struct Unpacked {
    w: Vec<Words>,
    scales: Vec<[u32; LANES]>,
    offsets: Vec<[u32; LANES]>,
}

struct Memory {
    w: Vec<Words>,
    scales: Vec<[f32; LANES]>,
    offsets: Vec<[f32; LANES]>,
}

impl Memory {
    fn new<B: Block>() -> Self {
        let floats = vec![[f32::NAN; LANES]; COLS / B::GROUP];
        let offsets = if B::HAS_OFFSET { floats.clone() } else { vec![] };
        Self { w: vec![[u32::MAX; LANES]; COLS / 4], scales: floats, offsets }
    }

    fn unpacked(&self) -> Unpacked {
        let bits = |floats: &[[f32; LANES]]| floats.iter().map(|x| x.map(f32::to_bits)).collect();
        Unpacked { w: self.w.clone(), scales: bits(&self.scales), offsets: bits(&self.offsets) }
    }
}

/// Compares the short cut of a format with unpacking row by row.
struct Compare<'a>(&'a Weight);

impl Visitor for Compare<'_> {
    type Output = ();

    fn float<F: Float>(self) {
        unreachable!("floats have no short cut");
    }

    fn opaque(self) {
        unreachable!("listed formats have no short cut");
    }

    fn block<B: Block>(self) {
        let weight = self.0;
        for isa in Isa::available() {
            let interleaved = Interleaved::new(&[weight], isa, &mut Pool::new(2).unwrap()).unwrap();
            for first in [0, ROWS - LANES] {
                let rows = Rows::new(weight.row(first).as_ptr(), weight.row_bytes());
                let expected = row_by_row::<B>(&rows);
                let found = short_cut::<B>(From::Rows(rows), isa);
                assert_eq!(found, expected, "{} from row {first}, {isa:?}", B::FORMAT);
            }
            let rows = Rows::new(weight.row(0).as_ptr(), weight.row_bytes());
            let found = short_cut::<B>(From::Panel(interleaved[0].panel(0)), isa);
            assert_eq!(found, row_by_row::<B>(&rows), "{} interleaved, {isa:?}", B::FORMAT);
            // The last panel has five rows; what the other lanes hold is not used.
            let rows = Rows::new(weight.row(ROWS - LANES).as_ptr(), weight.row_bytes());
            let expected = row_by_row::<B>(&rows);
            let found = short_cut::<B>(From::Panel(interleaved[0].panel(1)), isa);
            for (found, expected) in found.w.iter().zip(&expected.w) {
                assert_eq!(found[..5], expected[LANES - 5..], "{} last panel, {isa:?}", B::FORMAT);
            }
            for (found, expected) in found.scales.iter().zip(&expected.scales) {
                assert_eq!(found[..5], expected[LANES - 5..], "{} last panel, {isa:?}", B::FORMAT);
            }
        }
    }
}

fn short_cut<B: Block>(from: From<'_>, isa: Isa) -> Unpacked {
    let mut memory = Memory::new::<B>();
    let mut panel = Panel::Int8 {
        w: &mut memory.w,
        scales: &mut memory.scales,
        offsets: &mut memory.offsets,
        group: B::GROUP,
        bias: bias_of::<B>(),
    };
    dispatch(isa, UnpackBlocks::<B>::new(from, 0..COLS, &mut panel));
    memory.unpacked()
}

fn row_by_row<B: Block>(rows: &Rows) -> Unpacked {
    let mut memory = Memory::new::<B>();
    let groups = COLS / B::LEN;
    for i in 0..groups {
        let of = |n: usize| i * n / groups..(i + 1) * n / groups;
        let mut out = Groups {
            w: &mut memory.w[of(COLS / 4)],
            scales: &mut memory.scales[of(COLS / B::GROUP)],
            offsets: if B::HAS_OFFSET { &mut memory.offsets[of(COLS / B::GROUP)] } else { &mut [] },
        };
        let from = InRows { rows, start: i * size_of::<B>(), bytes: size_of::<B>() };
        // SAFETY: the rows have as many blocks.
        unsafe { unpack_any::<B>(from, &mut out) };
    }
    memory.unpacked()
}

#[test]
fn short_cuts_give_what_blocks_give() {
    let mut random = Random::new(11);
    let formats: Vec<Format> = Format::ALL.iter().copied().filter(|&f| has_short_cut(f)).collect();
    assert_eq!(formats.len(), 7, "each is compared below");
    for format in formats {
        let weight = matrix(&mut random, "w", format, ROWS, COLS);
        format.visit(Compare(&weight));
    }
}
