//! Servers and stores that mean harm: HOSTILE inputs of `pull`. Each is a typed error, and nothing is
//! requested, written or read where it should not be.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{COMMIT, Fault, Hub, REPO, info};
use quarrel_store::{Digest, Error, ModelName, Store};

fn repo_name() -> ModelName {
    format!("hf:{REPO}").parse().unwrap()
}

fn pull(hub: &Hub) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    let result = hub.store(dir.path()).pull(&repo_name(), &mut ());
    assert!(hub.store(dir.path()).list().unwrap().is_empty() || result.is_ok());
    result.map(drop)
}

#[test]
fn the_token_stays_with_its_origin() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let cdn = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let there = format!("{}/x/{COMMIT}/m-Q4_0.gguf?X-Signature=abc", cdn.endpoint);
    hub.fail([Fault::Redirect(there.clone())]);
    cdn.fail([Fault::Other(b"model".to_vec())]);
    pull(&hub).unwrap();
    assert_eq!(cdn.seen().len(), 1);
    assert!(!cdn.seen()[0].headers.contains_key("authorization"), "{:?}", cdn.seen());

    // The same for the list of files, and for a way back to the hub through another host.
    hub.fail_info([Fault::Redirect(format!("{}/api/models/x", cdn.endpoint))]);
    cdn.fail_info([Fault::Redirect(format!("{}/api/models/x", hub.endpoint))]);
    pull(&hub).unwrap();
    assert!(cdn.seen().iter().all(|s| !s.headers.contains_key("authorization")));
}

#[test]
fn an_auth_realm_is_not_asked() {
    // CVE-2025-51471: a challenge that names another host must not make us send it anything.
    let elsewhere = Hub::start(&[]);
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let challenge = format!("www-authenticate: Bearer realm=\"{}/token\",service=\"x\"", elsewhere.endpoint);
    hub.fail_info([Fault::Status(401, challenge.leak())]);
    assert!(matches!(pull(&hub), Err(Error::Denied { status: 401, .. })));
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn redirects_to_nowhere_good() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    for bad in [
        "file:///etc/passwd",
        "ftp://h/x",
        "http://u:p@127.0.0.1/x",
        "http://h\\@127.0.0.1/x",
        "\\\\h\\x",
        "/\\h/x",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://[::ffff:127.0.0.1",
        "x",
        "",
    ] {
        hub.fail([Fault::Redirect(bad.into())]);
        let result = pull(&hub);
        assert!(matches!(result, Err(Error::BadUrl { .. })), "{bad}: {result:?}");
    }
    hub.fail(vec![Fault::Redirect(format!("{}/round", hub.endpoint)); 20]);
    assert!(matches!(pull(&hub), Err(Error::TooManyRedirects { .. })));
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    hub.fail([Fault::Status(302, "x: y")]);
    assert!(matches!(pull(&hub), Err(Error::BadReply { .. })), "no Location");
}

#[test]
fn endpoints_that_are_no_addresses() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["file:///etc", "https://h\\evil", "", "hub", "https://h\r\nx: y"] {
        let mut config = Hub::start(&[]).config(dir.path());
        config.hf_endpoint = bad.into();
        let result = Store::open(config).pull(&repo_name(), &mut ());
        assert!(matches!(result, Err(Error::BadUrl { .. })), "{bad}: {result:?}");
    }
}

#[test]
fn lists_of_files_that_lead_elsewhere_or_lie() {
    let hub = Hub::start(&[]);
    let good = info(&BTreeMap::from([("m-Q4_0.gguf".to_owned(), b"model".to_vec())]));
    let digest = Digest::of(b"model").to_string();
    let mut bad = vec![String::new(), "{".into(), "null".into(), "[".repeat(100_000)];
    let replacements = [
        ("m-Q4_0.gguf", "../m-Q4_0.gguf"),
        ("m-Q4_0.gguf", "/etc/m-Q4_0.gguf"),
        ("m-Q4_0.gguf", "a/../../m-Q4_0.gguf"),
        ("m-Q4_0.gguf", "..\\\\m-Q4_0.gguf"),
        ("m-Q4_0.gguf", "m\\u0000-Q4_0.gguf"),
        (COMMIT, "../../other"),
        (COMMIT, ""),
        (digest.as_str(), "../../../etc/passwd"),
        (digest.as_str(), ""),
        ("\"size\":5", "\"size\":-5"),
        ("\"size\":5", "\"size\":1e99"),
    ];
    bad.extend(replacements.iter().map(|(from, to)| good.replace(from, to)));
    for json in &bad {
        hub.answer_info(json);
        let result = pull(&hub);
        assert!(matches!(result, Err(Error::BadReply { .. })), "{json:.200}: {result:?}");
    }
    assert!(hub.ranges().is_empty(), "no file was asked for");
}

