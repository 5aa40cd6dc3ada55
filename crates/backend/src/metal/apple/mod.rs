//! The Metal framework as a [`Runtime`].
//!
//! Memory is in shared storage, which both the host and the GPU read. Launches
//! are encoded one behind the other into a command buffer ([`commands`]); it is
//! handed over when the host wants something of it, or has encoded enough. The
//! host never waits for one but to read what it wrote.

mod buffer;
mod commands;
mod library;

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSError;
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice, MTLGPUFamily};

use crate::gpu::source::Source;
use crate::gpu::{Gpu, Runtime, Shape};
use crate::{Backend, Error, Memory, Result};
use buffer::MetalBuffer;
use commands::{Commands, Serial};
use library::{Kernel, Kernels};

/// As its name says.
pub const HAS_METAL: bool = true;

// The default device can be had only by programs that link it.
#[link(name = "CoreGraphics", kind = "framework")]
// SAFETY: nothing of it is called.
unsafe extern "C" {}

type Device = ProtocolObject<dyn MTLDevice>;

/// Opens the system's GPU.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn open() -> Result<Box<dyn Backend>> {
    Ok(Box::new(Gpu::new(MetalRuntime::open()?)))
}

/// The GPU and one queue of it.
struct MetalRuntime {
    device: Retained<Device>,
    commands: Commands,
    kernels: Kernels,
    /// Memory for copies from and to the host, to be used again once they are done.
    staging: Vec<MetalBuffer>,
}

/// Copies to the host that are under way.
struct Fetch {
    done: Serial,
    memory: MetalBuffer,
    bytes: usize,
}

impl MetalRuntime {
    fn open() -> Result<Self> {
        let unavailable = |reason: &str| Error::Unavailable { backend: "metal", reason: reason.to_owned() };
        let device = MTLCreateSystemDefaultDevice().ok_or_else(|| unavailable("there is no Metal device"))?;
        // M1 and later: the first with sums over a SIMD-group.
        if !device.supportsFamily(MTLGPUFamily::Apple7) {
            let reason = format!("the kernels need an M1 or later, and this is {}", device.name());
            return Err(unavailable(&reason));
        }
        let queue = device.newCommandQueue().ok_or_else(|| unavailable("it gives no command queue"))?;
        Ok(Self { device, commands: Commands::new(queue), kernels: Kernels::default(), staging: Vec::new() })
    }

    /// `bytes` of memory that no command uses.
    fn staging(&mut self, bytes: usize) -> Result<MetalBuffer> {
        let Self { staging, commands, .. } = self;
        let free = |memory: &MetalBuffer| memory.bytes() >= bytes && commands.is_done(memory.last_use());
        match staging.iter().position(free) {
            Some(i) => Ok(staging.swap_remove(i)),
            None => MetalBuffer::new(&self.device, "copies", bytes.max(1).next_power_of_two()),
        }
    }

    /// Enqueues a copy of `bytes` from one place to another.
    fn copy(
        &mut self,
        (from, from_at): (&MetalBuffer, usize),
        (to, to_at): (&MetalBuffer, usize),
        bytes: usize,
    ) -> Result<()> {
        let (from_at, to_at) = (from.place(from_at, bytes), to.place(to_at, bytes));
        if bytes == 0 {
            return Ok(());
        }
        if [from_at, to_at, bytes].iter().all(|n| n.is_multiple_of(commands::COPY_ALIGNMENT)) {
            return self.commands.copy((from, from_at), (to, to_at), bytes);
        }
        // The device copies whole words only.
        self.commands.finish()?;
        // SAFETY: both ranges were checked, and no command is left that uses them.
        unsafe { from.address(from_at).copy_to(to.address(to_at), bytes) };
        Ok(())
    }
}

impl Runtime for MetalRuntime {
    type Buffer = MetalBuffer;
    type Kernel = Kernel;
    /// There are none: Metal encodes launches anew.
    type Graph = std::convert::Infallible;
    type Fetch = Fetch;

