//! Kernels, compiled when they are first used: from libraries that Apple's compiler made when Quarrel was
//! built, else from their source by the framework.
//!
//! What it compiles for the device is kept in binary archives, so that only the first run of a
//! system waits for that; the step before it, from source to the framework's own code, is done
//! each time, and kept by macOS or not.

use std::collections::HashMap;
use std::path::Path;

use dispatch2::DispatchData;
use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::{NSArray, NSOperatingSystemVersion, NSProcessInfo, NSString, NSURL};
use objc2_metal::{
    MTLBinaryArchive, MTLBinaryArchiveDescriptor, MTLCompileOptions, MTLComputePipelineDescriptor,
    MTLComputePipelineState, MTLDevice, MTLLanguageVersion, MTLLibrary, MTLMathFloatingPointFunctions,
    MTLMathMode, MTLPipelineOption,
};

use super::{Device, failed, refused};
use crate::gpu::Shape;
use crate::gpu::source::{Dialect, Source};
use crate::metal::archives::Archives;
use crate::metal::precompiled::Libraries;
use crate::{Error, Result};

/// Lanes that the kernels count on.
const SIMD_WIDTH: usize = 32;

type Library = ProtocolObject<dyn MTLLibrary>;
type Archive = ProtocolObject<dyn MTLBinaryArchive>;
type Pipeline = ProtocolObject<dyn MTLComputePipelineState>;

/// Everything that was compiled.
pub struct Kernels {
    archives: Archives,
    precompiled: Libraries,
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
    /// Nothing is compiled yet but what is in `archives`.
    pub fn new(archives: Archives, precompiled: Libraries) -> Self {
        Self { archives, precompiled, libraries: HashMap::new(), pipelines: HashMap::new() }
    }

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
        let made = if self.precompiled(source, definitions).is_some() { "ahead" } else { "here" };
        let parts = [&source.text(Dialect::Metal, definitions), entry, &compiled_as(source), made];
        let pipeline = pipeline(device, &library, entry, &|descriptor| {
            archive(device, descriptor, &self.archives, &parts)
        })?;
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
        let ahead =
            self.precompiled(source, definitions).and_then(|bytes| open_library(device, source, bytes));
        let library = match ahead {
            Some(library) => library,
            None => compile(device, source, definitions)?,
        };
        self.libraries.insert(key, library.clone());
        Ok(library)
    }

    /// The library of a program that this system can read.
    fn precompiled(&self, source: &Source, definitions: &str) -> Option<&'static [u8]> {
        if version(source) == MTLLanguageVersion::Version3_0 {
            return None;
        }
        self.precompiled.find(source, definitions)
    }
}

/// A library that was compiled when Quarrel was built; `None` where the framework refuses it.
fn open_library(device: &Device, source: &Source, bytes: &'static [u8]) -> Option<Retained<Library>> {
    let opened = device.newLibraryWithData_error(&DispatchData::from_static_bytes(bytes));
    let what = format!("opening the library of {}.metal", source.name);
    let warn = |error: &Error| tracing::warn!("a kernel is compiled from source: {error}");
    opened.map_err(refused(&what)).inspect_err(warn).ok()
}

fn compile(device: &Device, source: &Source, definitions: &str) -> Result<Retained<Library>> {
    let text = NSString::from_str(&source.text(Dialect::Metal, definitions));
    let what = format!("compiling {}.metal", source.name);
    let library = device.newLibraryWithSource_options_error(&text, Some(&options(source)));
    let library = library.map_err(refused(&what))?;
    Ok(library)
}

/// Everything of [`options`] that may differ from one version of Quarrel, or of macOS, to another, as text.
fn compiled_as(source: &Source) -> String {
    let options = options(source);
    let mathematics = if options.respondsToSelector(sel!(mathMode)) {
        format!("{:?}, {:?}", options.mathMode(), options.mathFloatingPointFunctions())
    } else {
        #[expect(deprecated, reason = "macOS before 15 has nothing else")]
        let is_fast = options.fastMathEnabled();
        format!("fast: {is_fast}")
    };
    format!("{:?}, {mathematics}, {:?}", options.languageVersion(), options.optimizationLevel())
}

