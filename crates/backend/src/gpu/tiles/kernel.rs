//! Which kernel does a linear map, and with how much memory.

use bytemuck::Pod;

use super::convert::Form;
use super::packing::{Packing, TILE_ROWS};
use super::rounded;
use crate::Result;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Device, Grid, Launch, Lowering};
use crate::gpu::source::{self, Source};

/// SIMD-groups that share a map's columns; sums are the same for any kernel.
pub(crate) const PARTS: u32 = 8;
/// Threads of such SIMD-groups.
pub(crate) const TEAM_THREADS: u32 = 32 * PARTS;
/// Elements of four that a thread has of a row, at most.
const LOADS: usize = 4;
/// Slots of a ring, and bytes of one that holds several tiles.
const SLOTS: u32 = 2;
const SLOT_BYTES: u32 = 2304;
/// Bytes of one SIMD-group's sums of a band, for eight rows and for a single one.
const SUMS_BYTES: u32 = 4 * 8 * 20;
const SINGLE_SUMS_BYTES: u32 = 4 * 16;
/// What a kernel declares itself, and the driver takes.
const RESERVED: u32 = 1168;
/// Threads of a processor for which its registers suffice.
const MOST_THREADS: u32 = 1024;

/// Which of the kernels over tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of `generated_*.cu`, by instructions of one SIMD-group.
    Generated,
    /// Of `rounded_*.cu`, by warpgroups.
    Rounded,
    /// Of `prompt_*.cu`.
    Prompt,
}

/// A kernel's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub kind: Kind,
    /// Rows a threadgroup does, which is in the kernel's name.
    pub rows_each: u32,
    /// Bands of 16 outputs that a block does at once.
    pub bands: u32,
    /// Threads.
    pub threads: u32,
    /// Bytes of threadgroup memory.
    pub shared: u32,
    /// Groups in which a map's parts are added up.
    pub part_groups: u32,
}

/// What a kernel of so many threads that reads a row of so many columns is compiled with where they have all of it.
pub(super) fn row_definition(cols: usize, threads: u32) -> String {
    let quads = cols.div_ceil(4 * threads as usize);
    if quads <= LOADS { format!("#define ROW_QUADS {quads}\n") } else { String::new() }
}

/// Bytes of a slot of a ring.
pub(super) fn slot_bytes(packing: Packing) -> u32 {
    piece_tiles(packing) * packing.tile_bytes() as u32
}

/// Tiles that kernels of few rows take together.
pub(super) fn piece_tiles(packing: Packing) -> u32 {
    (SLOT_BYTES / packing.tile_bytes() as u32).max(1)
}

/// Bytes of 64 columns of a single row and of eight.
pub(super) fn row_bytes(form: Form) -> (u32, u32) {
    match form {
        Form::Split => (384, 3072),
        Form::Rounded => (128, 1024),
        _ => (96, 640),
    }
}

/// A map as far as its kernel depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MapShape {
    pub packing: Packing,
    /// Tiles of 64 columns.
    pub n_tiles: u32,
    /// Maps a block does side by side: gate and up, or one.
    pub maps: u32,
    /// Bands that a block does at once where there are more than eight rows.
    pub bands: u32,
}

impl MapShape {
    /// Teams of a block's SIMD-groups: one a map, or two that do bands in turn where memory allows it.
    fn teams(self, device: &Device, form: Form, rows: u32) -> u32 {
        let fits =
            |teams| Kernel::shared(form, self, rows, teams).saturating_add(RESERVED) <= device.shared_limit;
        if rows == 8 && fits(2) { 2 } else { self.maps }
    }
}

impl Kernel {
    /// That for as many generated rows as the bucket allows, in a launch of maps of so many
    /// outputs each; `None` where the device lacks memory.
    pub fn generated(lowering: &Lowering<'_>, rows: RowsOf, shape: MapShape, outs: &[u32]) -> Option<Self> {
        let device = &lowering.device;
        let most = rows.most(lowering.bucket);
        let part_groups = rounded::part_groups(device, shape.maps, outs);
        let form = Form::of(device, shape.packing, rows);
        // Where sums are apart there are two sets of them, which leaves registers for half of the bands.
        let is_apart = form == Form::Quantised && shape.packing.together() > 1;
        let bands = if is_apart { shape.bands / 2 } else { shape.bands };
        let shape = MapShape { bands, ..shape };
        let has_rounded = form == Form::Rounded && device.has_warpgroups;
        let sizes = match form {
            // Three parts of 16 rows and more leave no memory for weights.
            Form::Split => &[1, 8][..],
            // Warpgroups are faster with more, and slower with as few.
            _ if has_rounded => &[1, 8],
            _ => &[1, 8, 16, 32, 64],
        };
        let fits = |&&rows: &&u32| {
            Self::shared(form, shape, rows, shape.maps).saturating_add(RESERVED) <= device.shared_limit
        };
        let usable = || sizes.iter().filter(fits);
        let enough = usable().find(|&&n| n as usize >= most);
        if enough.is_none() && has_rounded {
            return Some(Self::rounded(most, shape, part_groups));
        }
        let rows_each = *enough.or_else(|| usable().next_back())?;
        let teams = shape.teams(device, form, rows_each);
        Some(Self {
            kind: Kind::Generated,
            rows_each,
            bands: if rows_each <= 8 { 1 } else { shape.bands },
            threads: TEAM_THREADS * teams,
            shared: Self::shared(form, shape, rows_each, teams),
            part_groups,
        })
    }

