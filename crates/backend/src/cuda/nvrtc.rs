//! NVRTC, the run-time compiler for CUDA C++, loaded when it is first needed.
//!
//! Signatures are those of `nvrtc.h`, unchanged since CUDA 11.2.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::{Error, Result};

/// Names under which systems have the library, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll", "nvrtc64_112_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"]
};

type Status = c_int;
type Program = *mut c_void;

/// The compiler.
pub struct Nvrtc {
    library: Library,
    version: (i32, i32),
}

/// What a program is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Compute capability, 90 for 9.0.
    pub arch: u32,
    /// Machine code for that chip, or text that the driver translates for newer ones.
    pub machine_code: bool,
}

impl Nvrtc {
    /// Loads the library from `path`, or from where the system has it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what was tried.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let names: Vec<PathBuf> = match path {
            Some(path) => vec![path.to_owned()],
            None => NAMES.iter().map(PathBuf::from).collect(),
        };
        let mut tried = Vec::new();
        for name in names {
            // SAFETY: NVRTC has no requirements for being loaded; a library of
            // another kind under its name would be the system's own doing.
            match unsafe { Library::new(&name) } {
                Ok(library) => return Self::with(library),
                Err(e) => tried.push(format!("{}: {e}", name.display())),
            }
        }
        let reason = format!("NVRTC, which compiles the kernels, was not found ({})", tried.join("; "));
        Err(Error::Unavailable { backend: "cuda", reason })
    }

    fn with(library: Library) -> Result<Self> {
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
        let mut nvrtc = Self { library, version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the documented signature; both pointers are to live integers.
        let status = unsafe { nvrtc.function::<Version>("nvrtcVersion")?(&mut major, &mut minor) };
        nvrtc.check("nvrtcVersion", status)?;
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    /// Its version, as in 12.9.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// How to compile for a device of compute capability `arch`: machine code
    /// where this NVRTC knows the chip, else text for the newest it knows.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when every architecture it knows is newer.
    pub fn target(&self, arch: u32) -> Result<Target> {
        let known = self.architectures()?;
        if known.contains(&arch) {
            return Ok(Target { arch, machine_code: true });
        }
        let older = known.iter().copied().filter(|&known| known < arch).max();
        let older = older.ok_or_else(|| Error::Unavailable {
            backend: "cuda",
            reason: format!("NVRTC {:?} compiles for {known:?}, not for this device's {arch}", self.version),
        })?;
        Ok(Target { arch: older, machine_code: false })
    }

    fn architectures(&self) -> Result<Vec<u32>> {
        type WriteInts = unsafe extern "C" fn(*mut c_int) -> Status;
        let mut n = 0;
        // SAFETY: the documented signature; one integer is written.
        let status = unsafe { self.function::<WriteInts>("nvrtcGetNumSupportedArchs")?(&mut n) };
        self.check("nvrtcGetNumSupportedArchs", status)?;
        let mut archs = vec![0 as c_int; usize::try_from(n).unwrap_or(0)];
        // SAFETY: the documented signature; `n` integers are written to a vector of that length.
        let status = unsafe { self.function::<WriteInts>("nvrtcGetSupportedArchs")?(archs.as_mut_ptr()) };
        self.check("nvrtcGetSupportedArchs", status)?;
        Ok(archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect())
    }

    /// Compiles `text`; the image loads with `cuModuleLoadData`.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's messages.
    pub fn compile(&self, name: &str, text: &str, target: Target) -> Result<Vec<u8>> {
        self.compile_with(name, text, target, &[])
    }

    /// The same with options beside the usual ones.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_with(&self, name: &str, text: &str, target: Target, more: &[&str]) -> Result<Vec<u8>> {
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        let program = OpenProgram::new(self, name, text)?;
        let usual = options(target);
        let options = usual.iter().map(String::as_str).chain(more.iter().copied());
        let options: Vec<CString> = options.map(c_string).collect::<Result<_>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).expect("there are a handful of options");
        let compile = "nvrtcCompileProgram";
        // SAFETY: the documented signature; the program is open and the options outlive the call.
        let status = unsafe { self.function::<Compile>(compile)?(program.handle, count, pointers.as_ptr()) };
        if status != 0 {
            let log = program.bytes("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
            return Err(failed(&format!("compiling {name}"), log));
        }
        match target.machine_code {
            true => program.bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
            false => program.bytes("nvrtcGetPTXSize", "nvrtcGetPTX"),
        }
    }

    /// # Safety
    /// `F` must be the function's true signature.
    unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F> {
        // SAFETY: the caller's promise.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        symbol.map(|symbol| *symbol).map_err(|e| failed(name, e.to_string()))
    }

    fn check(&self, what: &'static str, status: Status) -> Result<()> {
        type ErrorString = unsafe extern "C" fn(Status) -> *const c_char;
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the documented signature; it returns a constant string.
        let text = unsafe { CStr::from_ptr(self.function::<ErrorString>("nvrtcGetErrorString")?(status)) };
        Err(failed(what, text.to_string_lossy().into_owned()))
    }
}

