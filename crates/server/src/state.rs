//! What every request handler can reach.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::auth::Caller;
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::generation::Running;
use crate::guard::Guard;
use crate::reading::Reading;
use crate::registry::{Lease, Model, Registry};

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
        Self { config, guard, registry, metrics, stopping, draining, places }
    }

    /// Gives the request a place and its model.
    ///
    /// # Errors
    /// 429 when all places are taken; whatever [`Registry::acquire`] says.
    pub(crate) async fn admit(&self, model: Option<&str>) -> Result<Admitted> {
        let deadline = Deadline { at: Instant::now() + self.config.timeout, limit: self.config.timeout };
        self.registry.resolve(model)?;
        let permit = self.places.clone().try_acquire_owned().map_err(|_| ApiError::overloaded())?;
        let lease = self.registry.acquire(model).await?;
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
    /// As [`admit`](Self::admit), what `build` says, and what the engine says of the requests.
    pub(crate) async fn start(
        &self,
        caller: &Caller,
        model: Option<&str>,
        build: impl FnOnce(&Model) -> Result<Vec<Ask>> + Send + 'static,
    ) -> Result<Running> {
        let admitted = self.admit(model).await?;
        let asks = self.compute(&admitted.lease, build).await?;
        let mut generations = Vec::new();
        let mut prompts = Vec::new();
        let mut reading = Reading::default();
        for mut ask in asks {
            reading = ask.reading;
            ask.request.cache_salt = caller.salt;
            prompts.push(ask.request.prompt.len());
            generations.extend(admitted.lease.engine.submit_choices(ask.request, ask.n)?);
        }
        let mut running = Running::new(admitted, generations, prompts, reading, self.stopping.clone());
        running.wait_for_first().await?;
        Ok(running)
    }
}
