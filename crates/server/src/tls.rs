//! TLS by rustls, from PEM text.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;
use crate::serve::Error;

/// What greets connections.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, Error> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| Error::Tls(format!("{what}: {error}"));
    let certificates = CertificateDer::pem_slice_iter(&files.certificates)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong("the certificate", &error))?;
    if certificates.is_empty() {
        return Err(Error::Tls("there is no certificate in the file".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| wrong("the private key", &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("the protocol", &error))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| wrong("certificate and key", &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
