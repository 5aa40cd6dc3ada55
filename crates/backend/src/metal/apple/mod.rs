//! The Metal framework as a [`Runtime`].
//!
//! Memory is in shared storage, which both the host and the GPU read. Launches
//! are encoded one behind the other into a command buffer ([`commands`]); it is
//! handed over when the host wants something of it, or has encoded enough. The
//! host never waits for one but to read what it wrote.

mod buffer;
mod commands;
mod graphs;
mod library;
mod products;
mod residency;

use std::sync::Arc;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSError, NSOperatingSystemVersion, NSProcessInfo};
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice, MTLGPUFamily};

use crate::gpu::source::Source;
use crate::gpu::{Gpu, Library, Matrices, Multiplier, PromptMaps, Runtime, Shape};
use crate::host::best_fit;
use crate::metal::MetalOptions;
use crate::metal::archives::Archives;
use crate::metal::failures::Serial;
use crate::{Backend, Error, Memory, Result};
use buffer::MetalBuffer;
use commands::Commands;
use graphs::Graphs;
use library::{Kernel, Kernels};
use residency::Residency;

/// As its name says.
pub const HAS_METAL: bool = true;

// The default device can be had only by programs that link it.
#[link(name = "CoreGraphics", kind = "framework")]
// SAFETY: nothing of it is called.
unsafe extern "C" {}

type Device = ProtocolObject<dyn MTLDevice>;

/// The first with Metal 3.
const MACOS: (isize, isize) = (13, 0);
/// The first whose header lists the pairs of types that `tensor_prompts.h` multiplies.
const MACOS_OF_TENSORS: (isize, isize) = (26, 1);

/// Opens the system's GPU.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn open(options: &MetalOptions) -> Result<Box<dyn Backend>> {
    Ok(Box::new(Gpu::new(autoreleasepool(|_| MetalRuntime::open(options))?)))
}

/// The GPU and one queue of it.
struct MetalRuntime {
    device: Retained<Device>,
    commands: Commands,
    kernels: Kernels,
    residency: Option<Arc<Residency>>,
    prompt_maps: PromptMaps,
    graphs: Graphs,
    has: Has,
    /// Memory for copies from and to the host, to be used again once they are done.
    staging: Vec<MetalBuffer>,
}

/// Copies to the host that are under way.
struct Fetch {
    done: Serial,
    memory: MetalBuffer,
    bytes: usize,
}

/// What the framework has here beside what the backend needs anyway.
#[derive(Clone, Copy)]
struct Has {
    matrices: bool,
    graphs: bool,
    tensors: bool,
}

impl Has {
    fn of(device: &Device, system: &NSProcessInfo) -> Self {
        let matrices = products::are_on(device);
        let tensors = is_at_least(system, MACOS_OF_TENSORS) && device.supportsFamily(MTLGPUFamily::Metal4);
        Self { matrices, graphs: matrices && graphs::are_here(), tensors }
    }

    /// What is wanted and is not here.
    fn missing(self, wanted: PromptMaps) -> Option<&'static str> {
        match wanted {
            PromptMaps::By(Multiplier::Tensors) if !self.tensors => {
                Some("--metal-gemm tensor needs macOS 26.1 or later and a GPU with Metal 4")
            }
            PromptMaps::By(Multiplier::Library(_)) if !self.matrices => {
                Some("Metal Performance Shaders have no kernels for it; --metal-gemm simdgroup")
            }
            PromptMaps::By(Multiplier::Library(Library::Graph)) if !self.graphs => {
                Some("--metal-gemm mpsgraph needs macOS 15 or later")
            }
            _ => None,
        }
    }

    fn multipliers(self) -> Vec<Multiplier> {
        let all = [
            (true, Multiplier::Kernels),
            (self.tensors, Multiplier::Tensors),
            (self.matrices, Multiplier::Library(Library::Matrices)),
            (self.graphs, Multiplier::Library(Library::Graph)),
        ];
        all.into_iter().filter_map(|(is_here, multiplier)| is_here.then_some(multiplier)).collect()
    }
}

