//! `docs/kernels.md` says what the code says.
//!
//! `UPDATE_DOCS=1 cargo test -p quarrel-backend --test kernel_docs` writes it anew.

use std::path::Path;

#[test]
fn the_table_of_kernels_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kernels.md");
    let table = quarrel_backend::support_table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &table).expect("docs/ is writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == table, "docs/kernels.md is not current; UPDATE_DOCS=1 writes it anew");
}
