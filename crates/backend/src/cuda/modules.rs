//! Compiled kernels of one device, by source and definitions. Those that are neither loaded nor
//! kept on disk are compiled side by side, while others have weights to copy: NVRTC takes seconds
//! for some.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use cudarc::driver::{CudaContext, result, sys};

use super::compiler::{Chip, Compiler, Image};
use super::driver::failed;
use crate::gpu::source::{Program, Source};
use crate::{Error, Result};

/// The modules of one device.
pub(super) struct Modules {
    context: Arc<CudaContext>,
    compiler: Arc<Compiler>,
    loaded: HashMap<Key, Arc<Module>>,
    /// Threads that compile what is asked for soon.
    under_way: Vec<JoinHandle<Vec<Compiled>>>,
    /// What they compile.
    pending: HashSet<Key>,
    /// What could not be compiled or loaded, until somebody asks for it.
    failed: HashMap<Key, Error>,
}

/// A source's name and its definitions.
type Key = (&'static str, String);

/// A program and its image.
type Compiled = ((&'static Source, String), Result<Image>);

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
    fn load(context: &Arc<CudaContext>, name: &str, image: &[u8]) -> Result<Self> {
        // SAFETY: the image is a whole CUBIN, or PTX that NVRTC ended with a zero byte.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let handle = handle.map_err(failed(&format!("loading kernels/{name}")))?;
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
        chip: Chip,
        nvrtc_path: Option<PathBuf>,
        kept: Option<PathBuf>,
    ) -> Self {
        Self {
            context,
            compiler: Arc::new(Compiler::new(chip, nvrtc_path, kept)),
            loaded: HashMap::new(),
            under_way: Vec::new(),
            pending: HashSet::new(),
            failed: HashMap::new(),
        }
    }

    /// Begins to compile those of `programs` that are not loaded.
    pub fn prepare(&mut self, programs: &[Program<'_>]) {
        let mut missing = VecDeque::new();
        for program in programs {
            let key = key(program);
            if !self.loaded.contains_key(&key) && self.pending.insert(key) {
                missing.push_back((program.0, program.1.to_owned()));
            }
        }
        self.under_way.extend(compile(&self.compiler, missing));
    }

    /// A program's module; the context is the thread's.
    pub fn get(&mut self, program: Program<'_>) -> Result<Arc<Module>> {
        let key = key(&program);
        if !self.loaded.contains_key(&key) {
            self.load_prepared();
        }
        if let Some(error) = self.failed.remove(&key) {
            return Err(error);
        }
        if let Some(module) = self.loaded.get(&key) {
            return Ok(module.clone());
        }
        let (source, definitions) = program;
        let module = self.load(program, &self.compiler.image(source, definitions)?)?;
        Ok(self.loaded.entry(key).or_insert(Arc::new(module)).clone())
    }

    fn load(&self, program: Program<'_>, image: &Image) -> Result<Module> {
        self.compiler.load(program, image, |bytes| Module::load(&self.context, program.0.name, bytes))
    }

    /// Waits for all that is under way; what failed is said to who asks for it.
    fn load_prepared(&mut self) {
        self.pending.clear();
        for thread in std::mem::take(&mut self.under_way) {
            for ((source, definitions), image) in thread.join().expect("compiling does not panic") {
                let module = image.and_then(|image| self.load((source, &definitions), &image));
                match module {
                    Ok(module) => drop(self.loaded.insert((source.name, definitions), Arc::new(module))),
                    Err(error) => drop(self.failed.insert((source.name, definitions), error)),
                }
            }
        }
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        // NVRTC must not be at work when the process ends.
        for thread in self.under_way.drain(..) {
            let _ = thread.join();
        }
    }
}

fn key(&(source, definitions): &Program<'_>) -> Key {
    (source.name, definitions.to_owned())
}

/// Threads beyond which compiling was not measured to gain.
const MOST_THREADS: usize = 16;

/// As many threads as there are processors, or programs, that compile them.
fn compile(
    compiler: &Arc<Compiler>,
    programs: VecDeque<(&'static Source, String)>,
) -> Vec<JoinHandle<Vec<Compiled>>> {
    if programs.is_empty() {
        return Vec::new();
    }
    let threads =
        thread::available_parallelism().map_or(1, usize::from).min(programs.len()).min(MOST_THREADS);
    let programs = Arc::new(Mutex::new(programs));
    let start = || {
        let (compiler, programs) = (compiler.clone(), programs.clone());
        thread::spawn(move || {
            let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let compiled = std::iter::from_fn(next).map(|(source, definitions)| {
                let image = compiler.image(source, &definitions);
                ((source, definitions), image)
            });
            compiled.collect()
        })
    };
    (0..threads).map(|_| start()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::compiler::testing;
    use super::*;
    use crate::gpu::source::{CHOOSE, RMS_NORM};

    /// The programs and their images, in any order.
    fn compiled(compiler: Compiler, programs: &[Program<'_>]) -> Vec<Compiled> {
        let programs = programs.iter().map(|&(source, definitions)| (source, definitions.to_owned()));
        let threads = compile(&Arc::new(compiler), programs.collect());
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }

    #[test]
    fn every_program_is_made_once_and_has_its_own_image() {
        let names: Vec<String> = (0..40).map(|i| format!("#define N {i}\n")).collect();
        let programs: Vec<Program<'_>> = names
            .iter()
            .flat_map(|name| [&CHOOSE, &RMS_NORM].map(|source| (source, name.as_str())))
            .collect();
        let made = compiled(testing::compiler((13, 0), None).0, &programs);
        assert_eq!(made.len(), programs.len());
        for ((source, definitions), image) in &made {
            let image = String::from_utf8(image.as_ref().unwrap().bytes.clone()).unwrap();
            assert!(image.contains(source.name) && image.contains(definitions.as_str()));
        }
        let distinct: HashSet<_> = made.iter().map(|((source, name), _)| (source.name, name)).collect();
        assert_eq!(distinct.len(), programs.len());
    }

    #[test]
    fn a_missing_compiler_is_an_error_of_every_program() {
        let compiler =
            Compiler::new(Chip { arch: 90, is_older: false }, Some("no/such/libnvrtc.so".into()), None);
        let made = compiled(compiler, &[(&CHOOSE, ""), (&RMS_NORM, "")]);
        assert_eq!(made.len(), 2);
        for (_, image) in made {
            let error = image.expect_err("there is no compiler").to_string();
            assert!(error.contains("no/such/libnvrtc.so"), "{error}");
        }
    }
}
