//! `quarrel serve`: models over HTTP.

mod source;
mod telemetry;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use server::{Bound, Config, Keys, LoadError, Pulls, Registry, Residency, TlsFiles};

use crate::args::{NetworkArgs, ServeArgs};
use crate::device::{self, Device};
use crate::{environment, loading, output};

/// Serves until told to end.
pub fn run(args: ServeArgs) -> Result<()> {
    loading::check(&args.load)?;
    let address = address(&args.network)?;
    let device = device::choose(&args.load, args.parallel.into())?;
    let config = config(&args, &device)?;
    let insecure = args.network.insecure;
    let _telemetry = telemetry::start(args.network.log_format, args.network.otlp.as_deref())?;
    server::install_metrics();
    let residency = Residency {
        idle: args.idle_unload.map(Duration::from_secs),
        budget: args.memory.map(|gib| gib << 30),
    };
    let served = server::serve(address, config, insecure, |bound: &Bound| {
        let registry = Registry::new(source::all(&args, &device)?, residency)?;
        registry.preload()?;
        let names = registry.names().join(", ");
        output::say(&format!("serving {names} at {}://{}", bound.scheme(), bound.address()));
        Ok(registry)
    });
    served.map_err(|error| with_files(error, &args.network))
}

/// Says which files a complaint about certificates is about.
fn with_files(error: anyhow::Error, network: &NetworkArgs) -> anyhow::Error {
    match (error.downcast_ref(), &network.tls_cert, &network.tls_key) {
        (Some(server::Error::Tls(_)), Some(certificates), Some(key)) => {
            let files = format!("--tls-cert {}, --tls-key {}", certificates.display(), key.display());
            error.context(files)
        }
        _ => error,
    }
}

/// Lets callers fetch models into the cache, and serves them as the others are.
fn pulls(args: &ServeArgs, device: &Device) -> Result<Pulls> {
    let store = loading::store().context("--allow-pull")?;
    let (args, device) = (args.clone(), device.clone());
    let open = move |resolved: &store::Resolved| {
        source::pulled(&args, &device, resolved).map_err(|error| LoadError(output::explain(&error)))
    };
    Ok(Pulls { store, open: Box::new(open) })
}

fn address(args: &NetworkArgs) -> Result<SocketAddr> {
    let host = args.host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, args.port).to_socket_addrs();
    let found = found.with_context(|| format!("--host {}: no such address", args.host))?.next();
    found.with_context(|| format!("--host {}: no such address", args.host))
}

fn config(args: &ServeArgs, device: &Device) -> Result<Config> {
    let network = &args.network;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut keys = Keys::default();
    if let Some(path) = &network.api_key_file {
        let text =
            String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))?;
        keys = keys.and(Keys::parse(&text).with_context(|| path.display().to_string())?);
    }
    if let Some(text) = environment::api_keys() {
        keys = keys.and(Keys::parse(&text).context("QUARREL_API_KEYS")?);
    }
    let tls = match (&network.tls_cert, &network.tls_key) {
        (Some(certificates), Some(key)) => {
            Some(TlsFiles { certificates: read(certificates)?, key: read(key)? })
        }
        _ => None,
    };
    Ok(Config {
        keys,
        allowed_hosts: network.allow_host.clone(),
        allowed_origins: network.allow_origin.clone(),
        max_requests: args.max_requests as usize,
        timeout: Duration::from_secs(network.timeout),
        queue_time: Duration::from_secs(network.queue_time),
        drain: Duration::from_secs(network.drain),
        tls,
        pulls: network.allow_pull.then(|| pulls(args, device)).transpose()?,
        ..Config::default()
    })
}
