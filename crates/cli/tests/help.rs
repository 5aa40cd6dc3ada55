//! The help texts are part of the product: a change to one shows here.
//!
//! `UPDATE_HELP=1 cargo test -p quarrel --test help` writes them anew.

use std::path::Path;
use std::process::Command;

const COMMANDS: [&str; 13] = [
    "run",
    "chat",
    "serve",
    "inspect",
    "bench",
    "perplexity",
    "quantize",
    "tokenize",
    "detokenize",
    "pull",
    "list",
    "rm",
    "doctor",
];

fn help(args: &[&str]) -> String {
    let out =
        Command::new(env!("CARGO_BIN_EXE_quarrel")).args(args).output().expect("the binary was just built");
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).expect("help is UTF-8")
}

fn check(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_HELP").is_some() {
        std::fs::write(&path, found).expect("the test directory is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "help of {name}; UPDATE_HELP=1 accepts it");
}

#[test]
fn every_command_explains_itself() {
    check("quarrel", &help(&["--help"]));
    for command in COMMANDS {
        check(command, &help(&[command, "--help"]));
    }
}
