//! Where spans and log lines go: to standard error, and to a collector.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use ureq::tls::{RootCerts, TlsConfig};

use crate::args::LogFormat;

/// How long a collector may take to answer.
const EXPORT_TIME: Duration = Duration::from_secs(10);

/// Sends the last spans when it is dropped.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Shows the log on standard error, and sends spans to the collector at `otlp`.
pub fn start(format: LogFormat, otlp: Option<&str>) -> Result<Telemetry> {
    let provider = otlp.map(exporting).transpose().context("--otlp")?;
    let tracer = provider.as_ref().map(|provider| provider.tracer("quarrel"));
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false)
    });
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(LevelFilter::INFO).with(spans);
    match format {
        LogFormat::Text => registry.with(log.with_ansi(std::io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(log.with_ansi(false).json()).init(),
    }
    Ok(Telemetry { provider })
}

fn exporting(url: &str) -> Result<SdkTracerProvider> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        bail!("`{url}` should be the address of a collector, such as http://localhost:4318");
    };
    // The path that the protocol has, unless another is given.
    let base = url.trim_end_matches('/');
    let has_path = rest.trim_end_matches('/').contains('/');
    let endpoint = if has_path { url.to_owned() } else { format!("{base}/v1/traces") };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new())
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIME)
        .build()?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("quarrel").with_attribute(version).build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // The client has told of failures already.
        let _ = self.provider.take().map(|provider| provider.shutdown());
    }
}

/// Posts to the collector, on the exporter's own thread, which may wait.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    /// Whether the last post failed, so that each failure is told once.
    failing: AtomicBool,
}

impl Client {
    fn new() -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(EXPORT_TIME))
            .http_status_as_error(false)
            .max_redirects(0)
            .build();
        Self { agent: config.into(), failing: AtomicBool::new(false) }
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.agent.run(request.map(|body| body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.post(request);
        let reason = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match (self.failing.swap(reason.is_some(), Ordering::Relaxed), reason) {
            (false, Some(reason)) => {
                tracing::warn!(reason, "the collector takes no traces; they are dropped")
            }
            (true, None) => tracing::info!("the collector takes traces again"),
            _ => {}
        }
        answer
    }
}