/// Whether this is macOS of a version, major and minor, or later.
fn is_at_least(system: &NSProcessInfo, (major, minor): (isize, isize)) -> bool {
    let needed = NSOperatingSystemVersion { majorVersion: major, minorVersion: minor, patchVersion: 0 };
    system.isOperatingSystemAtLeastVersion(needed)
}

impl MetalRuntime {
    fn open(options: &MetalOptions) -> Result<Self> {
        let unavailable = |reason: &str| Error::Unavailable { backend: "metal", reason: reason.to_owned() };
        let system = NSProcessInfo::processInfo();
        let found = system.operatingSystemVersionString().to_string();
        if !is_at_least(&system, MACOS) {
            return Err(unavailable(&format!("it needs macOS {} or later, and this is {found}", MACOS.0)));
        }
        let device = MTLCreateSystemDefaultDevice().ok_or_else(|| unavailable("there is no Metal device"))?;
        // M1 and later: the first with sums over a SIMD-group.
        let families = [(MTLGPUFamily::Metal3, "Metal 3"), (MTLGPUFamily::Apple7, "an M1 or later")];
        if let Some((_, needed)) = families.iter().find(|(family, _)| !device.supportsFamily(*family)) {
            return Err(unavailable(&format!("the kernels need {needed}, and this is {}", device.name())));
        }
        let has = Has::of(&device, &system);
        if let Some(missing) = has.missing(options.prompt_maps) {
            return Err(unavailable(&format!("{missing}; this is {}, {found}", device.name())));
        }
        let queue = device.newCommandQueue().ok_or_else(|| unavailable("it gives no command queue"))?;
        let archives = Archives::new(options.kernel_cache.clone(), device.name().to_string(), found);
        let residency = Residency::new(&device, &queue);
        let commands = Commands::new(queue, residency.clone());
        Ok(Self {
            device,
            commands,
            kernels: Kernels::new(archives, options.libraries),
            graphs: Graphs::new(),
            residency,
            has,
            prompt_maps: options.prompt_maps,
            staging: Vec::new(),
        })
    }

    /// `bytes` of memory that no command uses.
    fn staging(&mut self, bytes: usize) -> Result<MetalBuffer> {
        let Self { staging, commands, .. } = self;
        let free = |memory: &MetalBuffer| commands.is_done(memory.last_use()).then(|| memory.bytes());
        match best_fit(staging, bytes, free) {
            Some(memory) => Ok(memory),
            None => self.allocate_now("copies", bytes.max(1).next_power_of_two()),
        }
    }

    fn allocate_now(&self, what: &str, bytes: usize) -> Result<MetalBuffer> {
        MetalBuffer::new((&self.device, self.residency.as_ref()), what, bytes)
    }

    /// Writes to a buffer at once, or has its new contents copied behind the commands that use it.
    fn write(&mut self, to: &MetalBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        if self.commands.is_done(to.last_use()) {
            // SAFETY: all commands that use it have ended.
            unsafe { to.write(offset, bytes) };
            return Ok(());
        }
        let memory = self.staging(bytes.len())?;
        // SAFETY: no command uses what `staging` gives.
        unsafe { memory.write(0, bytes) };
        self.copy((&memory, 0), (to, offset), bytes.len())?;
        self.staging.push(memory);
        Ok(())
    }

    /// Enqueues a copy of `bytes` from one place to another.
    fn copy(
        &mut self,
        (from, from_at): (&MetalBuffer, usize),
        (to, to_at): (&MetalBuffer, usize),
        bytes: usize,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let places = [from.place(from_at, bytes), to.place(to_at, bytes)];
        if places.iter().chain([&bytes]).all(|n| n.is_multiple_of(commands::COPY_ALIGNMENT)) {
            return self.commands.copy((from, from_at), (to, to_at), bytes);
        }
        // The device copies whole words only.
        self.commands.finish()?;
        // SAFETY: both ranges were checked, and no command is left that uses them.
        unsafe { from.address(places[0]).copy_to(to.address(places[1]), bytes) };
        Ok(())
    }