    /// That of `generated_experts.cu` for so many rows, one or eight, of a map whose columns are added up
    /// together; `None` where the device lacks memory.
    pub fn experts(device: &Device, form: Form, shape: MapShape, rows: u32) -> Option<Self> {
        let fits =
            Self::shared(form, shape, rows, shape.maps).saturating_add(RESERVED) <= device.shared_limit;
        let teams = if rows == 1 { shape.maps } else { shape.teams(device, form, rows) };
        fits.then(|| Self {
            kind: Kind::Generated,
            rows_each: rows,
            bands: 1,
            threads: TEAM_THREADS * teams,
            shared: Self::shared(form, shape, rows, teams),
            part_groups: 1,
        })
    }

    /// Threadgroups of a single row or eight that a processor runs side by side.
    pub fn side_by_side(&self, device: &Device) -> u32 {
        // Two teams keep a processor busy.
        let is_enough = self.rows_each == 8 && self.threads > TEAM_THREADS;
        let most = if is_enough { 1 } else { (MOST_THREADS / self.threads).max(1) };
        (device.shared_limit / (self.shared + RESERVED)).clamp(1, most)
    }

    /// Whether it reads its row as it is, and converts it.
    pub fn converts(&self) -> bool {
        self.rows_each == 1
    }

    /// What it is compiled with where its threads have all of a row of so many columns that it converts.
    pub fn row_definition(&self, cols: usize) -> String {
        if self.converts() { row_definition(cols, self.threads) } else { String::new() }
    }

    /// What it takes of the rows, which are a weight's of `packing` to multiply with.
    pub fn form(&self, lowering: &Lowering<'_>, packing: Packing) -> Form {
        match self.kind {
            Kind::Generated => Form::of(&lowering.device, packing, RowsOf::Generated),
            Kind::Rounded | Kind::Prompt => Form::Prompt,
        }
    }

    /// Threadgroups that share the columns of a block.
    fn sharers(&self) -> u32 {
        if self.kind == Kind::Rounded { self.part_groups } else { 1 }
    }

    /// Where the threadgroups of so many blocks that share columns leave each other their sums, in scratch
    /// behind `skip` bytes, and where they count who has; the bytes of scratch that are taken then.
    pub fn exchange(
        &self,
        lowering: &mut Lowering<'_>,
        rows: RowsOf,
        n_blocks: u32,
        skip: usize,
    ) -> Result<([Argument; 2], usize)> {
        if self.part_groups == 1 {
            return Ok(([Argument::Inputs; 2], skip));
        }
        let blocks = self.blocks_of_rows(lowering, rows) * n_blocks as usize;
        let sums = 4 * self.rows_each as usize / 2 * self.threads as usize;
        let bytes = (self.part_groups as usize * sums).checked_mul(blocks);
        let (sums, end) = lowering.scratch_bytes(skip, bytes)?;
        Ok(([sums, lowering.kept(4 * blocks)], end))
    }

    /// Blocks for the most rows there are.
    pub fn blocks_of_rows(&self, lowering: &Lowering<'_>, rows: RowsOf) -> usize {
        rows.most(lowering.bucket).div_ceil(self.rows_each as usize)
    }

    /// Blocks for so many outputs.
    pub fn blocks(&self, outs: u32) -> u32 {
        outs.div_ceil(TILE_ROWS as u32 * self.bands)
    }

    /// Threadgroups for so many blocks: each does several where the rows stay in its memory.
    pub fn groups(&self, device: &Device, n_blocks: u32) -> u32 {
        if self.rows_each > 8 || self.kind != Kind::Generated {
            return n_blocks.saturating_mul(self.sharers());
        }
        n_blocks.min(device.units.saturating_mul(self.side_by_side(device)))
    }

    /// Adds a launch of this kernel, which `source` has for weights of `packing` by a name that ends in `suffix`, for
    /// `rows` and so many blocks.
    pub fn launch<'a>(
        &self,
        lowering: &'a mut Lowering<'_>,
        (source, packing, suffix): (&'static Source, Packing, &str),
        (rows, n_blocks): (RowsOf, u32),
        args: impl Pod,
        buffers: &[Argument],
    ) -> &'a mut Launch {
        let Self { kind, rows_each, threads, shared, part_groups, .. } = *self;
        let grid = Grid { x: self.groups(&lowering.device, n_blocks), rows, rows_each, threads };
        let definitions = self.form(lowering, packing).definitions();
        let launch = lowering.launch_for(source, (packing.name(), suffix), grid, args, buffers);
        launch.definitions += &(definitions.to_owned() + &source::rows_each(rows_each));
        if kind == Kind::Rounded {
            launch.definitions += &rounded::groups_definition(part_groups);
        }
        (launch.early, launch.shared) = (true, shared);
        launch
    }

    /// Bytes of threadgroup memory of `generated_*.cu`, as `few_rows.h` and `many_rows.h` lay it out.
    fn shared(form: Form, shape: MapShape, rows: u32, teams: u32) -> u32 {
        let MapShape { packing, n_tiles, bands, .. } = shape;
        let (single, eight) = row_bytes(form);
        let barriers = 8 * SLOTS;
        if rows > 8 {
            let slot = bands * packing.copied_bytes() as u32 + rows / 8 * eight;
            return teams * PARTS * (barriers + SLOTS * slot + bands * SUMS_BYTES);
        }
        let slot = slot_bytes(packing);
        let (resident, sums) = if rows == 1 { (single, SINGLE_SUMS_BYTES) } else { (eight, SUMS_BYTES) };
        (teams * PARTS * (barriers + SLOTS * slot + 2 * sums))
            .saturating_add(n_tiles.saturating_mul(resident))
    }
}