/// How every kernel is compiled: arithmetic as it is written, as CUDA's without contraction
/// (`dialect.h` says so too, where the options have no word for it).
fn options(source: &Source) -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(version(source));
    if options.respondsToSelector(sel!(setMathMode:)) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    } else {
        #[expect(deprecated, reason = "macOS before 15 has nothing else")]
        options.setFastMathEnabled(false);
    }
    options
}

/// The language that kernels are compiled as: from 3.1 on there is bfloat, from 4 on there are tensors.
fn version(source: &Source) -> MTLLanguageVersion {
    if source.has_tensors() {
        return MTLLanguageVersion::Version4_0;
    }
    let with_bfloat = NSOperatingSystemVersion { majorVersion: 14, minorVersion: 0, patchVersion: 0 };
    if NSProcessInfo::processInfo().isOperatingSystemAtLeastVersion(with_bfloat) {
        MTLLanguageVersion::Version3_1
    } else {
        MTLLanguageVersion::Version3_0
    }
}

/// The archive made from `parts`: the kept one, or a new one with what `descriptor` asks for.
/// `None` where the framework cannot: then it compiles as without archives.
fn archive(
    device: &Device,
    descriptor: &MTLComputePipelineDescriptor,
    archives: &Archives,
    parts: &[&str],
) -> Option<Retained<Archive>> {
    if let Some(path) = archives.find(parts) {
        match open_archive(device, Some(&path)) {
            Ok(archive) => return Some(archive),
            Err(error) => tracing::warn!("a kept kernel is compiled again: {error}"),
        }
        archives.remove(parts);
    }
    let archive = open_archive(device, None).and_then(|archive| {
        let added = archive.addComputePipelineFunctionsWithDescriptor_error(descriptor);
        added.map_err(refused("compiling into an archive"))?;
        Ok(archive)
    });
    let archive =
        archive.inspect_err(|error| tracing::warn!("compiled kernels are not kept: {error}")).ok()?;
    archives.keep(parts, |path| {
        let written = archive.serializeToURL_error(&url(path));
        written.map_err(|error| error.localizedDescription().to_string())
    });
    Some(archive)
}

/// An archive from a file, or an empty one.
fn open_archive(device: &Device, path: Option<&Path>) -> Result<Retained<Archive>> {
    let descriptor = MTLBinaryArchiveDescriptor::new();
    descriptor.setUrl(path.map(url).as_deref());
    device.newBinaryArchiveWithDescriptor_error(&descriptor).map_err(refused("opening a binary archive"))
}

fn url(path: &Path) -> Retained<NSURL> {
    NSURL::fileURLWithPath(&NSString::from_str(&path.to_string_lossy()))
}

/// The pipeline of `entry`, with an archive that has it, if there is one.
fn pipeline(
    device: &Device,
    library: &Library,
    entry: &str,
    archive: &dyn Fn(&MTLComputePipelineDescriptor) -> Option<Retained<Archive>>,
) -> Result<Retained<Pipeline>> {
    let finding = || failed(&format!("finding kernel `{entry}`"), "it is not in its library");
    let function = library.newFunctionWithName(&NSString::from_str(entry)).ok_or_else(finding)?;
    let what = format!("preparing `{entry}`");
    let descriptor = MTLComputePipelineDescriptor::new();
    descriptor.setComputeFunction(Some(&function));
    if let Some(archive) = archive(&descriptor) {
        descriptor.setBinaryArchives(Some(&NSArray::from_retained_slice(&[archive])));
    }
    let options = MTLPipelineOption::None;
    let pipeline =
        device.newComputePipelineStateWithDescriptor_options_reflection_error(&descriptor, options, None);
    let pipeline = pipeline.map_err(refused(&what))?;
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
        } else if shape.shared > 0 || shape.packed {
            "kernels here declare their threadgroup memory".to_owned()
        } else {
            return Ok(());
        };
        Err(failed(&format!("launching `{}`", self.name), reason))
    }
}