    /// Enqueues copies to memory of their own.
    fn gather(&mut self, parts: &[(&MetalBuffer, usize, usize)]) -> Result<Fetch> {
        let bytes = parts.iter().map(|(.., bytes)| bytes).sum();
        let memory = self.staging(bytes)?;
        let mut at = 0;
        for &(from, offset, n) in parts {
            self.copy((from, offset), (&memory, at), n)?;
            at += n;
        }
        Ok(Fetch { done: self.commands.commit(), memory, bytes })
    }
}

/// Every call has a pool of its own for what the framework hands out on the way: the threads that
/// call have none.
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
        autoreleasepool(|_| {
            let memory = self.device.recommendedMaxWorkingSetSize() >> 30;
            let name = self.device.name();
            let newest = if self.device.supportsFamily(MTLGPUFamily::Metal4) { ", Metal 4" } else { "" };
            format!("metal: {name}{newest}, {memory} GiB for the GPU (never tested on Apple hardware)")
        })
    }

    fn shared_limit(&self) -> u32 {
        autoreleasepool(|_| u32::try_from(self.device.maxThreadgroupMemoryLength()).unwrap_or(u32::MAX))
    }

    fn memory(&self) -> Option<Memory> {
        autoreleasepool(|_| {
            let total = self.device.recommendedMaxWorkingSetSize();
            let available = total.saturating_sub(self.device.currentAllocatedSize() as u64);
            Some(Memory { available, total })
        })
    }

    fn allocate(&mut self, what: &str, bytes: usize) -> Result<MetalBuffer> {
        autoreleasepool(|_| self.allocate_now(what, bytes.max(1)))
    }

    fn import(&mut self, bytes: &gguf::Bytes) -> Option<MetalBuffer> {
        autoreleasepool(|_| MetalBuffer::lent((&self.device, self.residency.as_ref()), bytes))
    }

    fn upload(&mut self, to: &MetalBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        autoreleasepool(|_| self.write(to, offset, bytes))
    }

    fn download(&mut self, from: &MetalBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        autoreleasepool(|_| self.commands.finish())?;
        // SAFETY: no command is left.
        unsafe { from.read(offset, bytes) };
        Ok(())
    }

    fn fetch(&mut self, parts: &[(&MetalBuffer, usize, usize)]) -> Result<Fetch> {
        autoreleasepool(|_| self.gather(parts))
    }

    fn fetched(&mut self, fetch: Fetch) -> Result<Vec<u8>> {
        let Fetch { done, memory, bytes: n } = fetch;
        let waited = autoreleasepool(|_| self.commands.wait(done));
        let mut bytes = vec![0; n];
        // SAFETY: the commands that copy to it have ended, also where they failed.
        unsafe { memory.read(0, &mut bytes) };
        self.staging.push(memory);
        waited.map(|()| bytes)
    }

    fn copy_within(&mut self, buffer: &MetalBuffer, from: usize, to: usize, bytes: usize) -> Result<()> {
        autoreleasepool(|_| self.copy((buffer, from), (buffer, to), bytes))
    }

    fn kernel(
        &mut self,
        source: &'static Source,
        definitions: &str,
        entry: &str,
        _shared: u32,
    ) -> Result<Kernel> {
        autoreleasepool(|_| self.kernels.get(&self.device, source, definitions, entry))
    }

    fn launch(
        &mut self,
        kernel: &Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&MetalBuffer, usize)],
    ) -> Result<()> {
        autoreleasepool(|_| self.commands.launch(kernel, shape, args, buffers))
    }

    fn prompt_maps(&self) -> PromptMaps {
        self.prompt_maps
    }

    fn multipliers(&self) -> Vec<Multiplier> {
        self.has.multipliers()
    }

    fn multiply(
        &mut self,
        by: Library,
        matrices: Matrices,
        x: (&MetalBuffer, usize),
        w: (&MetalBuffer, usize),
        out: (&MetalBuffer, usize),
    ) -> Result<()> {
        let Self { device, commands, graphs, .. } = self;
        autoreleasepool(|_| match by {
            Library::Matrices => commands.multiply(device, matrices, [x, w, out]),
            Library::Graph => commands.multiply_by_graph(device, graphs, matrices, [x, w, out]),
        })
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
