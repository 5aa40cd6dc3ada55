//! What a file makes the reader allocate is bounded by the file's own size.
//! One test, because the allocator that counts is the process's.

mod common;

use common::{ARRAY, Raw, STRING, U8};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Room for error messages and the like, beside the bound in the file's size.
const SLACK: usize = 16 << 10;
/// Most bytes allocated for each byte of a file: a pair of 14 bytes in the file
/// is an entry (56 bytes), its key in the index (48 bytes with its slack) and
/// two key allocations, and vectors and tables grow by doubling.
const PER_BYTE: usize = 40;

fn assert_bounded(what: &str, raw: Raw) {
    let bytes = quarrel_gguf::Bytes::from(raw.0);
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let outcome = quarrel_gguf::ModelFile::from_bytes(bytes.clone());
    let used = ALLOCATOR.peak_usage() - before;
    let bound = PER_BYTE * bytes.len() + SLACK;
    assert!(used <= bound, "{what}: {used} bytes allocated for {} ({:?})", bytes.len(), outcome.err());
}

#[test]
fn allocation_is_bounded_by_the_file() {
    for count in [1 << 20, 1 << 32, 1 << 40, 1 << 63, u64::MAX] {
        assert_bounded("tensors", Raw::header(count, 0).bytes(&[0; 64]));
        assert_bounded("pairs", Raw::header(0, count).bytes(&[0; 64]));
        assert_bounded("a string", Raw::header(0, 1).key("k", STRING).u64(count).bytes(&[b'x'; 64]));
        for element_type in 0..=12 {
            let array = Raw::header(0, 1).key("k", ARRAY).u32(element_type).u64(count);
            assert_bounded("an array", array.bytes(&[0; 64]));
        }
    }
    // Counts that the file's length just allows, though its content does not.
    let room = vec![0; 1 << 20];
    assert_bounded("tensors", Raw::header(1 << 15, 0).bytes(&room));
    assert_bounded("pairs", Raw::header(0, 1 << 16).bytes(&room));
    assert_bounded("strings", Raw::header(0, 1).key("k", ARRAY).u32(STRING).u64(1 << 17).bytes(&room));
    let nested = Raw::header(0, 1).key("k", ARRAY);
    let nested = (0..20).fold(nested, |raw, _| raw.u32(ARRAY).u64(80_000)).bytes(&room);
    assert_bounded("nested arrays", nested);
    // The densest valid content: many small pairs, many empty strings.
    let pairs = (0..10_000).fold(Raw::header(0, 10_000), |raw, i| raw.key(&i.to_string(), U8).u8(0));
    assert!(pairs.parse().is_ok());
    assert_bounded("many pairs", pairs);
    let strings = Raw::header(0, 1).key("k", ARRAY).u32(STRING).u64(100_000).bytes(&vec![0; 800_000]);
    assert!(strings.parse().is_ok());
    assert_bounded("many strings", strings);
}
