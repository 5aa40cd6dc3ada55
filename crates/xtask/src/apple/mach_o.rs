//! What a program for a Mac says of itself: a header and its load commands.

/// A program's header says so.
const MAGIC: u32 = 0xfeed_facf;
const ARM64: u32 = 0x0100_000c;
const EXECUTABLE: u32 = 2;
/// Bytes of the header.
const HEADER: usize = 32;

const LOAD_LIBRARY: u32 = 0xc;
const CODE_SIGNATURE: u32 = 0x1d;
const BUILD_VERSION: u32 = 0x32;
/// A program that does not start at a given place has it.
const MAIN: u32 = 0x8000_0028;
const MACOS: u32 = 1;

/// What is of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The first macOS that it starts on, as in 13.0.
    pub macos: Option<(u32, u32)>,
    /// The libraries that the loader brings.
    pub libraries: Vec<String>,
    /// Whether it has a place to start at.
    pub starts: bool,
    /// Whether it is signed, without which a Mac with Apple's processors does not start it.
    pub is_signed: bool,
}

/// Reads a program for 64-bit ARM; `None` for anything else, and what is cut.
pub fn read(bytes: &[u8]) -> Option<Program> {
    if [word(bytes, 0)?, word(bytes, 4)?, word(bytes, 12)?] != [MAGIC, ARM64, EXECUTABLE] {
        return None;
    }
    let mut program = Program::default();
    let mut rest = bytes.get(HEADER..)?;
    for _ in 0..word(bytes, 16)? {
        let (command, after) = rest.split_at_checked(word(rest, 4)? as usize)?;
        match word(command, 0)? {
            LOAD_LIBRARY => program.libraries.push(name(command)?),
            CODE_SIGNATURE => program.is_signed = true,
            MAIN => program.starts = true,
            BUILD_VERSION if word(command, 8)? == MACOS => {
                let version = word(command, 12)?;
                program.macos = Some((version >> 16, version >> 8 & 0xff));
            }
            _ => {}
        }
        rest = after;
    }
    Some(program)
}

/// A library's name, to its zero byte.
fn name(command: &[u8]) -> Option<String> {
    let name = command.get(word(command, 8)? as usize..)?;
    let name = name.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(commands: &[&[u32]]) -> Vec<u8> {
        let mut words = vec![MAGIC, ARM64, 0, EXECUTABLE, commands.len() as u32, 0, 0, 0];
        words.extend(commands.concat());
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn load_commands_are_read() {
        let library = [LOAD_LIBRARY, 20, 12, u32::from_le_bytes(*b"/lib"), u32::from_le_bytes(*b"/x\0\0")];
        let version = [BUILD_VERSION, 24, MACOS, 13 << 16 | 2 << 8, 0, 0];
        let bytes = program(&[&library, &version, &[MAIN, 8], &[CODE_SIGNATURE, 8]]);
        let expected = Program {
            macos: Some((13, 2)),
            libraries: vec!["/lib/x".to_owned()],
            starts: true,
            is_signed: true,
        };
        assert_eq!(read(&bytes), Some(expected));
        assert_eq!(read(&program(&[])), Some(Program::default()));
    }

    #[test]
    fn what_is_cut_or_something_else_is_none() {
        let bytes = program(&[&[LOAD_LIBRARY, 16, 12, u32::from_le_bytes(*b"/x\0\0")]]);
        for n in 0..bytes.len() {
            assert_eq!(read(&bytes[..n]), None, "{n}");
        }
        assert_eq!(read(b"\x7fELF and something behind it, and more"), None);
    }
}
