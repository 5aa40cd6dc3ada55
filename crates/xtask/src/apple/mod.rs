//! What must build for a Mac, checked where there is none: types and lints, and that a wrong call
//! of Apple's framework would be found; and that a program is linked ([`link`]).

mod link;
mod mach_o;
mod sdk;

use std::path::Path;

use crate::error::{Error, Result, at};
use crate::workspace::{self, cargo, run, watch};

const TARGET: &str = "aarch64-apple-darwin";

/// Crates that build no C.
const CRATES: [&str; 5] = ["gguf", "backend", "model", "tokenizer", "engine"];

/// Where the framework is called.
const CODE: &str = "crates/backend/src/metal/apple";

/// A file, a piece of it that stands there once, and a mistake in its place.
type Mistake = (&'static str, &'static str, &'static str);

/// All are of a kind that the compiler reports together.
const MISTAKES: [Mistake; 20] = [
    // What the framework does not have.
    ("commands.rs", "buffer.commit();", "buffer.comit();"),
    ("buffer.rs", "MTLResourceOptions::StorageModeShared);", "MTLResourceOptions::StorageModeHost);"),
    ("library.rs", "pipeline.threadExecutionWidth()", "pipeline.executionWidth()"),
    // Arguments of another type.
    ("commands.rs", "setComputePipelineState(kernel.pipeline())", "setComputePipelineState(kernel)"),
    ("commands.rs", "(groups, size(shape.threads, 1))", "(groups, shape.threads)"),
    ("buffer.rs", "Some(&release),", "Some(release),"),
    ("library.rs", "setMathMode(MTLMathMode::Safe)", "setMathMode(2)"),
    ("mod.rs", "isOperatingSystemAtLeastVersion(needed)", "isOperatingSystemAtLeastVersion(major)"),
    ("mod.rs", "device.supportsFamily(*family)", "device.supportsFamily(\"Metal 3\")"),
    // An argument too few, a result taken for what it is not.
    (
        "commands.rs",
        "setBytes_length_atIndex(bytes, size_of_val(args), 0)",
        "setBytes_length_atIndex(bytes, 0)",
    ),
    ("buffer.rs", "self.memory.contents().as_ptr().cast", "self.memory.contents().cast"),
    ("library.rs", "setUrl(path.map(url).as_deref())", "setUrl(path)"),
    ("commands.rs", "WithDispatchType(MTLDispatchType::Concurrent)", "WithDispatchType(true)"),
    (
        "commands.rs",
        "memoryBarrierWithScope(MTLBarrierScope::Buffers)",
        "memoryBarrierWithScope(MTLBarrierScope::Memory)",
    ),
    ("residency.rs", "addAllocation(ProtocolObject::from_ref(memory))", "addAllocation(memory)"),
    ("products.rs", "(commands, &x, &w, &out)", "(commands, &x, &w)"),
    ("library.rs", "MTLLanguageVersion::Version4_0", "MTLLanguageVersion::Metal4"),
    ("graphs.rs", "Ok(commands.rootCommandBuffer())", "Ok(commands)"),
    ("graphs.rs", "(Some(shape), MPSDataType::Float32, None)", "(Some(shape), MPSDataType::Float32)"),
    ("library.rs", "library.map_err(refused(&what))?", "library.ok_or(\"no library\")?"),
];

/// How much is to be linked.
#[derive(clap::Args)]
pub struct Args {
    /// Link all of `quarrel`, not only the backend's tests
    #[arg(long)]
    pub whole: bool,
}

/// Lints the code, links a program of it, then plants mistakes in a copy of it, each of which must
/// be found.
///
/// # Errors
/// What the compiler and the linker say; a mistake that they do not find.
pub fn run_all(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    run("adding a target", std::process::Command::new("rustup").args(["target", "add", TARGET]))?;
    let mut clippy = cargo();
    clippy.current_dir(&root).args(["clippy", "--locked", "--target", TARGET]);
    clippy.args(CRATES.map(|name| format!("--package=quarrel-{name}"))).args(["--", "-D", "warnings"]);
    watch(&mut clippy)?;
    let target = workspace::target_directory(&root)?;
    link::run(&root, &target, args.whole)?;
    plant_all(&root, &target)
}

/// Plants every mistake at once.
fn plant_all(root: &Path, target: &Path) -> Result<()> {
    let copy = target.join("planted");
    copy_crates(root, &copy)?;
    let lines = MISTAKES.map(|mistake| plant(&copy, mistake));
    let mut check = cargo();
    check.current_dir(&copy).args(["check", "--offline", "--quiet", "--message-format", "short"]);
    check.args(["--target", TARGET, "--package", "quarrel-backend", "--target-dir"]).arg(target);
    let output = check.output().map_err(|source| Error::Start { program: "cargo".to_owned(), source })?;
    let messages = String::from_utf8_lossy(&output.stderr);
    for (line, (file, _, mistake)) in lines.into_iter().zip(MISTAKES) {
        let place = format!("{CODE}/{file}:{}:", line?);
        let is_found = messages.lines().any(|message| message.contains(&place) && message.contains("error"));
        if !is_found {
            let what = format!("no error at {place}, where `{mistake}` was planted:\n{messages}");
            return Err(Error::Output { program: "cargo check".to_owned(), what });
        }
    }
    println!("{} planted mistakes are found", MISTAKES.len());
    Ok(())
}

/// The crates that the mistakes are compiled with.
fn copy_crates(root: &Path, copy: &Path) -> Result<()> {
    if copy.exists() {
        std::fs::remove_dir_all(copy).map_err(at(copy))?;
    }
    for part in ["Cargo.toml", "Cargo.lock", "crates/gguf", "crates/backend"] {
        copy_all(&root.join(part), &copy.join(part))?;
    }
    // The command line, which is built by default, is not among them.
    let manifest = copy.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(at(&manifest))?;
    let lines = text.lines().filter(|line| !line.starts_with("default-members"));
    std::fs::write(&manifest, lines.collect::<Vec<_>>().join("\n")).map_err(at(&manifest))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(at(to))?;
        return std::fs::copy(from, to).map(drop).map_err(at(from));
    }
    for entry in from.read_dir().map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Plants a mistake; the line it is on.
fn plant(copy: &Path, (file, piece, mistake): Mistake) -> Result<usize> {
    let path = copy.join(CODE).join(file);
    let text = std::fs::read_to_string(&path).map_err(at(&path))?;
    let mut pieces = text.splitn(2, piece);
    let (Some(before), Some(after)) = (pieces.next(), pieces.next()) else {
        let what = format!("`{piece}` is not there any more: plant the mistake elsewhere");
        return Err(Error::Output { program: path.display().to_string(), what });
    };
    std::fs::write(&path, format!("{before}{mistake}{after}")).map_err(at(&path))?;
    Ok(before.lines().count())
}
