//! The CUDA driver as a [`Runtime`].

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result, sys};

use super::CudaOptions;
use super::compiler::Chip;
use super::memory::{self, DeviceBuffer, Fetch, PinnedMemory};
use super::modules::{Module, Modules};
use super::nvrtc;
use super::users::User;
use crate::gpu::source::{Program, Source};
use crate::gpu::{Activations, Runtime, Shape};
use crate::host::best_fit;
use crate::{Error, Memory, Result};

/// One device and two streams of it.
pub struct CudaRuntime {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// The second queue. Neither goes before the other: that takes longer, whichever it is (docs/performance.md,
    /// "A long prompt beside replies").
    second: Arc<CudaStream>,
    arch: u32,
    units: u32,
    bandwidth: Option<u64>,
    activations: Activations,
    shared_limit: u32,
    user: Arc<User>,
    /// When the last turn is over that others may have to wait for.
    end: Arc<CudaEvent>,
    /// Memory of fetches that have ended, to be used again.
    pinned: Vec<PinnedMemory>,
    modules: Modules,
}

/// An entry point.
pub struct Kernel {
    function: sys::CUfunction,
    name: String,
    /// The function is valid as long as its module is loaded.
    _module: Arc<Module>,
}

// SAFETY: as for `Module`.
unsafe impl Send for Kernel {}

/// A recorded graph of launches.
pub struct Graph(CudaGraph);

// SAFETY: graphs may be used from any thread, one at a time; the backend that owns it is used by one.
unsafe impl Send for Graph {}

impl CudaRuntime {
    /// Opens the device that `options` name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without driver or device.
    pub fn open(options: &CudaOptions) -> Result<Self> {
        let unavailable = |reason| Error::Unavailable { backend: "cuda", reason };
        // SAFETY: it only tries to load the driver's library, which has no requirements.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable("the NVIDIA driver's library (libcuda) is not installed".into()));
        }
        let no_device = |e: DriverError| unavailable(format!("device {}: {e}", options.device));
        let context = CudaContext::new(options.device).map_err(no_device)?;
        // The first stream waits for the device too.
        let open = || context.synchronize().and_then(|()| context.new_stream());
        let (user, stream) = User::open(options.device, open).map_err(no_device)?;
        let second = context.new_stream().map_err(no_device)?;
        let end = context.new_event(None).map_err(no_device)?;
        let (major, minor) = context.compute_capability().map_err(no_device)?;
        let real = u32::try_from(major * 10 + minor).map_err(|e| unavailable(e.to_string()))?;
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| {
            let value = context.attribute(attribute).map_err(no_device)?;
            u32::try_from(value).map_err(|e| unavailable(e.to_string()))
        };
        let shared_limit = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let (arch, shared_limit) = match options.stand_in {
            Some(other) => (other.arch, other.shared_limit.min(shared_limit)),
            None => (real, shared_limit),
        };
        // Kilohertz, of which each gives two bits a line; what a device does not tell is not asked of it.
        let of_memory = |which| attribute(which).ok().map(u64::from).filter(|&value| value > 0);
        let clock = of_memory(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
        let lines = of_memory(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
        let bandwidth = clock.zip(lines).map(|(clock, lines)| clock * 1000 * 2 * lines / 8);
        let chip = Chip { arch: arch.min(real), is_older: options.stand_in.is_some() };
        Ok(Self {
            units: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            bandwidth,
            shared_limit,
            activations: options.activations(nvrtc::has_warpgroups(arch)),
            user: Arc::new(user),
            end: Arc::new(end),
            pinned: Vec::new(),
            modules: Modules::new(context.clone(), chip, options.nvrtc.clone(), options.kernel_cache.clone()),
            context,
            stream,
            second,
            arch,
        })
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`Error::Device`] when some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(failed("waiting for the device"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("using the device"))
    }
}

impl Runtime for CudaRuntime {
    type Buffer = DeviceBuffer;
    type Kernel = Kernel;
    type Graph = Graph;
    type Fetch = Fetch;

    fn name(&self) -> &'static str {
        "cuda"
    }

    fn description(&self) -> String {
        let name = self.context.name().unwrap_or_else(|_| "unnamed device".to_owned());
        let memory = self.context.total_mem().unwrap_or(0) >> 30;
        format!("cuda: {name}, compute capability {}.{}, {memory} GiB", self.arch / 10, self.arch % 10)
    }

    fn has_tiles(&self) -> bool {
        // The first with integer matrix instructions of 32 columns.
        self.arch >= 80
    }

    fn activations(&self) -> Activations {
        self.activations
    }

    fn has_warpgroups(&self) -> bool {
        nvrtc::has_warpgroups(self.arch)
    }

    fn units(&self) -> u32 {
        self.units
    }

    fn bandwidth(&self) -> Option<u64> {
        self.bandwidth
    }

    fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    fn memory(&self) -> Option<Memory> {
        memory::memory(&self.context)
    }

    fn allocate(&mut self, what: &str, bytes: usize) -> Result<DeviceBuffer> {
        self.bind()?;
        DeviceBuffer::zeroed(&self.stream, what, bytes)
    }

