//! What a GPU's driver must offer: little enough that CUDA, Metal and the
//! Metal emulator are each a short file.

use gguf::Bytes;

use super::source::{Program, Source};
use super::work::Work;
use crate::{Memory, Result};

/// Threadgroups (CUDA: blocks) of a launch, `(x, y)`.
pub type Groups = (u32, u32);

/// How a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Threadgroups.
    pub groups: Groups,
    /// Threads a threadgroup.
    pub threads: u32,
    /// Bytes of threadgroup memory beside what the kernel declares.
    pub shared: u32,
    /// Whether it may begin before the launch before it has ended: the kernel waits itself
    /// before it reads what others of the step write.
    pub early: bool,
    /// Whether it is for the second queue ([`Runtime::fork`]).
    pub second: bool,
    /// Whether it must wait for the launches before it; if not, it may run beside those since the
    /// last that waited. A run's first waits.
    pub waits: bool,
    /// The buffers that it may write, a bit each; the others are only read. None of those that are `packed`.
    pub writes: u32,
    /// Whether the kernel takes its buffers' addresses as one structure; only where there are warpgroups.
    pub packed: bool,
    /// What it takes, estimated.
    pub work: Work,
}

/// What generated rows are multiplied as where weights are in tiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// As 8-bit integers in blocks of 32, exactly with the integers of weights; with weights in
    /// bfloat16 as f32.
    #[default]
    Int8,
    /// As bfloat16, with weights rounded to it.
    Bf16,
}

/// What multiplies the rows of prompts where weights are read as they are in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Multiplier {
    /// This crate's kernels.
    #[default]
    Kernels,
    /// This crate's kernels that multiply by tensor operations (Metal 4).
    Tensors,
    /// A library of the driver's, by [`Runtime::multiply`].
    Library(Library),
}

/// A library of the driver's that multiplies matrices of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// One that multiplies matrices of any sizes (Metal Performance Shaders).
    Matrices,
    /// One that compiles a graph for the sizes first (Metal Performance Shaders Graph).
    Graph,
}

/// What is to multiply the rows of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PromptMaps {
    /// This.
    By(Multiplier),
    /// Whichever is fastest of those that there are, measured when a model's first step is lowered.
    Fastest,
}

impl Default for PromptMaps {
    fn default() -> Self {
        Self::By(Multiplier::default())
    }
}

/// Sizes of matrices of floats, row by row without gaps, for `out = scale * x * w^T`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matrices {
    /// Rows of `x` and `out`.
    pub rows: usize,
    /// Columns of `x` and `w`.
    pub cols: usize,
    /// Rows of `w`, columns of `out`.
    pub outs: usize,
    /// Multiplies the product.
    pub scale: f32,
    /// Whether it is added to what is there.
    pub adds: bool,
}

/// A device with its own memory and a queue, on which work is done in order.
pub trait Runtime: Send {
    /// Memory on the device, freed when dropped.
    type Buffer: Send;
    /// A compiled entry point.
    type Kernel: Send;
    /// Launches that were recorded.
    type Graph: Send;
    /// A copy to the host that is under way.
    type Fetch: Send;

    /// Short name of the backend: `cuda`, `metal`.
    fn name(&self) -> &'static str;

    /// One line for people.
    fn description(&self) -> String;

    /// Whether the kernels over tiles of weights run here (`gpu/tiles/`).
    fn has_tiles(&self) -> bool {
        false
    }

    /// What generated rows are multiplied as there.
    fn activations(&self) -> Activations {
        Activations::default()
    }

    /// What is to multiply the rows of prompts.
    fn prompt_maps(&self) -> PromptMaps {
        PromptMaps::default()
    }

    /// What can multiply them here.
    fn multipliers(&self) -> Vec<Multiplier> {
        vec![Multiplier::Kernels]
    }

    /// Whether there are matrix instructions of four SIMD-groups together, which take
    /// operands from threadgroup memory (CUDA's `wgmma`).
    fn has_warpgroups(&self) -> bool {
        false
    }

    /// Processors that run threadgroups side by side.
    fn units(&self) -> u32 {
        1
    }

    /// Bytes a second that its memory gives at most, where the device says.
    fn bandwidth(&self) -> Option<u64> {
        None
    }

    /// Bytes of threadgroup memory that one threadgroup may have.
    fn shared_limit(&self) -> u32 {
        32 << 10
    }

