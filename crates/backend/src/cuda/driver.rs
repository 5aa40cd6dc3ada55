//! The CUDA driver as a [`Runtime`].

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result, sys};

use super::CudaOptions;
use super::cache::KernelCache;
use super::nvrtc::{self, Nvrtc};
use crate::gpu::source::{Dialect, Source};
use crate::gpu::{Activations, Runtime, Shape};
use crate::{Error, Memory, Result};

/// One device and one stream of it.
pub struct CudaRuntime {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    arch: u32,
    units: u32,
    activations: Activations,
    shared_limit: u32,
    nvrtc_path: Option<std::path::PathBuf>,
    cache: KernelCache,
    /// Memory of fetches that have ended, to be used again.
    pinned: Vec<PinnedMemory>,
    /// Loaded at the first kernel that is not in the cache.
    nvrtc: Option<Nvrtc>,
    /// By source and definitions.
    modules: HashMap<(&'static str, String), Arc<Module>>,
}

/// Device memory.
pub struct DeviceBuffer {
    context: Arc<CudaContext>,
    start: sys::CUdeviceptr,
    bytes: usize,
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // What fails here has failed before: the context is gone.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `start` came from `malloc_sync` and is freed once; the
            // driver waits until nothing enqueued uses it.
            let _ = unsafe { result::free_sync(self.start) };
        }
    }
}

/// Host memory that the device copies to by itself.
struct PinnedMemory {
    context: Arc<CudaContext>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1).next_power_of_two();
        // SAFETY: no flags; what is read of it has been written by a copy.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(failed("reserving host memory"))?;
        Ok(Self { context: context.clone(), start: start.cast(), bytes })
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `start` came from `malloc_host` and is freed once; copies into it are waited
            // for before, or the whole device is given up.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// Copies to the host that are under way.
pub struct Fetch {
    /// Before the memory: fields are dropped in their order.
    done: Done,
    memory: PinnedMemory,
    bytes: usize,
}

/// The end of copies, which is waited for at the latest when nobody wants them any more.
struct Done(CudaEvent);

impl Drop for Done {
    fn drop(&mut self) {
        // What fails here has failed before.
        let _ = self.0.synchronize();
    }
}

/// A loaded image of one source.
struct Module {
    context: Arc<CudaContext>,
    handle: sys::CUmodule,
}

