//! TLS towards sinks: rustls with the certificates that the operating system trusts, or those of `--tls-ca`. (Towards PostgreSQL libpq
//! does it.)

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::failure::{Failure, sentence};

/// Where the usual systems keep the certificates that they trust. `SSL_CERT_FILE` overrides it.
const PLACES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whom we trust: certificates of authorities, in PEM.
#[derive(Clone, Debug, Default)]
pub struct Trust(Arc<Vec<u8>>);

impl Trust {
    /// Those in a file, or those that the operating system trusts; without any, no server is, and connecting says so.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(file) = file else {
            let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let mut places = named.into_iter().chain(PLACES.iter().map(PathBuf::from));
            let found = places.find_map(|place| std::fs::read(place).ok());
            return Ok(Self(Arc::new(found.unwrap_or_default())));
        };
        let wrong = |why: &str| {
            let what = format!("the certificates in \"{}\" cannot be read", file.display());
            let hint = "Give --tls-ca a file with the certificate of the authority, in PEM.";
            Failure::new(what, sentence(why), hint)
        };
        let pem = std::fs::read(file).map_err(|error| wrong(&error.to_string()))?;
        let first = CertificateDer::pem_slice_iter(&pem).next();
        match first.unwrap_or(Err(rustls::pki_types::pem::Error::NoItemsFound)) {
            Ok(_) => Ok(Self(Arc::new(pem))),
            Err(error) => Err(wrong(&error.to_string())),
        }
    }

    /// For `https`.
    pub fn for_http(&self) -> TlsConfig {
        let certificates: Vec<Certificate<'static>> = parse_pem(&self.0)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(certificates)))
            .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
            .build()
    }

    /// For everything else.
    pub fn for_sockets(&self) -> io::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&self.0).flatten());
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}
