//! Pulls from a hub on loopback: what is chosen, resumed, checked and kept.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{COMMIT, Fault, Hub, REPO, noise};
use quarrel_store::{Error, Event, ModelName, Progress, Store};

const MIB: usize = 1 << 20;

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

fn repo_name() -> ModelName {
    name(&format!("hf:{REPO}"))
}

/// Pulls the repository's default model and compares it with `expected`.
fn pull(store: &Store, expected: &[u8]) {
    let model = store.pull(&repo_name(), &mut ()).unwrap();
    assert!(fs::read(model.path).unwrap() == expected, "the file differs from the server's");
}

#[test]
fn the_default_quant_is_pulled_once_and_found_by_both_names() {
    let model = noise(MIB);
    let hub = Hub::start(&[("README.md", b"hi"), ("m-q4_k_m.gguf", &model), ("m-Q8_0.gguf", b"other")]);
    let dir = tempfile::tempdir().unwrap();
    let store = hub.store(dir.path());
    assert!(matches!(store.resolve(&repo_name()), Err(Error::NotLocal { .. })));
    pull(&store, &model);
    assert_eq!(hub.seen().len(), 2, "one question, one file");
    assert!(hub.seen().iter().all(|s| s.headers["authorization"] == "Bearer hf_secret"));

    let long = name(&format!("hf:{REPO}:Q4_K_M"));
    let path = dir.path().join("models/hf").join(REPO).join("Q4_K_M/m-q4_k_m.gguf");
    assert_eq!(store.resolve(&repo_name()).unwrap().path, path);
    assert_eq!(store.resolve(&long).unwrap().path, path);
    assert!(matches!(store.resolve(&name(&format!("hf:{REPO}:Q8_0"))), Err(Error::NotLocal { .. })));
    pull(&store, &model);
    assert_eq!(hub.seen().len(), 2, "what is here is not asked for again");

    let listed = store.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].name.as_str(), listed[0].bytes),
        (1, long.to_string().as_str(), MIB as u64)
    );
    assert!(listed[0].pulled.elapsed().unwrap() < Duration::from_secs(3600));
    store.remove(&repo_name(), &mut ()).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.remove(&repo_name(), &mut ()), Err(Error::NotInCache { .. })));
}

#[test]
fn the_qwen_names_are_their_publishers_repositories() {
    for size in ["0.5", "1.5"] {
        let file = format!("qwen2.5-coder-{size}b-instruct-q4_k_m.gguf");
        let hub = Hub::start(&[("qwen2.5-coder-instruct-q8_0.gguf", b"other"), (&file, b"model")]);
        let dir = tempfile::tempdir().unwrap();
        let store = hub.store(dir.path());
        let short = name(&format!("qwen2.5-coder-{size}b"));
        let model = store.pull(&short, &mut ()).unwrap();
        assert!(model.path.ends_with(&file));
        let repo = format!("Qwen/Qwen2.5-Coder-{size}B-Instruct-GGUF");
        assert_eq!(hub.seen()[0].path, format!("/api/models/{repo}/revision/main?blobs=true"));
        assert_eq!(hub.seen()[1].path, format!("/{repo}/resolve/{COMMIT}/{file}"));
        assert_eq!(store.resolve(&name(&format!("hf:{repo}"))).unwrap().path, model.path);
        assert_eq!(store.list().unwrap()[0].name, short.to_string());
        store.remove(&short, &mut ()).unwrap();
        assert!(store.list().unwrap().is_empty());
    }
}

#[test]
fn all_shards_and_all_safetensors_files_are_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[
        ("Q8_0/m-Q8_0-00001-of-00002.gguf", b"first"),
        ("Q8_0/m-Q8_0-00002-of-00002.gguf", b"second"),
    ]);
    let model = hub.store(dir.path()).pull(&repo_name(), &mut ()).unwrap();
    assert!(model.path.ends_with("m-Q8_0-00001-of-00002.gguf"));
    assert_eq!(
        model.files.iter().map(|f| fs::read(f).unwrap()).collect::<Vec<_>>(),
        [&b"first"[..], b"second"]
    );

    let dir = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("model.safetensors", b"w"),
        ("pytorch_model.bin", b"p"),
    ];
    let model = Hub::start(&files).store(dir.path()).pull(&repo_name(), &mut ()).unwrap();
    assert!(model.path.is_dir() && model.path.ends_with("safetensors"));
    assert_eq!(model.files.len(), 3);
    assert_eq!(fs::read(model.path.join("tokenizer.json")).unwrap(), b"[]");
}

