//! Slots of rings in shared memory are given up when all that was read of them has come. The copy engine does not wait
//! for loads that are under way, so that a slot that is given up behind them may have its next contents first. The source
//! does not show it, and a run rarely; the machine code does. `cargo xtask kernels` brings the compiler and the
//! disassembler and runs this.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use quarrel_backend::cuda::nvrtc::Nvrtc;
use quarrel_backend::gpu::source::{Dialect, SOURCES};

/// Sources whose SIMD-groups fill slots that they read themselves, with rows of a block.
const KERNELS: [(&str, u32); 4] =
    [("generated_linear", 1), ("generated_linear", 8), ("generated_linear", 64), ("rounded_linear", 64)];
/// Packings that are multiplied as they are, and some that are unpacked.
const PACKINGS: [&str; 4] = ["p16", "p8", "p4", "p4k"];
/// The first architecture with a copy engine.
const ARCH: u32 = 90;

#[test]
#[ignore = "needs NVRTC and nvdisasm; run by `cargo xtask kernels`"]
fn what_was_read_of_a_slot_has_come_when_it_is_given_up() {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let nvrtc = Nvrtc::load(path("QUARREL_TEST_NVRTC").as_deref()).unwrap_or_else(|e| panic!("{e}"));
    let nvdisasm = path("QUARREL_TEST_NVDISASM").expect("QUARREL_TEST_NVDISASM names nvdisasm");
    for (name, rows) in KERNELS {
        let source = SOURCES.iter().find(|source| source.name == name).unwrap();
        for packing in PACKINGS {
            let format = format!("KERNELS(OP, {}, {packing})", packing.to_uppercase());
            let definitions =
                format!("#define WEIGHT_FORMATS(KERNELS, OP) {format}\n#define ROWS_EACH {rows}\n");
            let text = source.text(Dialect::Cuda, &definitions);
            let image = nvrtc.compile(name, &text, nvrtc.target(ARCH).unwrap()).unwrap();
            let code = disassemble(&nvdisasm, &image);
            let found = check(&code);
            println!("{name} {packing}, {rows} rows: {found:?}");
            assert!(found.behind_loads > 0, "{name} {packing}, {rows} rows: no slot is filled again");
            assert!(found.early.is_empty(), "{name} {packing}, {rows} rows: {}", found.early[0]);
        }
    }
}

/// The machine code of an image, as text.
fn disassemble(nvdisasm: &Path, image: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), image).unwrap();
    let output = Command::new(nvdisasm).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What was found of copies.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Copies behind loads from shared memory, since the copy before them.
    behind_loads: usize,
    /// Those before which some load may not have come.
    early: Vec<String>,
}

fn check(code: &str) -> Found {
    let mut found = Found::default();
    code.split("\n.text.").for_each(|kernel| check_kernel(kernel, &mut found));
    found
}

fn check_kernel(code: &str, found: &mut Found) {
    let instructions: Vec<Instruction<'_>> = code.lines().filter_map(Instruction::parse).collect();
    let is_copy = |i: &Instruction<'_>| i.opcode.starts_with("UBLKCP");
    for (at, copy) in instructions.iter().enumerate().filter(|(_, i)| is_copy(i)) {
        let start = instructions[..at].iter().rposition(is_copy).unwrap_or(0);
        let mut under_way: HashMap<u32, Range<u32>> = HashMap::new();
        let mut has_loads = false;
        for (i, instruction) in (0..).zip(&instructions[start..at]) {
            let read = instruction.read();
            under_way.retain(|_, loaded| !read.iter().any(|r| r.start < loaded.end && loaded.start < r.end));
            if let Some(loaded) = instruction.loaded() {
                under_way.insert(i, loaded);
                has_loads = true;
            }
        }
        found.behind_loads += usize::from(has_loads);
        if !under_way.is_empty() {
            found.early.push(format!("{} loads may be under way at `{}`", under_way.len(), copy.text));
        }
    }
}

/// One instruction, as `nvdisasm` writes it: `/*0a80*/  @!P1 LDS.128 R4, [R3] ;`.
struct Instruction<'a> {
    text: &'a str,
    opcode: &'a str,
    operands: &'a str,
}

