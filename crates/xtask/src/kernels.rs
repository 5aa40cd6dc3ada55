//! `cargo xtask kernels`: every GPU kernel, without a GPU. CUDA sources are
//! compiled by NVRTC, and their machine code is looked at; Metal sources are checked, compiled by clang and run
//! through every case of the harness on the emulator, and so is the default model
//! (`cargo xtask fixtures` fetches it).
//!
//! Compilers and disassembler come as Python packages into a virtual environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Result, at};
use crate::workspace::{self, run};

/// NVRTC, what shows its machine code, and zig for the clang in it.
const PACKAGES: [&str; 3] =
    ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-nvdisasm==13.5.37", "ziglang==0.17.1"];

/// Where a package has the library.
const FIND_NVRTC: &str = "import glob, nvidia; \
                          print(glob.glob(list(nvidia.__path__)[0] + '/cuda_nvrtc/lib/libnvrtc.so.*')[0])";

/// Where a package has the disassembler.
const FIND_NVDISASM: &str = "import glob, nvidia; \
                             print(glob.glob(list(nvidia.__path__)[0] + '/cu*/bin/nvdisasm')[0])";

/// Compiles and runs everything.
///
/// # Errors
/// A compiler that cannot be fetched, a kernel that does not compile, a case that fails.
pub fn run_all() -> Result<()> {
    let root = workspace::root()?;
    let python = environment(&root.join("target/fixtures"))?;
    let nvrtc = find_nvrtc(&python)?;
    test(&root, "nvrtc", &[("QUARREL_TEST_NVRTC", nvrtc.clone())])?;
    let nvdisasm = find("finding nvdisasm", &python, FIND_NVDISASM)?;
    test(&root, "slots", &[("QUARREL_TEST_NVRTC", nvrtc), ("QUARREL_TEST_NVDISASM", nvdisasm)])?;
    let zig = |tool| format!("{} -m ziglang {tool}", python.display());
    let compilers = [("QUARREL_TEST_CLANG", zig("clang")), ("QUARREL_TEST_CLANGXX", zig("c++"))];
    test(&root, "kernels", &compilers)
}

/// NVRTC's file, fetched if it is not here.
///
/// # Errors
/// A package that cannot be fetched.
pub fn nvrtc(root: &Path) -> Result<PathBuf> {
    Ok(find_nvrtc(&environment(&root.join("target/fixtures"))?)?.into())
}

/// Zig's Python package: a clang, and what it needs to compile C for other systems.
pub struct Zig {
    python: PathBuf,
    /// Headers, and what the C library of each system has.
    library: PathBuf,
}

impl Zig {
    /// Fetched if it is not here.
    ///
    /// # Errors
    /// A package that cannot be fetched.
    pub fn find(root: &Path) -> Result<Self> {
        let python = environment(&root.join("target/fixtures"))?;
        let library = "import ziglang; print(list(ziglang.__path__)[0] + '/lib')";
        let library = find("finding zig", &python, library)?.into();
        Ok(Self { python, library })
    }

    /// The symbols of macOS's C library.
    pub fn c_library(&self) -> PathBuf {
        self.library.join("libc/darwin/libSystem.tbd")
    }

    /// The command of a C compiler.
    pub fn clang(&self) -> String {
        format!("{} -m ziglang clang", self.python.display())
    }

    /// What it compiles for, and where it finds the headers of C and of macOS's C library.
    pub fn c_flags(&self) -> String {
        let library = self.library.display();
        format!(
            "--target=arm64-apple-macosx -isystem {library}/include -isystem {library}/libc/include/any-darwin-any"
        )
    }
}

fn find_nvrtc(python: &Path) -> Result<String> {
    find("finding NVRTC", python, FIND_NVRTC)
}

/// The path that a program in Python prints.
fn find(what: &str, python: &Path, program: &str) -> Result<String> {
    let found = run(what, Command::new(python).args(["-c", program]))?;
    Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned())
}

/// A virtual environment with [`PACKAGES`]; its interpreter.
fn environment(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let venv = dir.join("venv-kernels");
    let python = venv.join("bin/python");
    if !python.exists() {
        let what = "making a virtual environment (on Debian: apt install python3-venv)";
        run(what, Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    run("installing compilers", &mut pip)?;
    Ok(python)
}

/// Runs the ignored tests of one file, whose output is shown.
fn test(root: &Path, test: &str, environment: &[(&str, String)]) -> Result<()> {
    let mut command = workspace::cargo();
    // Chosen from the workspace, not from its package: dependencies have the features that all tests have
    // them with, and are not compiled once more.
    command.current_dir(root).args(["test", "--quiet", "--workspace", "--test", test]);
    command.args(["--", "--ignored", "--nocapture"]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = run(&format!("testing {test}"), &mut command)?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
