//! Memory that has been used and waits to be used again.

/// Takes the smallest of `spare` that `bytes` fit into; `size` is `None` for what is still in use.
pub fn best_fit<T>(spare: &mut Vec<T>, bytes: usize, mut size: impl FnMut(&T) -> Option<usize>) -> Option<T> {
    let sizes = spare.iter().enumerate().filter_map(|(i, memory)| Some((size(memory)?, i)));
    let (_, best) = sizes.filter(|&(size, _)| size >= bytes).min()?;
    Some(spare.swap_remove(best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_is_large_enough_and_free() {
        let mut spare = vec![(64, true), (16, false), (32, true), (8, true)];
        let mut take = |bytes| best_fit(&mut spare, bytes, |&(size, free)| free.then_some(size));
        assert_eq!(take(9), Some((32, true)));
        assert_eq!(take(9), Some((64, true)));
        assert_eq!(take(9), None, "16 are in use, 8 are too few");
        assert_eq!(take(8), Some((8, true)));
    }
}
