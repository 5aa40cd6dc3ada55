//! A runtime that computes nothing and writes down what it was asked for: which programs a step
//! needs, and what its launches take.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use gguf::Bytes;

use super::runtime::{Library, Matrices, Multiplier, PromptMaps, Runtime, Shape};
use super::source::{Program, Source};
use crate::{Memory, Result};

/// A runtime in the name of a backend.
#[derive(Debug)]
pub struct Paper {
    name: &'static str,
    /// Processors, where there are tiles and warpgroups.
    tile_units: Option<u32>,
    prompt_maps: PromptMaps,
    /// Whether a step is being enqueued: whatever is launched is part of one.
    has_turn: bool,
    notes: Notes,
}

/// What a [`Paper`] wrote down; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    programs: BTreeSet<(&'static str, String)>,
    preparations: usize,
    launches: Vec<PaperLaunch>,
}

/// A launch that would have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaperLaunch {
    /// The kernel.
    pub entry: String,
    /// How it is launched, and what it takes.
    pub shape: Shape,
}

impl Paper {
    /// What lowers as for the backend `name`, one without tiles.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tile_units: None,
            prompt_maps: PromptMaps::default(),
            has_turn: false,
            notes: Notes::default(),
        }
    }

    /// The same where the rows of prompts are multiplied so.
    pub fn with_multiplier(name: &'static str, multiplier: Multiplier) -> Self {
        Self { prompt_maps: PromptMaps::By(multiplier), ..Self::new(name) }
    }

    /// What lowers as for a backend with tiles and warpgroups on so many processors.
    #[cfg(test)]
    pub(crate) fn with_tiles(name: &'static str, units: u32) -> Self {
        Self { tile_units: Some(units), ..Self::new(name) }
    }

    /// A backend that has a case's weights and cache, and what is written down.
    #[cfg(test)]
    pub(crate) fn loaded(self, case: &crate::harness::Case) -> (super::Gpu<Self>, Notes) {
        use crate::Backend;
        let notes = self.notes();
        let mut gpu = super::Gpu::new(self);
        gpu.load(case.weights.clone()).expect("paper takes any weights");
        gpu.create_cache(&case.cache).expect("paper takes any cache");
        (gpu, notes)
    }

    /// What it writes down.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

impl Notes {
    /// Every source that a kernel was asked of, with the definitions that it was to be compiled with.
    pub fn programs(&self) -> BTreeSet<(&'static str, String)> {
        self.written().programs.clone()
    }

    /// How often programs were asked for.
    #[cfg(test)]
    pub(crate) fn preparations(&self) -> usize {
        self.written().preparations
    }

    /// The launches since they were taken last.
    pub fn take_launches(&self) -> Vec<PaperLaunch> {
        std::mem::take(&mut self.written().launches)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().expect("nobody panics while writing")
    }
}

impl Runtime for Paper {
    type Buffer = ();
    type Kernel = String;
    type Graph = Vec<PaperLaunch>;
    type Fetch = usize;

    fn name(&self) -> &'static str {
        self.name
    }

    fn description(&self) -> String {
        format!("{} on paper: nothing is computed", self.name)
    }

    fn has_tiles(&self) -> bool {
        self.tile_units.is_some()
    }

    fn prompt_maps(&self) -> PromptMaps {
        self.prompt_maps
    }

    fn has_warpgroups(&self) -> bool {
        self.tile_units.is_some()
    }

    fn has_second_queue(&self) -> bool {
        self.tile_units.is_some()
    }

    fn fork(&mut self) -> Result<()> {
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        Ok(())
    }

    fn units(&self) -> u32 {
        self.tile_units.unwrap_or(1)
    }

    fn shared_limit(&self) -> u32 {
        if self.tile_units.is_some() { 227 << 10 } else { 32 << 10 }
    }

    fn memory(&self) -> Option<Memory> {
        None
    }

    fn allocate(&mut self, _what: &str, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn import(&mut self, _bytes: &Bytes) -> Option<()> {
        Some(())
    }

    fn upload(&mut self, (): &(), _offset: usize, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Zeros.
    fn download(&mut self, (): &(), _offset: usize, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn fetch(&mut self, parts: &[(&(), usize, usize)]) -> Result<usize> {
        Ok(parts.iter().map(|(.., bytes)| bytes).sum())
    }

    fn fetched(&mut self, bytes: usize) -> Result<Vec<u8>> {
        Ok(vec![0; bytes])
    }

    fn copy_within(&mut self, (): &(), _from: usize, _to: usize, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn prepare(&mut self, programs: &[Program<'_>]) {
        let programs = programs.iter().map(|(source, definitions)| (source.name, (*definitions).to_owned()));
        let mut notes = self.notes.written();
        notes.programs.extend(programs);
        notes.preparations += 1;
    }

    fn kernel(&mut self, source: &'static Source, definitions: &str, entry: &str, _: u32) -> Result<String> {
        let program = (source.name, definitions.to_owned());
        assert!(self.notes.written().programs.contains(&program), "{entry}'s program was not asked for");
        Ok(entry.to_owned())
    }

    fn launch(&mut self, kernel: &String, shape: Shape, _: &[u32], _: &[(&(), usize)]) -> Result<()> {
        assert!(self.has_turn, "{kernel} is launched beside others' steps");
        self.notes.written().launches.push(PaperLaunch { entry: kernel.clone(), shape });
        Ok(())
    }

    fn multiply(
        &mut self,
        _: Library,
        _: Matrices,
        _: (&(), usize),
        _: (&(), usize),
        _: (&(), usize),
    ) -> Result<()> {
        Ok(())
    }

    fn in_turn(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.has_turn = true;
        let launched = launches(self);
        self.has_turn = false;
        launched
    }

    fn record(
        &mut self,
        launches: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<Option<Vec<PaperLaunch>>> {
        let n = self.notes.written().launches.len();
        launches(self)?;
        Ok(Some(self.notes.written().launches[n..].to_vec()))
    }

    fn replay(&mut self, graph: &Vec<PaperLaunch>) -> Result<()> {
        assert!(self.has_turn, "a graph is launched beside others' steps");
        self.notes.written().launches.extend_from_slice(graph);
        Ok(())
    }
}