/// Whether kernels are compiled for the `wgmma` instructions, which one architecture alone has.
pub fn has_warpgroups(arch: u32) -> bool {
    arch == 90
}

/// The options every kernel is compiled with.
pub fn options(target: Target) -> Vec<String> {
    let kind = if target.machine_code { "sm" } else { "compute" };
    // What is special to an architecture is in machine code alone.
    let special = if target.machine_code && has_warpgroups(target.arch) { "a" } else { "" };
    // No contraction: fused multiply-adds are written out, so that every
    // instance of a template rounds alike and unpacking is as the format says.
    vec![
        format!("--gpu-architecture={kind}_{}{special}", target.arch),
        "--std=c++17".into(),
        "--fmad=false".into(),
    ]
}

struct OpenProgram<'a> {
    nvrtc: &'a Nvrtc,
    handle: Program,
}

impl<'a> OpenProgram<'a> {
    fn new(nvrtc: &'a Nvrtc, name: &str, text: &str) -> Result<Self> {
        type Strings = *const *const c_char;
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            Strings,
            Strings,
        ) -> Status;
        let (text, name) = (c_string(text)?, c_string(name)?);
        let (mut handle, none) = (std::ptr::null_mut(), std::ptr::null());
        let create = "nvrtcCreateProgram";
        // SAFETY: the documented signature; there are no headers, so that their arrays may be null.
        let status = unsafe {
            nvrtc.function::<Create>(create)?(&mut handle, text.as_ptr(), name.as_ptr(), 0, none, none)
        };
        nvrtc.check(create, status)?;
        Ok(Self { nvrtc, handle })
    }

    /// One of the program's outputs: its size, then itself.
    fn bytes(&self, size_name: &'static str, get_name: &'static str) -> Result<Vec<u8>> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
        let mut size = 0_usize;
        // SAFETY: the documented signature, common to all outputs.
        let status = unsafe { self.nvrtc.function::<Size>(size_name)?(self.handle, &mut size) };
        self.nvrtc.check(size_name, status)?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: the documented signature; it writes as many bytes as the first said.
        let status = unsafe { self.nvrtc.function::<Get>(get_name)?(self.handle, bytes.as_mut_ptr().cast()) };
        self.nvrtc.check(get_name, status)?;
        Ok(bytes)
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
        // SAFETY: the documented signature; the handle is open and not used again.
        unsafe {
            if let Ok(destroy) = self.nvrtc.function::<Destroy>("nvrtcDestroyProgram") {
                destroy(&mut self.handle);
            }
        }
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|e| failed("compiling a kernel", e.to_string()))
}

fn failed(what: &str, reason: String) -> Error {
    Error::Device { backend: "cuda", what: what.to_owned(), reason }
}
