//! The emulator as a GPU runtime.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_ulong, c_void};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backend::Error;
use backend::gpu::source::Source;
use backend::gpu::{Gpu, Library as By, Matrices, Multiplier, PromptMaps, Runtime, Shape};
use gguf::Bytes;
use libloading::Library;

use crate::signature::{self, Signatures};
use crate::toolchain::Compiled;

/// A backend that runs the Metal kernels on the CPU.
pub type MetalEmulator = Gpu<Emulator>;

const MAX_BUFFERS: usize = 31;

#[repr(C)]
struct Size {
    x: u32,
    y: u32,
    z: u32,
}

/// `Launch` of `emulator.h`.
#[repr(C)]
struct Launch {
    groups: Size,
    threads: Size,
    buffers: [*mut c_void; MAX_BUFFERS],
    seed: u64,
}

type Find = unsafe extern "C" fn(*const c_char) -> *const c_void;
type Run = unsafe extern "C" fn(*const c_void, *const Launch) -> *const c_char;
type Allocate = unsafe extern "C" fn(c_ulong) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, c_ulong);

/// The entry points of the compiled library.
struct Functions {
    find: Find,
    run: Run,
    allocate: Allocate,
    free: Free,
    /// What they point into.
    _library: Library,
}

/// Compiled kernels, and memory they run on.
pub struct Emulator {
    functions: Arc<Functions>,
    signatures: Signatures,
    seed: u64,
    launches: usize,
    /// Memory for arguments by their size, so that what lies behind them faults.
    arguments: HashMap<usize, Vec<Buffer>>,
    /// Launches since the last that waited for those before it: they may run in any order.
    pending: Vec<Pending>,
    /// The kernels of launches that waited so far.
    waits: Vec<String>,
    /// Which of them is to go on without waiting, to see that somebody would notice.
    missing_wait: Option<usize>,
    prompt_maps: PromptMaps,
}

/// A launch that has not run yet.
struct Pending {
    handle: *const c_void,
    name: String,
    launch: Launch,
    /// Its arguments' memory, with its size.
    arguments: Option<(usize, Buffer)>,
    /// What keeps its buffers.
    _memory: Vec<Arc<Memory>>,
}

// SAFETY: it points to a constant of the library, and to memory that it keeps.
unsafe impl Send for Pending {}

/// Memory that faults right behind its end, or that of a mapped file.
pub struct Buffer {
    memory: Arc<Memory>,
    start: *mut u8,
    bytes: usize,
}

/// What keeps a buffer's memory.
enum Memory {
    Own { functions: Arc<Functions>, start: *mut u8, bytes: usize },
    Lent(#[expect(dead_code, reason = "it keeps the mapping")] Bytes),
}

// SAFETY: it is used only to be freed, once.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

// SAFETY: it owns its memory, and is changed through `&mut Emulator` only.
unsafe impl Send for Buffer {}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Self::Own { functions, start, bytes } = self {
            // SAFETY: `start` came from `allocate` with this size and is freed once.
            unsafe { (functions.free)(start.cast(), *bytes as c_ulong) };
        }
    }
}

/// A kernel of the library.
pub struct Kernel {
    handle: *const c_void,
    name: String,
}

// SAFETY: it points to a constant of the library, which the emulator keeps loaded.
unsafe impl Send for Kernel {}

impl Emulator {
    /// Loads what [`Toolchain::build`](crate::Toolchain::build) made. `seed` shuffles the order of threads.
    ///
    /// # Errors
    /// [`crate::Error::Load`].
    pub fn load(compiled: &Compiled, seed: u64) -> crate::Result<Self> {
        let library = load_alone(&compiled.library)?;
        // SAFETY: these are the signatures of `emulator.cpp`.
        let functions = unsafe {
            Functions {
                find: *library.get::<Find>(b"emulator_find")?,
                run: *library.get::<Run>(b"emulator_launch")?,
                allocate: *library.get::<Allocate>(b"emulator_allocate")?,
                free: *library.get::<Free>(b"emulator_free")?,
                _library: library,
            }
        };
        Ok(Self {
            functions: Arc::new(functions),
            signatures: compiled.signatures.clone(),
            seed,
            launches: 0,
            arguments: HashMap::new(),
            pending: Vec::new(),
            waits: Vec::new(),
            missing_wait: None,
            prompt_maps: PromptMaps::default(),
        })
    }