#[test]
fn bodies_without_end() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model"), ("config.json", b"{}")]);
    hub.fail_info([Fault::Endless]);
    assert!(matches!(pull(&hub), Err(Error::BadReply { .. })));
    hub.fail([Fault::Endless]);
    assert!(matches!(pull(&hub), Err(Error::BadReply { .. })));
    // A range that does not continue where we are would corrupt the file.
    hub.fail([Fault::Drop(2), Fault::WrongRange]);
    assert!(matches!(pull(&hub), Err(Error::BadReply { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let dir = tempfile::tempdir().unwrap();
    let partial = dir.path().join("partial/hf").join(REPO).join("Q4_0");
    fs::create_dir_all(&partial).unwrap();
    std::os::unix::fs::symlink("/dev/full", partial.join("m-Q4_0.gguf.part")).unwrap();
    let result = hub.store(dir.path()).pull(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::DiskFull { .. })), "{result:?}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let result = hub.store(&file).pull(&repo_name(), &mut ());
    assert!(matches!(&result, Err(Error::Io { path, .. }) if path.starts_with(&file)), "{result:?}");
}

#[cfg(unix)]
#[test]
fn removing_never_leaves_the_cache() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model"), ("m-Q8_0.gguf", b"model")]);
    let [dir, outside] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let store = hub.store(dir.path());
    let precious = outside.path().join("precious");
    fs::write(&precious, "x").unwrap();

    // The entry replaced by a link that leads out.
    let model = store.pull(&repo_name(), &mut ()).unwrap();
    let entry = model.path.parent().unwrap();
    fs::remove_dir_all(entry).unwrap();
    std::os::unix::fs::symlink(outside.path(), entry).unwrap();
    store.remove(&repo_name(), &mut ()).unwrap_err();
    assert!(precious.exists());

    // Names that are not the cache's.
    for path in [precious.to_str().unwrap(), "./x", "/"] {
        let result = store.remove(&path.parse().unwrap(), &mut ());
        assert!(matches!(result, Err(Error::NotInCache { .. })), "{path}: {result:?}");
    }
    assert!(precious.exists());
}

#[test]
fn removing_one_of_several_asks_which() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model"), ("m-Q8_0.gguf", b"model")]);
    let dir = tempfile::tempdir().unwrap();
    let store = hub.store(dir.path());
    let named = |quant: &str| -> ModelName { format!("hf:{REPO}:{quant}").parse().unwrap() };
    for quant in ["q4_0", "Q8_0"] {
        store.pull(&named(quant), &mut ()).unwrap();
    }
    let result = store.remove(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::Ambiguous { .. })), "{result:?}");
    store.remove(&named("Q8_0"), &mut ()).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.resolve(&repo_name()).unwrap().path.ends_with("Q4_0/m-Q4_0.gguf"));
}

#[test]
fn damaged_entries_are_pulled_again() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"model")]);
    let dir = tempfile::tempdir().unwrap();
    let store = hub.store(dir.path());
    let model = store.pull(&repo_name(), &mut ()).unwrap().path;
    fs::write(&model, "mode").unwrap();
    assert!(matches!(store.resolve(&repo_name()), Err(Error::NotLocal { .. })), "a file of another size");
    store.pull(&repo_name(), &mut ()).unwrap();
    assert_eq!(fs::read(&model).unwrap(), b"model");

    let entry = model.with_file_name("entry.json");
    let good = fs::read_to_string(&entry).unwrap();
    for bad in [
        "",
        "{}",
        "[",
        &good.replace("\"m-Q4_0.gguf\"", "\"../../x\""),
        &good.replace("main\": \"m", "main\": \"n"),
    ] {
        fs::write(&entry, bad).unwrap();
        let result = store.resolve(&repo_name());
        assert!(matches!(result, Err(Error::BadEntry { .. })), "{bad}: {result:?}");
        store.pull(&repo_name(), &mut ()).unwrap();
        assert_eq!(fs::read_to_string(&entry).unwrap().len(), good.len());
    }
    assert!(Path::new(&model).exists());
}
