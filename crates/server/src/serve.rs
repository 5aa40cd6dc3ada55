//! Listening, connections, and the end of both.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::guard::Guard;
use crate::registry::Registry;
use crate::state::Server;
use crate::{metrics, router, tls};

/// How long a request's header may take, and an idle connection may stay.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long the greeting of TLS may take.
const TLS_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a request's line and headers.
const MAX_HEADER: usize = 64 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 4096;
/// How long streams that were told to end have to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", advice(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Anybody in the network could use the models.
    #[error(
        "{0} can be reached from other machines: give API keys (--api-key-file, or QUARREL_API_KEYS), \
         or allow everybody with --insecure"
    )]
    NoKeys(SocketAddr),
    /// Certificate or key are no good.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system refuses what the server needs.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What to do when an address cannot be listened on.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program, perhaps another server, has this port: choose one with --port (0: any that is free)"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose another with --port",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address: choose one with --host",
        _ => "",
    }
}

/// What asks the server to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Let running requests finish, within the configured time.
    Drain,
    /// End them now.
    Now,
}

/// A server that listens, but does not answer yet.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    config: Config,
}

impl Bound {
    /// Begins to listen. `insecure` allows other machines without a key.
    ///
    /// # Errors
    /// [`Error::NoKeys`], [`Error::Bind`], [`Error::Tls`].
    pub async fn new(address: SocketAddr, config: Config, insecure: bool) -> Result<Self, Error> {
        if !address.ip().is_loopback() && config.keys.is_empty() && !insecure {
            return Err(Error::NoKeys(address));
        }
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let bind = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address, tls, config })
    }

    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Answers until `shutdown` says to end: its first word may be
    /// [`Shutdown::Drain`], a later [`Shutdown::Now`] cuts that short.
    pub async fn run(self, registry: Registry, mut shutdown: watch::Receiver<Option<Shutdown>>) {
        let Self { listener, address, tls, config } = self;
        let (stop, stopping) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let keyed = !config.keys.is_empty() && !address.ip().is_loopback();
        let guard = Guard::new(&config.allowed_hosts, &config.allowed_origins, !keyed);
        let drain_time = config.drain;
        let registry = Arc::new(registry);
        let chores = tokio::spawn(do_chores(registry.clone()));
        let server = Server::new(config, guard, registry, metrics::handle(), stopping, draining);
        let service = TowerToHyperService::new(router::router(Arc::new(server)));
        let graceful = GracefulShutdown::new();
        let mut connections = tokio::task::JoinSet::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accepting = accept_all(&listener, &places, |stream, place| {
            while connections.try_join_next().is_some() {}
            let (service, tls, watcher) = (service.clone(), tls.clone(), graceful.watcher());
            connections.spawn(async move {
                serve_one(stream, tls, service, watcher).await;
                drop(place);
            });
        });
        tokio::select! {
            () = accepting => {}
            _ = shutdown.wait_for(Option::is_some) => {}
        }
        drop(listener);
        let now = *shutdown.borrow() == Some(Shutdown::Now);
        let _ = drain.send(true);
        let mut drained = std::pin::pin!(graceful.shutdown());
        let finished = !now
            && tokio::select! {
                () = &mut drained => true,
                () = tokio::time::sleep(drain_time) => false,
                _ = shutdown.wait_for(|asked| *asked == Some(Shutdown::Now)) => false,
            };
        if !finished {
            let _ = stop.send(true);
            let _ = tokio::time::timeout(FAREWELL, drained).await;
        }
        connections.shutdown().await;
        chores.abort();
    }
}

/// Accepts connections for ever.
async fn accept_all(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    mut take: impl FnMut(TcpStream, OwnedSemaphorePermit),
) {
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => take(stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Service = TowerToHyperService<axum::Router>;
type Watcher = hyper_util::server::graceful::Watcher;

async fn serve_one(stream: TcpStream, tls: Option<TlsAcceptor>, service: Service, watcher: Watcher) {
    // Tokens are small and wanted at once.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = tls else { return converse(stream, service, watcher).await };
    match tokio::time::timeout(TLS_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, service, watcher).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS greeting failed"),
        Err(_) => tracing::debug!("a TLS greeting took too long"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Service,
    watcher: Watcher,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Unloads idle models and keeps the metrics small.
async fn do_chores(registry: Arc<Registry>) {
    let every = registry.idle_check_every().unwrap_or(metrics::UPKEEP).min(metrics::UPKEEP);
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        registry.unload_idle().await;
        metrics::handle().run_upkeep();
    }
}

/// Serves until the process is told to end: SIGINT or SIGTERM drain, a second one ends at once.
/// The models come from `load`, which is called only when nothing else can go wrong: keys,
/// certificates and address have been checked, and the port is taken. Runs a runtime of its own.
///
/// # Errors
/// As [`Bound::new`], and whatever `load` says.
pub fn serve<E: From<Error>>(
    address: SocketAddr,
    config: Config,
    insecure: bool,
    load: impl FnOnce(&Bound) -> Result<Registry, E>,
) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::from)?;
    runtime.block_on(async {
        let bound = Bound::new(address, config, insecure).await?;
        let registry = load(&bound)?;
        let (ask, shutdown) = watch::channel(None);
        let signals = watch_signals(ask).map_err(Error::from)?;
        let watching = tokio::spawn(signals);
        bound.run(registry, shutdown).await;
        watching.abort();
        Ok(())
    })
}

/// Passes the process's signals on.
fn watch_signals(ask: watch::Sender<Option<Shutdown>>) -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        for word in [Shutdown::Drain, Shutdown::Now] {
            #[cfg(unix)]
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            #[cfg(not(unix))]
            let _ = tokio::signal::ctrl_c().await;
            tracing::info!(?word, "was told to end");
            let _ = ask.send(Some(word));
        }
        // Keeps the channel open: a closed one would read as a word.
        std::future::pending::<()>().await;
    })
}