    /// Free and total memory, where the device says.
    fn memory(&self) -> Option<Memory>;

    /// `bytes` of zeroed memory; at least one is reserved.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Device`].
    fn allocate(&mut self, what: &str, bytes: usize) -> Result<Self::Buffer>;

    /// Memory of the host that the device reads where it lies; `None` where it cannot, and for
    /// what it does not lend. The bytes stay as they are as long as somebody has a handle of them.
    fn import(&mut self, _bytes: &Bytes) -> Option<Self::Buffer> {
        None
    }

    /// Copies `bytes` to `offset` of `to`, after the work enqueued before.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn upload(&mut self, to: &Self::Buffer, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Copies from `offset` of `from`, after all work enqueued before, and waits.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn download(&mut self, from: &Self::Buffer, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// Enqueues copies of parts of buffers, `(buffer, offset, bytes)`, to the host.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn fetch(&mut self, parts: &[(&Self::Buffer, usize, usize)]) -> Result<Self::Fetch>;

    /// Waits for copies, which come one behind the other.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn fetched(&mut self, fetch: Self::Fetch) -> Result<Vec<u8>>;

    /// Copies `bytes` within a buffer; the ranges do not overlap.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn copy_within(&mut self, buffer: &Self::Buffer, from: usize, to: usize, bytes: usize) -> Result<()>;

    /// Says what [`kernel`](Self::kernel) will be asked for, so that a slow compiler can begin.
    fn prepare(&mut self, programs: &[Program<'_>]) {
        let _ = programs;
    }

    /// The entry point `entry` of `source`, compiled with `definitions` at first use.
    /// `shared` is as in [`Shape`].
    ///
    /// # Errors
    /// [`crate::Error::Device`], [`crate::Error::Unavailable`] without a compiler.
    fn kernel(
        &mut self,
        source: &'static Source,
        definitions: &str,
        entry: &str,
        shared: u32,
    ) -> Result<Self::Kernel>;

    /// Enqueues a kernel: its arguments by value, then its buffers, each from an offset on.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn launch(
        &mut self,
        kernel: &Self::Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&Self::Buffer, usize)],
    ) -> Result<()>;

    /// Whether there is a second queue, for launches that run beside others.
    fn has_second_queue(&self) -> bool {
        false
    }

    /// Lets the second queue begin, behind all that was enqueued before.
    ///
    /// # Errors
    /// [`crate::Error::Device`]; [`crate::Error::Unavailable`] without such a queue.
    fn fork(&mut self) -> Result<()> {
        Err(crate::Error::Unavailable { backend: self.name(), reason: "there is one queue".to_owned() })
    }

    /// Lets all that is enqueued from here on wait for the second queue.
    ///
    /// # Errors
    /// As [`fork`](Self::fork).
    fn join(&mut self) -> Result<()> {
        Err(crate::Error::Unavailable { backend: self.name(), reason: "there is one queue".to_owned() })
    }

    /// Enqueues a product of matrices by a library of the driver's, each from an offset on. It waits for
    /// all before it, and all behind it wait. By a [`Library::Graph`] rows are a power of two, and nothing
    /// is added.
    ///
    /// # Errors
    /// [`crate::Error::Device`]; [`crate::Error::Unavailable`] without such a library.
    fn multiply(
        &mut self,
        _by: Library,
        _matrices: Matrices,
        _x: (&Self::Buffer, usize),
        _w: (&Self::Buffer, usize),
        _out: (&Self::Buffer, usize),
    ) -> Result<()> {
        let reason = "there is no library that multiplies matrices".to_owned();
        Err(crate::Error::Unavailable { backend: self.name(), reason })
    }

    /// Enqueues what `launches` enqueues, a step, so that nothing that others of this process enqueue so runs beside it: of
    /// launches whose threadgroups wait for each other each could have processors that the other's wait for.
    ///
    /// # Errors
    /// What `launches` says; [`crate::Error::Device`].
    fn in_turn(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        launches(self)
    }

    /// Enqueues what `launches` enqueues and, where the driver can, keeps it to be
    /// enqueued again. Buffers and kernels must outlive the graph.
    ///
    /// # Errors
    /// What `launches` says; [`crate::Error::Device`].
    fn record(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<Option<Self::Graph>>;

    /// Enqueues a graph again.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn replay(&mut self, graph: &Self::Graph) -> Result<()>;
}
