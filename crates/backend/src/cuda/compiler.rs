//! Images of programs for one device: those kept on disk, or new ones.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::KernelCache;
use super::nvrtc::{self, Nvrtc, Target};
use crate::gpu::source::{Dialect, Source};
use crate::{Error, Result};

/// What turns text into an image.
pub(super) trait Compile: Send + Sync {
    /// Its version, as in 12.9: images of another are not the same.
    fn version(&self) -> (i32, i32);

    /// The image of `text` for a device.
    fn compile(&self, name: &str, text: &str, chip: Chip) -> Result<Vec<u8>>;
}

impl Compile for Nvrtc {
    fn version(&self) -> (i32, i32) {
        self.version()
    }

    fn compile(&self, name: &str, text: &str, chip: Chip) -> Result<Vec<u8>> {
        let target = self.target(chip.arch)?;
        if chip.is_older {
            return self.compile(name, text, Target { machine_code: false, ..target });
        }
        if nvrtc::has_warpgroups(chip.arch) && (!target.machine_code || self.version() < (12, 0)) {
            let reason = format!("NVRTC {:?} does not know this device; 12.0 is the first", self.version());
            return Err(Error::Unavailable { backend: "cuda", reason });
        }
        self.compile(name, text, target)
    }
}

/// What images are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chip {
    /// Compute capability, 90 for 9.0.
    pub arch: u32,
    /// Whether the device is a newer one, which must translate images.
    pub is_older: bool,
}

/// Opens a compiler.
type Open = Box<dyn Fn() -> Result<Arc<dyn Compile>> + Send + Sync>;

/// Makes images for one device.
pub(super) struct Compiler {
    chip: Chip,
    cache: KernelCache,
    open: Open,
    /// Opened for the first program.
    opened: Mutex<Option<Arc<dyn Compile>>>,
}

/// A program's image.
#[derive(Debug)]
pub(super) struct Image {
    pub bytes: Vec<u8>,
    /// Whether it comes from the disk.
    kept: bool,
}

impl Compiler {
    /// With NVRTC from `nvrtc_path`, or from where the system has it, and a cache in `kept`.
    pub fn new(chip: Chip, nvrtc_path: Option<PathBuf>, kept: Option<PathBuf>) -> Self {
        let open = move || -> Result<Arc<dyn Compile>> { Ok(Arc::new(Nvrtc::load(nvrtc_path.as_deref())?)) };
        Self { chip, cache: KernelCache::new(kept), open: Box::new(open), opened: Mutex::default() }
    }

    /// The compiled program, from the cache or compiled now.
    pub fn image(&self, source: &Source, definitions: &str) -> Result<Image> {
        let text = source.text(Dialect::Cuda, definitions);
        if let Some(bytes) = self.cache.get(&[&text, &self.options()?]) {
            return Ok(Image { bytes, kept: true });
        }
        Ok(Image { bytes: self.make(source, &text)?, kept: false })
    }

    /// Compiles and keeps a source's text.
    fn make(&self, source: &Source, text: &str) -> Result<Vec<u8>> {
        let bytes = self.compile()?.compile(&format!("{}.cu", source.name), text, self.chip)?;
        self.cache.put(&[text, &self.options()?], &bytes);
        Ok(bytes)
    }

    /// What `load` makes of a program's image. One from the disk that it refuses, as a driver
    /// does that has changed, is removed and made once more.
    pub fn load<T>(
        &self,
        (source, definitions): (&Source, &str),
        image: &Image,
        load: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let error = match load(&image.bytes) {
            Err(error) if image.kept => error,
            done => return done,
        };
        tracing::warn!("a kept image of kernels/{} is compiled again: {error}", source.name);
        let text = source.text(Dialect::Cuda, definitions);
        self.cache.remove(&[&text, &self.options()?]);
        // Not by way of the cache: a directory that cannot be written still has the old one.
        load(&self.make(source, &text)?)
    }

