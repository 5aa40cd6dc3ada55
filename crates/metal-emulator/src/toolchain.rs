//! Clang, as it checks and compiles translated kernels.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::signature::{self, Signatures};
use crate::translate::{self, Mode, translate};
use crate::{Error, Result, io};

/// Where the runtime's C++ lies.
const CPP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cpp");

/// What a text includes that uses tensor operations, which are of Metal 4.
const TENSOR_HEADERS: [&str; 2] =
    ["#include <metal_tensor>", "#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>"];

/// A clang of version 16 or later, and a directory for what it makes.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The command of plain clang, such as `clang` or `python -m ziglang clang`.
    pub clang: Vec<String>,
    /// The command that makes a library, such as `clang++` or `python -m ziglang c++`.
    pub linker: Vec<String>,
    /// Made if need be; files in it are overwritten.
    pub dir: PathBuf,
}

/// Compiled kernels.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The library.
    pub(crate) library: PathBuf,
    pub(crate) signatures: Signatures,
}

impl Toolchain {
    /// Checks the types and address spaces of one Metal text.
    ///
    /// # Errors
    /// [`Error::Source`], [`Error::Compile`] with messages that name lines of the kernel.
    pub fn check(&self, name: &str, text: &str) -> Result<()> {
        let file = self.within("checked").translated(name, text, Mode::Check)?.0;
        let flags = [
            "-x",
            "clcpp",
            "-target",
            "x86_64-linux-gnu",
            "-cl-std=clc++2021",
            "-cl-no-stdinc",
            "-fsyntax-only",
            "-Xclang",
            "-cl-ext=-__opencl_c_pipes,-__opencl_c_device_enqueue,+cl_khr_fp16,-cl_khr_fp64,-__opencl_c_fp64",
            "-Wno-undefined-internal",
            "-Wno-undefined-inline",
            "-Wno-unused",
            "-I",
            CPP,
        ];
        Self::run(name, command(&self.clang).args(flags).arg(file))
    }

    /// Compiles Metal texts, each with its name, and the runtime into the library `name`.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn build(&self, name: &str, texts: &[(&str, String)]) -> Result<Compiled> {
        let own = self.within(name);
        let mut files = vec![PathBuf::from(CPP).join("emulator.cpp")];
        let mut signatures = Signatures::new();
        for (name, text) in texts {
            let (file, kernels) = own.translated(name, text, Mode::Run)?;
            files.push(file);
            signature::add(&mut signatures, kernels);
        }
        let objects = own.compile(&files)?;
        let library = own.dir.join(format!("{name}.so"));
        let mut command = command(&self.linker);
        command.args(["-shared", "-nostdlib++", "-fno-sanitize=undefined"]);
        Self::run(name, command.args(objects).arg("-lm").arg("-o").arg(&library))?;
        Ok(Compiled { library, signatures })
    }

    /// The same with a directory in this one, for what others make files of the same names for.
    fn within(&self, name: &str) -> Self {
        Self { dir: self.dir.join(name), ..self.clone() }
    }

    /// Compiles C++ files, as many at a time as there are processors.
    fn compile(&self, files: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(self.object(file)?);
            }
            Ok(done)
        };
        let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
        let done: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        Ok(done.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    fn object(&self, file: &Path) -> Result<PathBuf> {
        let name = file.file_stem().expect("it is a file's path");
        let object = self.dir.join(name).with_extension("o");
        // No contraction and no excess precision: arithmetic as it is written.
        let flags = [
            "-std=c++17",
            "-O2",
            // Zig's clang writes debug information unless told otherwise, which takes a third of the time.
            "-g0",
            "-fPIC",
            "-fno-exceptions",
            "-fno-rtti",
            "-ffp-contract=off",
            "-Xclang",
            "-ffloat16-excess-precision=none",
            "-fno-sanitize=undefined",
            // Traps: a load that is not aligned as its type wants, an index past an array's end.
            "-fsanitize=alignment,bounds",
            "-fsanitize-trap=alignment,bounds",
            "-Wno-unused",
            "-I",
            CPP,
        ];
        let mut command = command(&self.linker);
        command.args(flags).arg("-c").arg(file).arg("-o").arg(&object);
        Self::run(&name.to_string_lossy(), &mut command)?;
        Ok(object)
    }

    /// Preprocesses and translates; the path of the C++, and the kernels in it.
    fn translated(&self, name: &str, text: &str, mode: Mode) -> Result<(PathBuf, translate::Kernels)> {
        std::fs::create_dir_all(&self.dir).map_err(io(&self.dir))?;
        // Metal's own headers are the preludes that the translation includes.
        let has_tensors = TENSOR_HEADERS.iter().all(|header| text.contains(header));
        let mut text = text.replace("#include <metal_stdlib>", "");
        if has_tensors {
            text = TENSOR_HEADERS.iter().fold(text, |text, header| text.replace(header, ""));
        }
        let language = if has_tensors { 400 } else { 310 };
        let metal = self.dir.join(format!("{}.metal", name));
        std::fs::write(&metal, text).map_err(io(&metal))?;
        let preprocessed = self.dir.join(format!("{}.i", name));
        let mut command = command(&self.clang);
        command.args(["-E", "-x", "c++"]).arg(format!("-D__METAL_VERSION__={language}"));
        Self::run(name, command.arg(&metal).arg("-o").arg(&preprocessed))?;
        let text = std::fs::read_to_string(&preprocessed).map_err(io(&preprocessed))?;
        let suffix = if mode == Mode::Check { "check.clcpp" } else { "cpp" };
        let file = self.dir.join(format!("{}.{suffix}", name));
        let mut translated = translate(&text, mode)?;
        if has_tensors {
            translated = translated.replacen('\n', "\n#include \"msl_tensor.h\"\n", 1);
        }
        std::fs::write(&file, translated).map_err(io(&file))?;
        Ok((file, translate::kernels(&text)?))
    }

    fn run(what: &str, command: &mut Command) -> Result<()> {
        let program = PathBuf::from(command.get_program());
        let output = command.output().map_err(io(&program))?;
        if output.status.success() {
            return Ok(());
        }
        let messages = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Compile { file: what.to_owned(), messages })
    }
}

/// A command from its words.
fn command(words: &[String]) -> Command {
    let (program, args) = words.split_first().expect("a toolchain names its commands");
    let mut command = Command::new(program);
    command.args(args);
    command
}
