//! What kernels declare, held against how they are launched: Metal itself leaves a buffer that
//! was not set as it was before, and says nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::translate::Kernels;

/// Indices of each kernel's buffers, ascending, by its name.
pub type Signatures = BTreeMap<String, Vec<usize>>;

/// Adds what a preprocessed text declares: each kernel, and its parameters' bindings as the
/// translation writes them.
pub fn add(signatures: &mut Signatures, kernels: Kernels) {
    for (name, bindings) in kernels {
        let mut buffers: Vec<usize> = bindings.iter().filter_map(|binding| buffer(binding)).collect();
        buffers.sort_unstable();
        signatures.insert(name, buffers);
    }
}

/// The index in `{ emulator::Binding::Buffer, 3 }`.
fn buffer(binding: &str) -> Option<usize> {
    let (_, index) = binding.split_once("Binding::Buffer,")?;
    index.trim_end_matches('}').trim().parse().ok()
}

/// What is wrong with a launch that sets these buffers; `None` if nothing is.
pub fn mismatch(declared: &[usize], set: Range<usize>) -> Option<String> {
    if declared.iter().copied().eq(set.clone()) {
        return None;
    }
    Some(format!("it declares buffers {declared:?}, and the launch sets {:?}", set.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_sets_what_is_declared() {
        let binding = |i: usize| format!("{{ emulator::Binding::Buffer, {i} }}");
        let lane = "{ emulator::Binding::Lane, 0 }".to_owned();
        let mut signatures = Signatures::new();
        add(&mut signatures, vec![("k".to_owned(), vec![binding(1), lane, binding(0)])]);
        assert_eq!(signatures["k"], [0, 1]);
        assert_eq!(mismatch(&[0, 1], 0..2), None);
        assert_eq!(mismatch(&[1], 1..2), None);
        for (declared, set) in [
            (&[0, 1][..], 0..1),
            (&[0, 1], 0..3),
            (&[0, 1], 1..2),
            (&[0, 2], 0..2),
            (&[1], 0..2),
            (&[0, 0], 0..2),
        ] {
            assert!(mismatch(declared, set.clone()).is_some(), "{declared:?} {set:?}");
        }
    }
}
