//! Every CUDA kernel compiles, without a GPU: `cargo xtask kernels` brings the
//! compiler and runs this.

use std::path::PathBuf;
use std::sync::Mutex;

use quarrel_backend::cuda::nvrtc::Nvrtc;
use quarrel_backend::gpu::source::{Dialect, SOURCES, Source};

/// The oldest that is meant to work, the first with the matrix instructions of tiles, what was run, and the newest.
const ARCHITECTURES: [u32; 4] = [75, 80, 90, 120];
/// Those of kernels with what they may be told besides, which says nothing of the device: each has its own instructions.
const OF_VARIANTS: [u32; 2] = [80, 90];

/// Machine code all the same, in a sixth of the time. What optimising alone would find shows on a device (`cargo xtask gpu`).
const FAST: &str = "--Ofast-compile=max";

#[test]
#[ignore = "needs NVRTC; run by `cargo xtask kernels`"]
fn every_kernel_compiles_for_every_architecture() {
    let path = std::env::var_os("QUARREL_TEST_NVRTC").map(PathBuf::from);
    let nvrtc = Nvrtc::load(path.as_deref()).unwrap_or_else(|e| panic!("{e}"));
    println!("NVRTC {:?}", nvrtc.version());
    let sources = SOURCES.iter().filter(|source| source.has(Dialect::Cuda));
    let programs = sources.flat_map(|source| {
        source.variants().iter().enumerate().flat_map(move |(nth, definitions)| {
            let architectures = if nth == 0 { &ARCHITECTURES[..] } else { &OF_VARIANTS };
            architectures.iter().map(move |&arch| ((source, *definitions), arch))
        })
    });
    let programs = Mutex::new(programs);
    let next = || programs.lock().unwrap().next();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(((source, definitions), arch)) = next() {
                    compile(&nvrtc, source, definitions, arch);
                }
            });
        }
    });
}

fn compile(nvrtc: &Nvrtc, source: &Source, definitions: &str, arch: u32) {
    let text = source.text(Dialect::Cuda, definitions);
    let target = nvrtc.target(arch).unwrap();
    let start = std::time::Instant::now();
    let image = nvrtc.compile_with(&format!("{}.cu", source.name), &text, target, &[FAST]);
    let image = image.unwrap_or_else(|e| panic!("sm_{arch}: {e}"));
    let ms = start.elapsed().as_millis();
    println!("{:20} sm_{arch} {:7} bytes {ms:4} ms", source.name, image.len());
}
