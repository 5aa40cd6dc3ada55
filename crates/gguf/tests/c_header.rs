//! The generated header compiles as C and as C++, and says what the table says.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use quarrel_gguf::Format;
use quarrel_gguf::format::iq4::IQ4_VALUES;
use quarrel_gguf::format::{Support, c_header};

/// A program that fails unless constants, sizes and tables are the crate's.
fn program() -> String {
    let mut checks = String::new();
    for format in Format::ALL.iter().filter(|format| format.support() != Support::Listed) {
        let (name, lower) = (format.name(), format.name().to_lowercase());
        let (id, len, bytes) = (*format as u32, format.block_len(), format.block_bytes());
        writeln!(
            checks,
            "if (GGUF_{name}_ID != {id} || GGUF_{name}_LEN != {len} || GGUF_{name}_BYTES != {bytes}) return 1;"
        )
        .unwrap();
        if len > 1 {
            writeln!(checks, "if (sizeof(struct block_{lower}) != {bytes}) return 2;").unwrap();
        }
    }
    for (i, value) in IQ4_VALUES.iter().enumerate() {
        writeln!(checks, "if (iq4[{i}] != {value}) return 3;").unwrap();
    }
    let include = "#include \"formats.h\"\n";
    format!(
        "{include}static const signed char iq4[16] = GGUF_IQ4_VALUES;\nint main(void) {{\n{checks}return 0;\n}}\n"
    )
}

/// Compiles and runs `source` with `compiler`.
fn check(compiler: &str, flags: &[&str], dir: &Path, source: &str) {
    std::fs::write(dir.join("formats.h"), c_header()).unwrap();
    std::fs::write(dir.join(source), program()).unwrap();
    let run = |command: &mut Command| {
        let output = command.current_dir(dir).output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new(compiler).args(flags).args(["-Wall", "-Wextra", "-Werror", "-o", "check", source]));
    run(&mut Command::new(dir.join("check")));
}

#[test]
fn the_header_compiles_as_c_and_as_cpp() {
    let dir = tempfile::tempdir().unwrap();
    check("cc", &["-std=c11", "-pedantic"], dir.path(), "check.c");
    check("c++", &["-std=c++14", "-pedantic"], dir.path(), "check.cpp");
}

#[test]
fn a_struct_has_the_fields_of_its_block() {
    let header = c_header();
    let declared = "struct block_q5_k {\n    gguf_half d;\n    gguf_half dmin;\n    unsigned char scales[12];\n    \
                    unsigned char qh[32];\n    unsigned char qs[128];\n};\n";
    assert!(header.contains(declared), "{header}");
    assert!(header.contains("    unsigned char qs[128];\n"), "an array of arrays is one array");
    assert!(header.contains("#define GGUF_Q4_K_HAS_OFFSET 1\n"));
}