    fn name(&self) -> &'static str {
        "metal"
    }

    fn description(&self) -> String {
        let memory = self.device.recommendedMaxWorkingSetSize() >> 30;
        format!("metal: {}, {memory} GiB for the GPU (never tested on Apple hardware)", self.device.name())
    }

    fn shared_limit(&self) -> u32 {
        u32::try_from(self.device.maxThreadgroupMemoryLength()).unwrap_or(u32::MAX)
    }

    fn memory(&self) -> Option<Memory> {
        let total = self.device.recommendedMaxWorkingSetSize();
        let available = total.saturating_sub(self.device.currentAllocatedSize() as u64);
        Some(Memory { available, total })
    }

    fn allocate(&mut self, what: &str, bytes: usize) -> Result<MetalBuffer> {
        MetalBuffer::new(&self.device, what, bytes.max(1))
    }

    fn import(&mut self, bytes: &gguf::Bytes) -> Option<MetalBuffer> {
        MetalBuffer::lent(&self.device, bytes)
    }

    fn upload(&mut self, to: &MetalBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        if self.commands.is_done(to.last_use()) {
            to.write(offset, bytes);
            return Ok(());
        }
        let memory = self.staging(bytes.len())?;
        memory.write(0, bytes);
        self.copy((&memory, 0), (to, offset), bytes.len())?;
        self.staging.push(memory);
        Ok(())
    }

    fn download(&mut self, from: &MetalBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.commands.finish()?;
        from.read(offset, bytes);
        Ok(())
    }

    fn fetch(&mut self, parts: &[(&MetalBuffer, usize, usize)]) -> Result<Fetch> {
        let bytes = parts.iter().map(|(.., bytes)| bytes).sum();
        let memory = self.staging(bytes)?;
        let mut at = 0;
        for &(from, offset, n) in parts {
            self.copy((from, offset), (&memory, at), n)?;
            at += n;
        }
        Ok(Fetch { done: self.commands.commit(), memory, bytes })
    }

    fn fetched(&mut self, fetch: Fetch) -> Result<Vec<u8>> {
        self.commands.wait(fetch.done)?;
        let mut bytes = vec![0; fetch.bytes];
        fetch.memory.read(0, &mut bytes);
        self.staging.push(fetch.memory);
        Ok(bytes)
    }

    fn copy_within(&mut self, buffer: &MetalBuffer, from: usize, to: usize, bytes: usize) -> Result<()> {
        self.copy((buffer, from), (buffer, to), bytes)
    }

    fn kernel(
        &mut self,
        source: &'static Source,
        definitions: &str,
        entry: &str,
        shared: u32,
    ) -> Result<Kernel> {
        let limit = self.shared_limit();
        let kernel = self.kernels.get(&self.device, source, definitions, entry)?;
        let memory = kernel.threadgroup_memory() + u64::from(shared);
        if memory <= u64::from(limit) {
            return Ok(kernel);
        }
        let reason = format!("it takes {memory} bytes of threadgroup memory, and this device has {limit}");
        Err(failed(&format!("preparing `{entry}`"), reason))
    }

    fn launch(
        &mut self,
        kernel: &Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&MetalBuffer, usize)],
    ) -> Result<()> {
        self.commands.launch(kernel, shape, args, buffers)
    }

    fn record(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<Option<Self::Graph>> {
        launches(self)?;
        Ok(None)
    }

    fn replay(&mut self, graph: &Self::Graph) -> Result<()> {
        match *graph {}
    }
}

fn failed(what: &str, reason: impl Into<String>) -> Error {
    Error::Device { backend: "metal", what: what.to_owned(), reason: reason.into() }
}

/// What the framework said.
fn refused(what: &str) -> impl FnOnce(Retained<NSError>) -> Error + use<'_> {
    move |error| failed(what, error.localizedDescription().to_string())
}