#[test]
fn a_dropped_connection_is_resumed_where_it_broke() {
    let model = noise(3 * MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    hub.fail([Fault::Drop(MIB), Fault::Drop(0), Fault::Drop(MIB / 2), Fault::Status(503, "x: y")]);
    let dir = tempfile::tempdir().unwrap();
    pull(&hub.store(dir.path()), &model);
    let [first, second] = [MIB, MIB + MIB / 2].map(|at| format!("bytes={at}-"));
    assert_eq!(hub.ranges(), ["", &first, &first, &second, &second]);
}

#[test]
fn a_connection_that_never_progresses_is_given_up() {
    let hub = Hub::start(&[("m-Q4_0.gguf", &noise(MIB))]);
    hub.fail(vec![Fault::Drop(0); 10]);
    let dir = tempfile::tempdir().unwrap();
    let result = hub.store(dir.path()).pull(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::Network { .. })), "{result:?}");
    assert_eq!(hub.ranges().len(), 4, "as many attempts as configured");
}

/// Cancels once a file has this many bytes.
struct StopAt {
    limit: u64,
    done: u64,
}

impl Progress for StopAt {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Bytes { done, .. } = event {
            self.done = *done;
        }
    }

    fn cancelled(&self) -> bool {
        self.done >= self.limit
    }
}

#[test]
fn a_cancelled_pull_is_resumed_by_the_next() {
    let model = noise(2 * MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    hub.fail([Fault::Drop(MIB)]);
    let dir = tempfile::tempdir().unwrap();
    let result = hub.store(dir.path()).pull(&repo_name(), &mut StopAt { limit: 0, done: 0 });
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    let part = dir.path().join("partial/hf").join(REPO).join("Q4_0/m-Q4_0.gguf.part");
    assert!(part.exists() && hub.store(dir.path()).list().unwrap().is_empty());
    fs::write(&part, &model[..MIB]).unwrap();
    pull(&hub.store(dir.path()), &model);
    assert_eq!(*hub.ranges().last().unwrap(), format!("bytes={MIB}-"));
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_that_pulls() {
    let (Ok(endpoint), Ok(dir)) = (std::env::var("STORE_TEST_ENDPOINT"), std::env::var("STORE_TEST_DIR"))
    else {
        return;
    };
    let mut config = quarrel_store::Config::new(dir);
    config.hf_endpoint = endpoint;
    Store::open(config).pull(&repo_name(), &mut ()).unwrap();
}

#[test]
fn a_killed_pull_is_resumed_by_the_next() {
    let model = noise(2 * MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    hub.fail([Fault::Stall(MIB)]);
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_pulls"])
        .env("STORE_TEST_ENDPOINT", &hub.endpoint)
        .env("STORE_TEST_DIR", dir.path())
        .spawn()
        .unwrap();
    let part = dir.path().join("partial/hf").join(REPO).join("Q4_0/m-Q4_0.gguf.part");
    let start = Instant::now();
    while fs::metadata(&part).map_or(0, |m| m.len()) < MIB as u64 {
        assert!(start.elapsed() < Duration::from_secs(60), "the child did not get half of the file");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    pull(&hub.store(dir.path()), &model);
    assert_eq!(hub.ranges(), [String::new(), format!("bytes={MIB}-")]);
}

#[test]
fn a_server_without_ranges_starts_over() {
    let model = noise(MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    hub.fail([Fault::Drop(MIB / 2), Fault::IgnoreRange]);
    let dir = tempfile::tempdir().unwrap();
    pull(&hub.store(dir.path()), &model);
}

#[test]
fn a_partial_file_of_another_version_is_replaced() {
    let model = noise(MIB);
    for stale in [vec![7; MIB / 2], vec![7; MIB], vec![7; 2 * MIB]] {
        let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join("partial/hf").join(REPO).join("Q4_0");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join("m-Q4_0.gguf.part"), stale).unwrap();
        pull(&hub.store(dir.path()), &model);
    }
}

#[test]
fn a_wrong_file_is_discarded() {
    let model = noise(MIB);
    let mut flipped = model.clone();
    flipped[MIB / 2] ^= 1;
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    let dir = tempfile::tempdir().unwrap();
    let store = hub.store(dir.path());
    hub.fail([Fault::Other(flipped)]);
    let result = store.pull(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::HashMismatch { .. })), "{result:?}");
    hub.fail([Fault::Other(model[1..].to_vec())]);
    let result = store.pull(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::SizeMismatch { .. })), "{result:?}");
    hub.fail([Fault::Other([&model[..], b"!"].concat())]);
    let result = store.pull(&repo_name(), &mut ());
    assert!(matches!(result, Err(Error::BadReply { .. })), "{result:?}");
    assert!(store.list().unwrap().is_empty());
    pull(&store, &model);
    assert!(hub.ranges().iter().all(String::is_empty), "nothing wrong was kept to be continued");
}

