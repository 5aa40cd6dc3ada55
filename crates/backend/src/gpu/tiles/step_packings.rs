//! How the weights of layers that are one launch are packed.

use super::convert::Form;
use super::kernel;
use super::packing::Packing;
use super::step::ROWS;
use super::step_layer::Layer;
use crate::WeightId;
use crate::gpu::lower::Lowering;

/// The places of maps.
pub(super) const QKV: usize = 0;
pub(super) const OUTPUT: usize = 1;
pub(super) const GATED: usize = 2;
pub(super) const DOWN: usize = 3;

/// How weights of the maps of q, k and v, of output, gate and up, and down are packed: as in the first layer or in one
/// other way, which takes the same rows.
#[derive(Clone, Copy)]
pub(super) struct Packings {
    pub first: [Packing; 4],
    pub other: [Packing; 4],
}

impl Packings {
    /// Those of one layer.
    pub fn of(lowering: &Lowering<'_>, layer: &Layer<'_>) -> Option<Self> {
        let packing = |ids: &Vec<WeightId>| Packing::of(lowering.weight(ids[0]).format());
        let [a, b, c, d] = layer.weights();
        let first = [packing(&a)?, packing(&b)?, packing(&c)?, packing(&d)?];
        Self { first, other: first }.with(lowering, layer)
    }

    /// These with those of another layer, where that makes no third way.
    pub fn with(mut self, lowering: &Lowering<'_>, layer: &Layer<'_>) -> Option<Self> {
        let form = |packing| Form::of(&lowering.device, packing, ROWS);
        for (map, ids) in layer.weights().iter().enumerate() {
            let (first, other) = (self.first[map], &mut self.other[map]);
            let packings: Vec<_> =
                ids.iter().map(|&id| Packing::of(lowering.weight(id).format())).collect::<Option<_>>()?;
            // Op by op these would be launches of their own, whose outputs decide in which groups parts are added up.
            if form(first) != Form::Quantised && packings.iter().any(|&packing| packing != packings[0]) {
                return None;
            }
            for packing in packings {
                // The bands of gate and up are not told apart.
                let may_differ = map != GATED && form(packing) == form(first);
                match packing == first || packing == *other {
                    true => {}
                    false if *other == first && may_differ => *other = packing,
                    false => return None,
                }
            }
        }
        Some(self)
    }

    /// Bytes of a ring's slot, which has room for a piece of each.
    pub fn slot_bytes(&self) -> u32 {
        let slots = self.first.iter().chain(&self.other).map(|&packing| kernel::slot_bytes(packing));
        slots.max().expect("there are four maps")
    }

    /// A bit for each layer whose weight of this map is packed in the other way.
    pub fn others(
        &self,
        lowering: &Lowering<'_>,
        layers: &[Layer<'_>],
        map: usize,
        id: impl Fn(&Layer<'_>) -> WeightId,
    ) -> u32 {
        let is_other = |layer| Packing::of(lowering.weight(id(layer)).format()) != Some(self.first[map]);
        layers.iter().enumerate().map(|(i, layer)| u32::from(is_other(layer)) << i).sum()
    }
}