impl<'a> Instruction<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let is_address = (4..=5).contains(&address.len()) && address.bytes().all(|b| b.is_ascii_hexdigit());
        let text = rest.split_once(';').filter(|_| is_address)?.0.trim();
        let (first, later) = text.split_once(' ').unwrap_or((text, ""));
        let (opcode, operands) = match first.starts_with('@') {
            true => later.trim().split_once(' ').unwrap_or((later.trim(), "")),
            false => (first, later),
        };
        Some(Self { text, opcode, operands })
    }

    /// Registers that it names, in order.
    fn registers(&self) -> Vec<u32> {
        let bytes = self.operands.as_bytes();
        let begins = |&i: &usize| bytes[i] == b'R' && (i == 0 || !bytes[i - 1].is_ascii_alphanumeric());
        let starts = (0..bytes.len()).filter(begins);
        let digits = starts.map(|i| self.operands[i + 1..].split(|c: char| !c.is_ascii_digit()).next());
        digits.filter_map(|digits| digits?.parse().ok()).collect()
    }

    fn is_load(&self) -> bool {
        self.opcode.starts_with("LDS")
    }

    /// Registers of 32 bits that an operand takes, at most.
    fn width(&self) -> u32 {
        match self.opcode {
            opcode if opcode.contains("MMA") || opcode.contains(".128") => 4,
            opcode if opcode.contains(".64") || opcode.contains("WIDE") => 2,
            _ => 1,
        }
    }

    /// What it loads from shared memory.
    fn loaded(&self) -> Option<Range<u32>> {
        let first = *self.registers().first().filter(|_| self.is_load())?;
        Some(first..first + self.width())
    }

    /// What it reads: all but what comes first, where that is written.
    fn read(&self) -> Vec<Range<u32>> {
        let has_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let is_written = self.operands.strip_prefix('R').is_some_and(has_number);
        let width = if self.is_load() { 1 } else { self.width() };
        self.registers().into_iter().skip(usize::from(is_written)).map(|first| first..first + width).collect()
    }
}

/// A loop of a SIMD-group that waits, loads, multiplies and fills the slot again, in this order or another.
fn code(lines: &[&str]) -> String {
    let line = |(i, line): (usize, &&str)| format!("        /*{:04x}*/  {line} ;  /* 0x0 */\n", 16 * i);
    lines.iter().enumerate().map(line).collect()
}

const WAIT: &str = "SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [UR7+0x32050], RZ";
const LOADS: [&str; 2] = ["LDS.128 R68, [R5]", "@P1 LDS R10, [R5+0x200]"];
const PRODUCTS: [&str; 2] = ["HGMMA.64x64x16.F32.BF16 R24, R68, gdesc[UR20], R24, UP0", "FMUL R3, R4, R10"];
const COPY: &str = "@!UP1 UBLKCP.S.G [UR22], [UR4], UR6";

#[test]
fn a_slot_that_is_given_up_behind_the_products_is_well() {
    let found = check(&code(&[WAIT, LOADS[0], LOADS[1], PRODUCTS[0], PRODUCTS[1], COPY]));
    assert_eq!(found, Found { behind_loads: 1, early: Vec::new() });
}

#[test]
fn a_slot_that_is_given_up_behind_loads_alone_is_found() {
    for lines in [
        &[WAIT, LOADS[0], LOADS[1], COPY, PRODUCTS[0], PRODUCTS[1]],
        &[WAIT, LOADS[0], LOADS[1], PRODUCTS[0], COPY, PRODUCTS[1]],
    ] {
        let found = check(&code(lines));
        assert_eq!((found.behind_loads, found.early.len()), (1, 1), "{lines:?}");
    }
    // What another kernel does at its end is its own.
    let found = check(&format!(".text.a:\n{}.text.b:\n{}", code(&[COPY, LOADS[0]]), code(&[COPY])));
    assert_eq!(found, Found::default());
    // Addresses are other registers than what comes.
    let found = check(&code(&[WAIT, "LDS.64 R4, [R5]", "LDS.64 R6, [R4]", COPY]));
    assert_eq!(found.early, ["1 loads may be under way at `@!UP1 UBLKCP.S.G [UR22], [UR4], UR6`"]);
}
