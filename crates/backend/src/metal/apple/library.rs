//! Kernels, compiled from their source by the framework when they are first used.
//!
//! Compiled ones are not kept by Quarrel: macOS has a cache of its own for each
//! program, and Apple advises against archives that a program writes itself
//! (the documentation of `MTLBinaryArchive`).

use std::collections::HashMap;

use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSOperatingSystemVersion, NSProcessInfo, NSString};
use objc2_metal::{
    MTLCompileOptions, MTLComputePipelineState, MTLDevice, MTLLanguageVersion, MTLLibrary,
    MTLMathFloatingPointFunctions, MTLMathMode,
};

use super::{Device, failed, refused};
use crate::Result;
use crate::gpu::Shape;
use crate::gpu::source::{Dialect, Source};

/// Lanes that the kernels count on.
const SIMD_WIDTH: usize = 32;

type Library = ProtocolObject<dyn MTLLibrary>;
type Pipeline = ProtocolObject<dyn MTLComputePipelineState>;

/// Everything that was compiled.
#[derive(Default)]
pub struct Kernels {
    /// By source and definitions.
    libraries: HashMap<(&'static str, String), Retained<Library>>,
    /// By source, definitions and entry point.
    pipelines: HashMap<(&'static str, String, String), Retained<Pipeline>>,
}

/// An entry point.
pub struct Kernel {
    pipeline: Retained<Pipeline>,
    name: String,
}

impl Kernels {
    /// The entry point `entry` of `source` with `definitions`.
    pub fn get(
        &mut self,
        device: &Device,
        source: &'static Source,
        definitions: &str,
        entry: &str,
    ) -> Result<Kernel> {
        let key = (source.name, definitions.to_owned(), entry.to_owned());
        if let Some(pipeline) = self.pipelines.get(&key) {
            return Ok(Kernel { pipeline: pipeline.clone(), name: entry.to_owned() });
        }
        let library = self.library(device, source, definitions)?;
        let pipeline = pipeline(device, &library, entry)?;
        self.pipelines.insert(key, pipeline.clone());
        Ok(Kernel { pipeline, name: entry.to_owned() })
    }

    fn library(
        &mut self,
        device: &Device,
        source: &'static Source,
        definitions: &str,
    ) -> Result<Retained<Library>> {
        let key = (source.name, definitions.to_owned());
        if let Some(library) = self.libraries.get(&key) {
            return Ok(library.clone());
        }
        let text = NSString::from_str(&source.text(Dialect::Metal, definitions));
        let what = format!("compiling {}.metal", source.name);
        let library = device.newLibraryWithSource_options_error(&text, Some(&options()));
        let library = library.map_err(refused(&what))?;
        self.libraries.insert(key, library.clone());
        Ok(library)
    }
}

/// How every kernel is compiled: arithmetic as it is written, as CUDA's without contraction
/// (`dialect.h` says so too, where the options have no word for it).
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    // From 3.1 on there is bfloat.
    let with_bfloat = NSOperatingSystemVersion { majorVersion: 14, minorVersion: 0, patchVersion: 0 };
    let has_bfloat = NSProcessInfo::processInfo().isOperatingSystemAtLeastVersion(with_bfloat);
    options.setLanguageVersion(if has_bfloat {
        MTLLanguageVersion::Version3_1
    } else {
        MTLLanguageVersion::Version3_0
    });
    if options.respondsToSelector(sel!(setMathMode:)) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    } else {
        #[expect(deprecated, reason = "macOS before 15 has nothing else")]
        options.setFastMathEnabled(false);
    }
    options
}

fn pipeline(device: &Device, library: &Library, entry: &str) -> Result<Retained<Pipeline>> {
    let finding = || failed(&format!("finding kernel `{entry}`"), "it is not in its library");
    let function = library.newFunctionWithName(&NSString::from_str(entry)).ok_or_else(finding)?;
    let what = format!("preparing `{entry}`");
    let pipeline = device.newComputePipelineStateWithFunction_error(&function).map_err(refused(&what))?;
    let (width, memory) = (pipeline.threadExecutionWidth(), pipeline.staticThreadgroupMemoryLength());
    if width != SIMD_WIDTH {
        let reason = format!("SIMD-groups have {width} lanes here, and kernels are for {SIMD_WIDTH}");
        return Err(failed(&what, reason));
    }
    let most = device.maxThreadgroupMemoryLength();
    if memory > most {
        let reason = format!("it takes {memory} bytes of threadgroup memory, and this device has {most}");
        return Err(failed(&what, reason));
    }
    Ok(pipeline)
}

impl Kernel {
    /// For an encoder.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// An error where it cannot be launched so.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for more threads than its registers allow, or what Metal has not.
    pub fn check(&self, shape: Shape) -> Result<()> {
        let most = self.pipeline.maxTotalThreadsPerThreadgroup();
        let reason = if shape.threads as usize > most {
            format!("it can have {most} threads a threadgroup on this device, and is given {}", shape.threads)
        } else if shape.shared > 0 || shape.cluster > 1 {
            "kernels here declare their threadgroup memory, which no other threadgroup reads".to_owned()
        } else {
            return Ok(());
        };
        Err(failed(&format!("launching `{}`", self.name), reason))
    }
}
