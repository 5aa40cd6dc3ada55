//! What kernels declare, held against how they are launched: Metal itself leaves a buffer that
//! was not set as it was before, and says nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::translate::{Kernels, Parameter};

/// Each kernel's buffers, ascending, by its name.
pub type Signatures = BTreeMap<String, Vec<Declared>>;

/// A buffer that a kernel declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declared {
    index: usize,
    is_written: bool,
}

/// Adds what a preprocessed text declares: each kernel, and its parameters as the translation
/// writes them.
pub fn add(signatures: &mut Signatures, kernels: Kernels) {
    let declared = |Parameter { binding, is_written }: Parameter| {
        Some(Declared { index: buffer(&binding)?, is_written })
    };
    for (name, parameters) in kernels {
        let mut buffers: Vec<Declared> = parameters.into_iter().filter_map(declared).collect();
        buffers.sort_unstable();
        signatures.insert(name, buffers);
    }
}

/// The index in `{ emulator::Binding::Buffer, 3 }`.
fn buffer(binding: &str) -> Option<usize> {
    let (_, index) = binding.split_once("Binding::Buffer,")?;
    index.trim_end_matches('}').trim().parse().ok()
}

/// What is wrong with a launch that sets these buffers, and says by `writes`, a bit each from index 1
/// on, which of them may be written; `None` if nothing is.
pub fn mismatch(declared: &[Declared], set: Range<usize>, writes: u32) -> Option<String> {
    let indices: Vec<usize> = declared.iter().map(|buffer| buffer.index).collect();
    if !indices.iter().copied().eq(set.clone()) {
        let set: Vec<_> = set.collect();
        return Some(format!("it declares buffers {indices:?}, and the launch sets {set:?}"));
    }
    let is_said = |buffer: &Declared| buffer.index > 0 && writes >> (buffer.index - 1) & 1 == 1;
    let unsaid = declared.iter().find(|buffer| buffer.is_written && !is_said(buffer))?;
    Some(format!("it writes buffer {}, and the launch says that it only reads it", unsaid.index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(kind: &str, index: usize, is_written: bool) -> Parameter {
        Parameter { binding: format!("{{ emulator::Binding::{kind}, {index} }}"), is_written }
    }

    #[test]
    fn a_launch_sets_what_is_declared() {
        let mut signatures = Signatures::new();
        let parameters =
            vec![parameter("Buffer", 1, true), parameter("Lane", 0, false), parameter("Buffer", 0, false)];
        add(&mut signatures, vec![("k".to_owned(), parameters)]);
        let buffers = [(0, false), (1, true)].map(|(index, is_written)| Declared { index, is_written });
        assert_eq!(signatures["k"], buffers);
        assert_eq!(mismatch(&buffers, 0..2, 1), None);
        assert!(mismatch(&buffers, 0..2, 0).is_some_and(|problem| problem.contains("writes buffer 1")));
        assert!(mismatch(&buffers, 0..2, 2).is_some(), "another is said to be written");
        let read = |indices: &[usize]| -> Vec<Declared> {
            indices.iter().map(|&index| Declared { index, is_written: false }).collect()
        };
        assert_eq!(mismatch(&read(&[1]), 1..2, 0), None);
        for (declared, set) in [
            (&[0, 1][..], 0..1),
            (&[0, 1], 0..3),
            (&[0, 1], 1..2),
            (&[0, 2], 0..2),
            (&[1], 0..2),
            (&[0, 0], 0..2),
        ] {
            assert!(mismatch(&read(declared), set.clone(), 0).is_some(), "{declared:?} {set:?}");
        }
    }
}