// SAFETY: the driver's handles may be used from any thread that has bound the context.
unsafe impl Send for Module {}
// SAFETY: nothing in it changes after loading.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the handle came from `load_data` and is unloaded once.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
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
        let stream = context.new_stream().map_err(no_device)?;
        let (major, minor) = context.compute_capability().map_err(no_device)?;
        let arch = u32::try_from(major * 10 + minor).map_err(|e| unavailable(e.to_string()))?;
        use sys::CUdevice_attribute as Attribute;
        let attribute = |attribute| {
            let value = context.attribute(attribute).map_err(no_device)?;
            u32::try_from(value).map_err(|e| unavailable(e.to_string()))
        };
        Ok(Self {
            units: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            activations: options.activations,
            cache: KernelCache::new(options.kernel_cache.clone()),
            nvrtc_path: options.nvrtc.clone(),
            context,
            stream,
            arch,
            pinned: Vec::new(),
            nvrtc: None,
            modules: HashMap::new(),
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

    fn module(&mut self, source: &'static Source, definitions: &str) -> Result<Arc<Module>> {
        let key = (source.name, definitions.to_owned());
        if let Some(module) = self.modules.get(&key) {
            return Ok(module.clone());
        }
        let image = self.image(source, definitions)?;
        // SAFETY: the image is a whole CUBIN, or PTX that NVRTC ended with a zero byte.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let handle = handle.map_err(failed(&format!("loading kernels/{}", source.name)))?;
        let module = Arc::new(Module { context: self.context.clone(), handle });
        self.modules.insert(key, module.clone());
        Ok(module)
    }

    /// The compiled source, from the cache or from NVRTC.
    fn image(&mut self, source: &'static Source, definitions: &str) -> Result<Vec<u8>> {
        let text = source.text(Dialect::Cuda, definitions);
        // Without NVRTC's version: what another one compiled is as good, and finding it needs no compiler.
        let options = nvrtc::options(nvrtc::Target { arch: self.arch, machine_code: true }).join(" ");
        let parts = [text.as_str(), options.as_str()];
        if let Some(image) = self.cache.get(&parts) {
            return Ok(image);
        }
        if self.nvrtc.is_none() {
            self.nvrtc = Some(Nvrtc::load(self.nvrtc_path.as_deref())?);
        }
        let nvrtc = self.nvrtc.as_ref().expect("it was just loaded");
        let target = nvrtc.target(self.arch)?;
        if nvrtc::has_warpgroups(self.arch) && !target.machine_code {
            let reason = format!("NVRTC {:?} does not know this device; 11.8 is the first", nvrtc.version());
            return Err(Error::Unavailable { backend: "cuda", reason });
        }
        let image = nvrtc.compile(&format!("{}.cu", source.name), &text, target)?;
        self.cache.put(&parts, &image);
        Ok(image)
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

    fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    fn memory(&self) -> Option<Memory> {
        let (available, total) = self.context.mem_get_info().ok()?;
        Some(Memory { available: available as u64, total: total as u64 })
    }

    fn allocate(&mut self, what: &str, bytes: usize) -> Result<DeviceBuffer> {
        self.bind()?;
        let bytes = bytes.max(1);
        // SAFETY: the memory is set to zero before anyone can read it.
        let start = unsafe { result::malloc_sync(bytes) };
        let start = start.map_err(|e| match (e.0, self.memory()) {
            (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Some(Memory { available, total })) => {
                Error::OutOfMemory {
                    what: what.to_owned(),
                    needed: bytes as u64,
                    available,
                    total,
                    advice: "use a smaller model or format, or a shorter context".to_owned(),
                }
            }
            _ => failed(&format!("allocating {bytes} bytes for {what}"))(e),
        })?;
        let buffer = DeviceBuffer { context: self.context.clone(), start, bytes };
        // SAFETY: the range is the whole allocation.
        let zeroed = unsafe { result::memset_d8_async(start, 0, bytes, self.stream.cu_stream()) };
        zeroed.map_err(failed("clearing memory"))?;
        Ok(buffer)
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
        let fits = self.pinned.iter().position(|memory| memory.bytes >= bytes);
        let memory = match fits {
            Some(i) => self.pinned.swap_remove(i),
            None => PinnedMemory::new(&self.context, bytes)?,
        };
        let mut at = 0;
        for &(buffer, offset, n) in parts {
            let from = buffer.range(offset, n);
            // SAFETY: the part lies in the memory, which lives until the event behind the copies has come.
            let to = unsafe { std::slice::from_raw_parts_mut(memory.start.add(at), n) };
            // SAFETY: as above; the range was checked.
            unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
                .map_err(failed("copying from the device"))?;
            at += n;
        }
        let done = self.stream.record_event(None).map_err(failed("marking the end of copies"))?;
        Ok(Fetch { done: Done(done), memory, bytes })
    }

    fn fetched(&mut self, fetch: Fetch) -> Result<Vec<u8>> {
        fetch.done.0.synchronize().map_err(failed("waiting for the device"))?;
        // SAFETY: the copies have ended, and wrote as many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(fetch.memory.start, fetch.bytes) }.to_vec();
        self.pinned.push(fetch.memory);
        Ok(bytes)
    }

    fn copy_within(&mut self, buffer: &DeviceBuffer, from: usize, to: usize, bytes: usize) -> Result<()> {
        self.bind()?;
        let (from, to) = (buffer.range(from, bytes), buffer.range(to, bytes));
        // SAFETY: both ranges were checked.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(failed("copying on the device"))
    }

    fn kernel(
        &mut self,
        source: &'static Source,
        definitions: &str,
        entry: &str,
        shared: u32,
    ) -> Result<Kernel> {
        self.bind()?;
        let module = self.module(source, definitions)?;
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
        params.extend(pointers.iter_mut().map(|pointer| std::ptr::from_mut(pointer).cast::<c_void>()));
        let early = (shape.early && self.arch >= EARLY_LAUNCH_ARCH).then(early_launch);
        let mut attributes: Vec<_> =
            early.into_iter().chain((shape.cluster > 1).then(|| cluster(shape.cluster))).collect();
        let config = sys::CUlaunchConfig {
            gridDimX: shape.groups.0,
            gridDimY: shape.groups.1,
            gridDimZ: 1,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: self.stream.cu_stream(),
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

/// Blocks that read each other's shared memory.
fn cluster(blocks: u32) -> sys::CUlaunchAttribute {
    let dimensions = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: blocks, y: 1, z: 1 };
    sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { clusterDim: dimensions },
    }
}

impl DeviceBuffer {
    /// The address of `offset`, where `bytes` must still fit.
    fn range(&self, offset: usize, bytes: usize) -> sys::CUdeviceptr {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.bytes);
        assert!(end.is_some(), "{bytes} bytes at {offset} leave a buffer of {}", self.bytes);
        self.start + offset as sys::CUdeviceptr
    }
}

pub(super) fn failed(what: &str) -> impl FnOnce(DriverError) -> Error + use<> {
    let what = what.to_owned();
    move |e| Error::Device { backend: "cuda", what, reason: e.to_string() }
}