#[test]
fn refusals_are_typed_and_not_repeated() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"x")]);
    let dir = tempfile::tempdir().unwrap();
    let store = hub.store(dir.path());
    let ask = |status, header| {
        let before = hub.seen().len();
        hub.fail_info([Fault::Status(status, header)]);
        let error = store.pull(&repo_name(), &mut ()).unwrap_err();
        assert_eq!(hub.seen().len(), before + 1, "{status} is asked once");
        error
    };
    assert!(matches!(ask(401, "x: y"), Error::Denied { status: 401, .. }));
    assert!(matches!(ask(403, "x: y"), Error::Denied { status: 403, .. }));
    assert!(matches!(ask(404, "x: y"), Error::NotFound { .. }));
    assert!(matches!(ask(400, "x: y"), Error::Server { status: 400, .. }));
    assert!(matches!(ask(304, "x: y"), Error::Server { status: 304, .. }));
    let patient = ask(429, "retry-after: 3600");
    assert!(patient.to_string().contains("try again in 3600 s"), "{patient}");
    hub.fail([Fault::Status(404, "x: y")]);
    assert!(matches!(store.pull(&repo_name(), &mut ()), Err(Error::NotFound { .. })));
}

#[test]
fn passing_troubles_are_repeated() {
    let hub = Hub::start(&[("m-Q4_0.gguf", b"x")]);
    hub.fail_info([Fault::Status(429, "retry-after: 0"), Fault::Status(500, "x: y"), Fault::Drop(3)]);
    hub.fail([Fault::Status(429, "x: y"), Fault::Status(502, "x: y")]);
    let dir = tempfile::tempdir().unwrap();
    let mut retries = 0;
    let pulled = hub.store(dir.path()).pull(&repo_name(), &mut |event: &Event<'_>| {
        retries += usize::from(matches!(event, Event::Retry { .. }));
    });
    pulled.unwrap();
    assert_eq!(retries, 5);
}

#[test]
fn two_pullers_download_once() {
    let model = noise(MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pull(&hub.store(dir.path()), &model));
        }
    });
    assert_eq!(hub.ranges(), [""], "one request for the file");
}

#[test]
fn files_of_hugging_faces_own_cache_are_copied() {
    let model = noise(MIB);
    let hub = Hub::start(&[("m-Q4_0.gguf", &model)]);
    let [dir, hf] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let repo = hf.path().join("models--owner--repo-GGUF");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    let cached = snapshot.join("m-Q4_0.gguf");
    fs::write(&cached, &model).unwrap();
    let mut config = hub.config(dir.path());
    config.hf_cache = Some(hf.path().to_owned());
    let store = Store::open(config);
    pull(&store, &model);
    assert!(hub.ranges().is_empty(), "nothing was downloaded");

    // One that is damaged is neither taken nor touched.
    store.remove(&repo_name(), &mut ()).unwrap();
    let damaged = vec![0; MIB];
    fs::write(&cached, &damaged).unwrap();
    pull(&store, &model);
    assert_eq!((hub.ranges().len(), fs::read(&cached).unwrap() == damaged), (1, true));
}
