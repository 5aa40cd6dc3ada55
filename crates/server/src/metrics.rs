//! The recorder that keeps what engine and server count.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::access;

/// Upper ends of the histograms' buckets for times, in seconds.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// And for numbers of rows and sequences.
const NUMBERS: [f64; 12] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// How often what was recorded is folded into the buckets.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder of this process, once: call it before an engine
/// starts, since an engine's figures go to the recorder that it finds.
pub fn install_metrics() {
    handle();
}

/// The recorder's handle. Where another recorder is installed already, ours stays empty.
pub(crate) fn handle() -> PrometheusHandle {
    HANDLE.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Prefix("quarrel_batch".into()), &NUMBERS))
        .expect("the lists of buckets are not empty");
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder of metrics is installed; /metrics stays empty");
    }
    for (name, meaning) in engine::metrics::DESCRIPTIONS {
        if name.ends_with("_total") {
            describe_counter!(name, meaning);
        } else if name.ends_with("_seconds") || name.starts_with("quarrel_batch") {
            describe_histogram!(name, meaning);
        } else {
            describe_gauge!(name, meaning);
        }
    }
    describe_counter!(access::REQUESTS, "HTTP requests by route, method and status");
    describe_histogram!(access::SECONDS, "Seconds from a request to the beginning of its answer");
    handle
}