    fn upload(&mut self, to: &DeviceBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let at = to.range(offset, bytes.len());
        // SAFETY: the range was checked; pageable memory is read before the call returns.
        unsafe { result::memcpy_htod_async(at, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying to the device"))
    }

    fn download(&mut self, from: &DeviceBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let at = from.range(offset, bytes.len());
        // SAFETY: the range was checked, and `bytes` is borrowed until the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(bytes, at, self.stream.cu_stream()) }
            .map_err(failed("copying from the device"))?;
        self.synchronize()
    }

    fn fetch(&mut self, parts: &[(&DeviceBuffer, usize, usize)]) -> Result<Fetch> {
        self.bind()?;
        let bytes: usize = parts.iter().map(|(.., bytes)| bytes).sum();
        let memory = match best_fit(&mut self.pinned, bytes, |memory| Some(memory.bytes)) {
            Some(memory) => memory,
            None => PinnedMemory::new(&self.context, bytes)?,
        };
        Fetch::start(&self.stream, memory, parts)
    }

    fn fetched(&mut self, fetch: Fetch) -> Result<Vec<u8>> {
        let (bytes, memory) = fetch.wait()?;
        self.pinned.push(memory);
        Ok(bytes)
    }

    fn copy_within(&mut self, buffer: &DeviceBuffer, from: usize, to: usize, bytes: usize) -> Result<()> {
        self.bind()?;
        let (from, to) = (buffer.range(from, bytes), buffer.range(to, bytes));
        // SAFETY: both ranges were checked.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying on the device"))
    }

    fn prepare(&mut self, programs: &[Program<'_>]) {
        self.modules.prepare(programs);
    }

    fn kernel(
        &mut self,
        source: &'static Source,
        definitions: &str,
        entry: &str,
        shared: u32,
    ) -> Result<Kernel> {
        self.bind()?;
        let module = self.modules.get((source, definitions))?;
        let name = CString::new(entry).expect("names of kernels have no zero byte");
        // SAFETY: the module is loaded, and the kernel keeps it so.
        let function = unsafe { result::module::get_function(module.handle, name) };
        let function = function.map_err(failed(&format!("finding kernel `{entry}`")))?;
        allow_shared(function, entry, shared)?;
        Ok(Kernel { function, name: entry.to_owned(), _module: module })
    }

    fn launch(
        &mut self,
        kernel: &Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&DeviceBuffer, usize)],
    ) -> Result<()> {
        self.bind()?;
        let mut pointers: Vec<sys::CUdeviceptr> =
            buffers.iter().map(|(b, offset)| b.range(*offset, 0)).collect();
        let mut params: Vec<*mut c_void> = vec![args.as_ptr().cast_mut().cast()];
        if shape.packed {
            params.push(pointers.as_mut_ptr().cast());
        } else {
            params.extend(pointers.iter_mut().map(|pointer| std::ptr::from_mut(pointer).cast::<c_void>()));
        }
        let mut early = (shape.early && self.arch >= EARLY_LAUNCH_ARCH).then(early_launch);
        let attributes = early.as_mut_slice();
        let stream = if shape.second { &self.second } else { &self.stream };
        let config = sys::CUlaunchConfig {
            gridDimX: shape.groups.0,
            gridDimY: shape.groups.1,
            gridDimZ: 1,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the parameters are the kernel's: its arguments, which the
        // driver copies before it returns, and as many pointers as it takes.
        // That kernels stay inside their buffers is what lowering and the
        // checks of a run's inputs see to.
        let status = unsafe {
            sys::cuLaunchKernelEx(&config, kernel.function, params.as_mut_ptr(), std::ptr::null_mut())
        };
        status.result().map_err(failed(&format!("launching `{}`", kernel.name)))
    }

    fn has_second_queue(&self) -> bool {
        true
    }

    fn fork(&mut self) -> Result<()> {
        self.second.join(&self.stream).map_err(failed("beginning the second queue"))
    }

    fn join(&mut self) -> Result<()> {
        self.stream.join(&self.second).map_err(failed("waiting for the second queue"))
    }

    fn in_turn(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let user = self.user.clone();
        let mut turns = user.turns();
        if let Some(end) = &turns.end {
            self.stream.wait(end).map_err(failed("waiting for another's step"))?;
        }
        let launched = launches(self);
        if !turns.has_others() {
            turns.end = None;
            return launched;
        }
        // After an error too: what was launched runs.
        let told = self.end.record(&self.stream).map_err(failed("telling others of a step's end"));
        turns.end = Some(self.end.clone());
        launched.and(told)
    }

    fn record(&mut self, launches: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<Option<Graph>> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(failed("recording a graph"))?;
        let launched = launches(self);
        // Ended even where a launch failed, or the stream could not be used again.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        launched?;
        let graph = graph.map_err(failed("recording a graph"))?.map(Graph);
        graph.iter().try_for_each(|graph| self.replay(graph))?;
        Ok(graph)
    }

    fn replay(&mut self, graph: &Graph) -> Result<()> {
        graph.0.launch().map_err(failed("launching a graph"))
    }
}

/// Lets a kernel's launches ask for up to `shared` bytes of shared memory. Maps of several lengths
/// share a kernel: what another has asked for stays.
fn allow_shared(function: sys::CUfunction, entry: &str, shared: u32) -> Result<()> {
    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let problem = || failed(&format!("giving kernel `{entry}` {shared} bytes of shared memory"));
    // SAFETY: the function is valid.
    let allowed = unsafe { result::function::get_function_attribute(function, most) }.map_err(problem())?;
    let bytes = i32::try_from(shared).expect("devices have a few hundred KiB");
    if bytes <= allowed {
        return Ok(());
    }
    // SAFETY: as above.
    unsafe { result::function::set_function_attribute(function, most, bytes) }.map_err(problem())
}

/// The first compute capability whose kernels can wait for others.
const EARLY_LAUNCH_ARCH: u32 = 90;

/// Says that a kernel may begin before the one before it has ended (CUDA's programmatic dependent launch).
fn early_launch() -> sys::CUlaunchAttribute {
    let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value,
    }
}

pub(super) fn failed(what: &str) -> impl FnOnce(DriverError) -> Error + use<> {
    let what = what.to_owned();
    move |e| Error::Device { backend: "cuda", what, reason: e.to_string() }
}
