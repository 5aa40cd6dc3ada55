//! Compiled kernels of one device, by source and definitions. Those that are neither loaded nor
//! kept on disk are compiled side by side: NVRTC takes seconds for some.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cudarc::driver::{CudaContext, result, sys};

use super::cache::KernelCache;
use super::driver::failed;
use super::nvrtc::{self, Nvrtc, Target};
use crate::gpu::source::{Dialect, Program, Source};
use crate::{Error, Result};

/// The modules of one device.
pub(super) struct Modules {
    context: Arc<CudaContext>,
    compiler: Compiler,
    loaded: HashMap<(&'static str, String), Arc<Module>>,
}

/// Makes images for one device.
struct Compiler {
    arch: u32,
    cache: KernelCache,
    nvrtc_path: Option<PathBuf>,
    /// Loaded for the first program that is not in the cache.
    nvrtc: Mutex<Option<Arc<Nvrtc>>>,
}

/// A loaded image of one program.
pub(super) struct Module {
    context: Arc<CudaContext>,
    pub handle: sys::CUmodule,
}

// SAFETY: the driver's handles may be used from any thread that has bound the context.
unsafe impl Send for Module {}
// SAFETY: nothing in it changes after loading.
unsafe impl Sync for Module {}

impl Module {
    /// Loads what the cache or NVRTC gave; the context is the thread's.
    fn load(context: &Arc<CudaContext>, source: &Source, image: &[u8]) -> Result<Self> {
        // SAFETY: the image is a whole CUBIN, or PTX that NVRTC ended with a zero byte.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let handle = handle.map_err(failed(&format!("loading kernels/{}", source.name)))?;
        Ok(Self { context: context.clone(), handle })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the handle came from `load_data` and is unloaded once.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

impl Modules {
    /// With nothing loaded; `kept` is where images are kept.
    pub fn new(
        context: Arc<CudaContext>,
        arch: u32,
        nvrtc_path: Option<PathBuf>,
        kept: Option<PathBuf>,
    ) -> Self {
        let compiler = Compiler { arch, cache: KernelCache::new(kept), nvrtc_path, nvrtc: Mutex::default() };
        Self { context, compiler, loaded: HashMap::new() }
    }

    /// A program's module; the context is the thread's.
    pub fn get(&mut self, program: Program<'_>) -> Result<Arc<Module>> {
        self.load(&[program])?;
        Ok(self.loaded[&key(&program)].clone())
    }

    /// Loads those of `programs` that are not loaded yet; the context is the thread's.
    pub fn load(&mut self, programs: &[Program<'_>]) -> Result<()> {
        let mut seen = HashSet::new();
        let is_new = |program: &&Program<'_>| {
            let key = key(program);
            !self.loaded.contains_key(&key) && seen.insert(key)
        };
        let missing: Vec<_> = programs.iter().filter(is_new).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let images = side_by_side(&missing, |program| self.compiler.image(program));
        for (program, image) in missing.into_iter().zip(images) {
            let module = Module::load(&self.context, program.0, &image?)?;
            self.loaded.insert(key(program), Arc::new(module));
        }
        Ok(())
    }
}

fn key(&(source, definitions): &Program<'_>) -> (&'static str, String) {
    (source.name, definitions.to_owned())
}

impl Compiler {
    /// The compiled program, from the cache or from NVRTC.
    fn image(&self, (source, definitions): &Program<'_>) -> Result<Vec<u8>> {
        let text = source.text(Dialect::Cuda, definitions);
        // Without NVRTC's version: what another one compiled is as good, and finding it needs no compiler.
        let options = nvrtc::options(Target { arch: self.arch, machine_code: true }).join(" ");
        let parts = [text.as_str(), options.as_str()];
        if let Some(image) = self.cache.get(&parts) {
            return Ok(image);
        }
        let nvrtc = self.nvrtc()?;
        let target = nvrtc.target(self.arch)?;
        if nvrtc::has_warpgroups(self.arch) && !target.machine_code {
            let reason = format!("NVRTC {:?} does not know this device; 11.8 is the first", nvrtc.version());
            return Err(Error::Unavailable { backend: "cuda", reason });
        }
        let image = nvrtc.compile(&format!("{}.cu", source.name), &text, target)?;
        self.cache.put(&parts, &image);
        Ok(image)
    }

    fn nvrtc(&self) -> Result<Arc<Nvrtc>> {
        let mut nvrtc = self.nvrtc.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nvrtc) = &*nvrtc {
            return Ok(nvrtc.clone());
        }
        Ok(nvrtc.insert(Arc::new(Nvrtc::load(self.nvrtc_path.as_deref())?)).clone())
    }
}

/// `work` on each item, by as many threads as there are processors; results in the order of items.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take = || {
        let i = next.fetch_add(1, Ordering::Relaxed);
        items.get(i).map(|item| (i, work(item)))
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let mut results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| std::iter::from_fn(take).collect::<Vec<_>>())).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("compiling does not panic")).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_side_by_side_is_done_once_for_each_item_and_comes_back_in_order() {
        for n in [0, 1, 100] {
            let items: Vec<usize> = (0..n).collect();
            let calls = AtomicUsize::new(0);
            let work = |item: &usize| {
                calls.fetch_add(1, Ordering::Relaxed);
                // The first are the last to be done.
                thread::sleep(std::time::Duration::from_micros((n - item) as u64));
                item * 2
            };
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(side_by_side(&items, work), doubled);
            assert_eq!(calls.into_inner(), n);
        }
    }

    #[test]
    fn a_missing_compiler_is_an_error_of_every_program() {
        let cache = KernelCache::new(None);
        let compiler = Compiler {
            arch: 90,
            cache,
            nvrtc_path: Some("no/such/libnvrtc.so".into()),
            nvrtc: Mutex::default(),
        };
        let images = side_by_side(&[0, 1, 2], |_| compiler.image(&(&crate::gpu::source::CHOOSE, "")));
        for image in images {
            let error = image.expect_err("there is no compiler").to_string();
            assert!(error.contains("no/such/libnvrtc.so"), "{error}");
        }
    }
}
