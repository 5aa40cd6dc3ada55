//! What every request handler can reach.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::auth::Caller;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::generation::Running;
use crate::guard::Guard;
use crate::reading::Reading;
use crate::registry::{Lease, Model, Registry};

/// Models that may be fetched at once.
const MAX_PULLS: usize = 2;

/// The server.
pub struct Server {
    pub(crate) config: Config,
    pub(crate) guard: Guard,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: PrometheusHandle,
    /// Turns true when running requests must end.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Turns true when no new requests should come.
    pub(crate) draining: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    pub(crate) pull_places: Arc<Semaphore>,
}

/// A place among the requests that are worked on, the model, and the time left.
pub(crate) struct Admitted {
    pub lease: Lease,
    pub permit: OwnedSemaphorePermit,
    pub deadline: Deadline,
}

/// When a request must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub at: Instant,
    pub limit: Duration,
}

/// One engine request, how many replies it gets, and how they are taken apart.
pub(crate) struct Ask {
    pub request: engine::Request,
    pub n: usize,
    pub reading: Reading,
}

impl Server {
    pub(crate) fn new(
        config: Config,
        guard: Guard,
        registry: Arc<Registry>,
        metrics: PrometheusHandle,
        stopping: watch::Receiver<bool>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS)));
        let pull_places = Arc::new(Semaphore::new(MAX_PULLS));
        Self { config, guard, registry, metrics, stopping, draining, places, pull_places }
    }

    /// Gives the request a place and its model.
    ///
    /// # Errors
    /// 429 when all places are taken; whatever [`Registry::acquire`] says.
    pub(crate) async fn admit(&self, model: Option<&str>) -> Result<Admitted> {
        let deadline = Deadline { at: Instant::now() + self.config.timeout, limit: self.config.timeout };
        let listed = self.registry.resolve(model)?;
        let turned_away = |_| ApiError::overloaded().or_retry_after(listed.next_place());
        let permit = self.places.clone().try_acquire_owned().map_err(turned_away)?;
        let lease = self.registry.acquire(model).await?;
        let span = tracing::Span::current();
        span.record("model", &lease.name);
        span.set_attribute("gen_ai.request.model", lease.name.clone());
        Ok(Admitted { lease, permit, deadline })
    }

    /// Runs `work`, which may take a while, where it holds nobody up.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        lease: &Lease,
        work: impl FnOnce(&Model) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let model = lease.model();
        tokio::task::spawn_blocking(move || work(&model)).await.unwrap_or_else(|_| Err(ApiError::internal()))
    }

    /// Starts what `build` makes of the model: rendering and encoding included.
    ///
    /// # Errors
    /// As [`admit`](Self::admit), what `build` says, 503 when they could not start in time, and what
    /// the engine says of the requests.
    pub(crate) async fn start(
        &self,
        caller: &Caller,
        model: Option<&str>,
        build: impl FnOnce(&Model) -> Result<Vec<Ask>> + Send + 'static,
    ) -> Result<Running> {
        let admitted = self.admit(model).await?;
        let asks = self.compute(&admitted.lease, build).await?;
        let patience = self.patience(&admitted)?;
        let mut generations = Vec::new();
        let mut prompts = Vec::new();
        let mut reading = Reading::default();
        for mut ask in asks {
            reading = ask.reading;
            ask.request.cache_salt = caller.salt;
            ask.request.start_within = Some(patience);
            prompts.push(ask.request.prompt.len());
            let submitted = admitted.lease.engine.submit_choices(ask.request, ask.n).map_err(ApiError::from);
            generations.extend(submitted.map_err(|error| error.or_retry_after(admitted.lease.next_place()))?);
        }
        let mut running = Running::new(admitted, generations, prompts, reading, self.stopping.clone());
        running.wait_for_first().await.map_err(|error| error.or_retry_after(running.lease.wait()))?;
        Ok(running)
    }

    /// How long the request may wait to start.
    ///
    /// # Errors
    /// 503 when, at the pace of late, it would wait longer: better to say so now than then.
    fn patience(&self, admitted: &Admitted) -> Result<Duration> {
        let left = admitted.deadline.at.saturating_duration_since(Instant::now());
        let patience = self.config.queue_time.min(left);
        match admitted.lease.wait() {
            wait if wait > patience => Err(ApiError::would_wait(patience).or_retry_after(wait - patience)),
            _ => Ok(patience),
        }
    }
}