    /// The same with the rows of prompts multiplied so; what stands for the framework's library is slow
    /// and obvious.
    #[must_use]
    pub fn with_prompt_maps(self, prompt_maps: PromptMaps) -> Self {
        Self { prompt_maps, ..self }
    }

    /// A launch's arguments in memory of their own, with its size; nothing for none.
    fn arguments(&mut self, args: &[u32]) -> backend::Result<Option<(usize, Buffer)>> {
        let bytes = size_of_val(args);
        if bytes == 0 {
            return Ok(None);
        }
        let buffer = match self.arguments.get_mut(&bytes).and_then(Vec::pop) {
            Some(buffer) => buffer,
            None => self.allocate("arguments", bytes)?,
        };
        // SAFETY: it is as long, and no launch has it.
        unsafe { buffer.range(0, bytes).cast::<u32>().copy_from_nonoverlapping(args.as_ptr(), args.len()) };
        Ok(Some((bytes, buffer)))
    }

    /// Runs what is pending, in an order that nobody may rely on.
    fn flush(&mut self) -> backend::Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let mut done = Ok(());
        while !pending.is_empty() && done.is_ok() {
            self.seed = self.seed.wrapping_add(1);
            // As `splitmix64` mixes a counter.
            let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let next = (mixed >> 32) as usize % pending.len();
            done = self.run(pending.swap_remove(next));
        }
        done
    }

    fn run(&mut self, pending: Pending) -> backend::Result<()> {
        let Pending { handle, name, launch, .. } = &pending;
        // SAFETY: the kernel is the library's and the buffers are live; what a
        // wrong kernel does beyond their ends mostly faults, which is what the
        // emulator is for.
        let problem = unsafe { (self.functions.run)(*handle, launch) };
        if problem.is_null() {
            if let Some((bytes, buffer)) = pending.arguments {
                self.arguments.entry(bytes).or_default().push(buffer);
            }
            return Ok(());
        }
        // SAFETY: it is a C string that stays until the library's next launch, and the library is this emulator's.
        let problem = unsafe { CStr::from_ptr(problem) }.to_string_lossy().into_owned();
        Err(failed(&format!("running `{name}`"), problem))
    }

    /// The kernels of launches that waited for those before them so far.
    pub fn waits(&self) -> &[String] {
        &self.waits
    }

    /// Has the `n`th of them not wait, counted from the next.
    pub fn leave_out_wait(&mut self, n: usize) {
        self.missing_wait = Some(self.waits.len() + n);
    }

    /// Kernels that ran so far.
    pub fn launches(&self) -> usize {
        self.launches
    }
}

impl Buffer {
    /// The address of `offset`, where `bytes` must still fit.
    fn range(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes).filter(|&end| end <= self.bytes);
        assert!(end.is_some(), "{bytes} bytes at {offset} leave a buffer of {}", self.bytes);
        self.start.wrapping_add(offset)
    }
}

/// A library that nobody else has, from a copy of its file: one that is loaded twice from one file is there
/// once, with the fibers of one threadgroup, and emulators run side by side.
fn load_alone(path: &Path) -> crate::Result<Library> {
    static COPIES: AtomicUsize = AtomicUsize::new(0);
    let n = COPIES.fetch_add(1, Ordering::Relaxed);
    let copy = path.with_extension(format!("{}-{n}.so", std::process::id()));
    std::fs::copy(path, &copy).map_err(crate::io(&copy))?;
    // SAFETY: the library's constructors only register kernels.
    let library = unsafe { Library::new(&copy) };
    // What is loaded stays.
    std::fs::remove_file(&copy).map_err(crate::io(&copy))?;
    Ok(library?)
}

