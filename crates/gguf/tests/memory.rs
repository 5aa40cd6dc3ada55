//! Released bytes leave memory and stay readable. One test, because the memory
//! that is measured is the process's.
#![cfg(target_os = "linux")]

use quarrel_gguf::{Bytes, Mapping};

/// Resident bytes of mapped files, of a disk or of a memory file system, in kB
/// on lines of `status` (proc(5)).
fn resident_file_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    (kilobytes("RssFile:") + kilobytes("RssShmem:")) * 1024
}

#[test]
fn released_bytes_leave_memory_and_stay_readable() {
    const LEN: usize = 32 << 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.bin");
    let content: Vec<u8> = (0..LEN).map(|i| (i / 4096 * 31) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let whole = Bytes::from(Mapping::open(&path).unwrap());
    let view = whole.slice(5..LEN).unwrap();

    let before = resident_file_bytes();
    assert!(*view == content[5..]);
    let touched = resident_file_bytes();
    assert!(touched > before + LEN / 2, "{touched} resident after reading, {before} before");
    view.release().unwrap();
    let released = resident_file_bytes();
    assert!(released < before + LEN / 8, "{released} still resident, {before} before");
    assert!(*view == content[5..], "the bytes are read from the file again");

    let owned = Bytes::from(vec![1, 2, 3]);
    owned.release().unwrap();
    assert_eq!(*owned, [1, 2, 3]);
    whole.slice(7..7).unwrap().release().unwrap();
}