    /// What images are told apart by beside their texts.
    fn options(&self) -> Result<String> {
        let (major, minor) = self.compile()?.version();
        let options =
            nvrtc::options(Target { arch: self.chip.arch, machine_code: !self.chip.is_older }).join(" ");
        Ok(format!("NVRTC {major}.{minor} {options}"))
    }

    fn compile(&self) -> Result<Arc<dyn Compile>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compile) = &*opened {
            return Ok(compile.clone());
        }
        Ok(opened.insert((self.open)()?).clone())
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives each program an image that names it and counts.
    pub struct Counting {
        pub version: (i32, i32),
        pub compiled: AtomicUsize,
    }

    impl Compile for Counting {
        fn version(&self) -> (i32, i32) {
            self.version
        }

        fn compile(&self, name: &str, text: &str, _: Chip) -> Result<Vec<u8>> {
            let n = self.compiled.fetch_add(1, Ordering::Relaxed);
            Ok(format!("{n} {name} {text}").into_bytes())
        }
    }

    /// A compiler of this version that keeps images in `dir`.
    pub fn compiler(version: (i32, i32), dir: Option<&Path>) -> (Compiler, Arc<Counting>) {
        let counting = Arc::new(Counting { version, compiled: AtomicUsize::new(0) });
        let compile: Arc<dyn Compile> = counting.clone();
        let (cache, open) =
            (KernelCache::new(dir.map(Path::to_owned)), Box::new(move || Ok(compile.clone())));
        let chip = Chip { arch: 90, is_older: false };
        (Compiler { chip, cache, open, opened: Mutex::default() }, counting)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::Ordering;

    use super::testing::compiler;
    use super::*;
    use crate::gpu::source::CHOOSE;

    fn refused() -> Error {
        Error::Device { backend: "cuda", what: "loading".to_owned(), reason: "refused".to_owned() }
    }

    #[test]
    fn another_version_compiles_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (version, expected) in [((12, 9), 1), ((12, 9), 0), ((13, 0), 1), ((12, 9), 0)] {
            let (compiler, counting) = compiler(version, Some(dir.path()));
            compiler.image(&CHOOSE, "").unwrap();
            assert_eq!(counting.compiled.load(Ordering::Relaxed), expected, "{version:?}");
        }
    }

    #[test]
    fn a_refused_image_from_the_disk_is_made_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _) = compiler((13, 0), Some(dir.path()));
        let old = first.image(&CHOOSE, "").unwrap().bytes;
        let (second, counting) = compiler((13, 0), Some(dir.path()));
        let image = second.image(&CHOOSE, "").unwrap();
        assert_eq!((image.kept, &image.bytes), (true, &old));
        let loads = Cell::new(0);
        let load = |bytes: &[u8]| {
            loads.set(loads.get() + 1);
            if loads.get() == 1 { Err(refused()) } else { Ok(bytes.to_vec()) }
        };
        let loaded = second.load((&CHOOSE, ""), &image, load).unwrap();
        assert_eq!((counting.compiled.load(Ordering::Relaxed), loads.get()), (1, 2));
        assert_eq!(second.image(&CHOOSE, "").unwrap().bytes, loaded, "the new one is kept");
    }

    #[test]
    fn what_is_refused_again_or_was_never_kept_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (first, counting) = compiler((13, 0), Some(dir.path()));
        let image = first.image(&CHOOSE, "").unwrap();
        let load = |_: &[u8]| Err::<(), _>(refused());
        first.load((&CHOOSE, ""), &image, load).unwrap_err();
        assert_eq!(counting.compiled.load(Ordering::Relaxed), 1, "it was compiled a moment ago");
        let (second, counting) = compiler((13, 0), Some(dir.path()));
        let image = second.image(&CHOOSE, "").unwrap();
        second.load((&CHOOSE, ""), &image, load).unwrap_err();
        assert_eq!(counting.compiled.load(Ordering::Relaxed), 1, "once");
    }
}