fn failed(what: &str, reason: impl Into<String>) -> Error {
    Error::Device { backend: "metal", what: what.to_owned(), reason: reason.into() }
}

impl Runtime for Emulator {
    type Buffer = Buffer;
    type Kernel = Kernel;
    /// There are none: launches run at once.
    type Graph = std::convert::Infallible;
    /// Done at once.
    type Fetch = Vec<u8>;

    fn name(&self) -> &'static str {
        "metal"
    }

    fn description(&self) -> String {
        "metal: emulated on the CPU, for tests".to_owned()
    }

    fn memory(&self) -> Option<backend::Memory> {
        backend::Memory::now()
    }

    fn allocate(&mut self, what: &str, bytes: usize) -> backend::Result<Buffer> {
        let bytes = bytes.max(1);
        // SAFETY: any size may be asked for; the memory comes zeroed.
        let start = unsafe { (self.functions.allocate)(bytes as c_ulong) };
        if start.is_null() {
            return Err(failed(what, format!("{bytes} bytes could not be had")));
        }
        let start = start.cast();
        let memory = Memory::Own { functions: self.functions.clone(), start, bytes };
        Ok(Buffer { memory: Arc::new(memory), start, bytes })
    }

    fn import(&mut self, bytes: &Bytes) -> Option<Buffer> {
        // Kernels do not write to it; the mapping would fault.
        bytes.mapping()?;
        let start = bytes.as_ptr().cast_mut();
        Some(Buffer { memory: Arc::new(Memory::Lent(bytes.clone())), start, bytes: bytes.len() })
    }

    fn upload(&mut self, to: &Buffer, offset: usize, bytes: &[u8]) -> backend::Result<()> {
        self.flush()?;
        // SAFETY: the range was checked, and nobody else uses the buffer now.
        unsafe { to.range(offset, bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(&mut self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> backend::Result<()> {
        self.flush()?;
        // SAFETY: the range was checked, and nobody else uses the buffer now.
        unsafe { from.range(offset, bytes.len()).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy_within(&mut self, buffer: &Buffer, from: usize, to: usize, bytes: usize) -> backend::Result<()> {
        self.flush()?;
        // SAFETY: both ranges were checked; `copy_to` allows them to overlap.
        unsafe { buffer.range(from, bytes).copy_to(buffer.range(to, bytes), bytes) };
        Ok(())
    }

    fn kernel(
        &mut self,
        source: &'static Source,
        _definitions: &str,
        entry: &str,
        _shared: u32,
    ) -> backend::Result<Kernel> {
        let name = CString::new(entry).expect("names of kernels have no zero byte");
        // SAFETY: the name is a C string.
        let handle = unsafe { (self.functions.find)(name.as_ptr()) };
        if handle.is_null() {
            return Err(failed(
                &format!("finding kernel `{entry}` of {}", source.name),
                "it is not in the library",
            ));
        }
        Ok(Kernel { handle, name: entry.to_owned() })
    }

    fn launch(
        &mut self,
        kernel: &Kernel,
        shape: Shape,
        args: &[u32],
        buffers: &[(&Buffer, usize)],
    ) -> backend::Result<()> {
        let declared = self.signatures.get(&kernel.name).map_or(&[][..], Vec::as_slice);
        // No arguments are not set, as in Metal.
        let set = usize::from(args.is_empty())..1 + buffers.len();
        if let Some(problem) = signature::mismatch(declared, set, shape.writes) {
            return Err(failed(&format!("launching `{}`", kernel.name), problem));
        }
        if shape.waits {
            let is_left_out = self.missing_wait == Some(self.waits.len());
            self.waits.push(kernel.name.clone());
            if !is_left_out {
                self.flush()?;
            }
        }
        let arguments = self.arguments(args)?;
        let mut bound = [std::ptr::null_mut(); MAX_BUFFERS];
        bound[0] = arguments.as_ref().map_or(std::ptr::null_mut(), |(_, buffer)| buffer.start.cast());
        for (to, (buffer, offset)) in bound[1..].iter_mut().zip(buffers) {
            *to = buffer.range(*offset, 0).cast();
        }
        self.seed = self.seed.wrapping_add(1);
        self.launches += 1;
        let groups = Size { x: shape.groups.0, y: shape.groups.1, z: 1 };
        let threads = Size { x: shape.threads, y: 1, z: 1 };
        self.pending.push(Pending {
            handle: kernel.handle,
            name: kernel.name.clone(),
            launch: Launch { groups, threads, buffers: bound, seed: self.seed },
            arguments,
            _memory: buffers.iter().map(|(buffer, _)| buffer.memory.clone()).collect(),
        });
        Ok(())
    }

    fn prompt_maps(&self) -> PromptMaps {
        self.prompt_maps
    }

    fn multipliers(&self) -> Vec<Multiplier> {
        let libraries = [By::Matrices, By::Graph].map(Multiplier::Library);
        [Multiplier::Kernels, Multiplier::Tensors].into_iter().chain(libraries).collect()
    }

    /// The same slow product for each library; of what a graph is not to be asked for, an error.
    fn multiply(
        &mut self,
        by: By,
        matrices: Matrices,
        x: (&Buffer, usize),
        w: (&Buffer, usize),
        out: (&Buffer, usize),
    ) -> backend::Result<()> {
        self.flush()?;
        let Matrices { rows, cols, outs, scale, adds } = matrices;
        if by == By::Graph && (adds || !rows.is_power_of_two()) {
            return Err(failed("multiplying by a graph", format!("{matrices:?} is not for one")));
        }
        let floats = |(buffer, offset): (&Buffer, usize), n: usize| buffer.range(offset, 4 * n).cast::<f32>();
        let to = floats(out, rows * outs);
        // SAFETY: the ranges were checked, floats lie at multiples of four bytes as all that is in the arena,
        // and nothing runs now.
        let (x, w) = unsafe {
            let x = std::slice::from_raw_parts(floats(x, rows * cols), rows * cols);
            (x, std::slice::from_raw_parts(floats(w, outs * cols), outs * cols))
        };
        let sums = x.chunks(cols).flat_map(|x| {
            w.chunks(cols).map(move |w| x.iter().zip(w).fold(0.0, |sum, (x, w)| x.mul_add(*w, sum)))
        });
        for (i, sum) in sums.enumerate() {
            // SAFETY: as above; it overlaps neither of the others.
            unsafe {
                let to = to.add(i);
                to.write(if adds { scale.mul_add(sum, to.read()) } else { scale * sum });
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        launches: &mut dyn FnMut(&mut Self) -> backend::Result<()>,
    ) -> backend::Result<Option<Self::Graph>> {
        launches(self)?;
        Ok(None)
    }

    fn replay(&mut self, graph: &Self::Graph) -> backend::Result<()> {
        match *graph {}
    }

    fn fetch(&mut self, parts: &[(&Buffer, usize, usize)]) -> backend::Result<Vec<u8>> {
        let mut bytes = vec![0; parts.iter().map(|(.., bytes)| bytes).sum()];
        let mut rest = &mut bytes[..];
        for &(buffer, offset, n) in parts {
            let (part, behind) = rest.split_at_mut(n);
            self.download(buffer, offset, part)?;
            rest = behind;
        }
        Ok(bytes)
    }

    fn fetched(&mut self, fetch: Vec<u8>) -> backend::Result<Vec<u8>> {
        Ok(fetch)
    }
}
