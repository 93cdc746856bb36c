//! TLS with a server whose certificate nobody checks (`cert_reqs = CERT_NONE`).

use std::io;
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::stream::read;
use crate::tls::Tls;

/// A connector that takes every certificate. It still shows our own.
pub(super) fn everybody(tls: &Tls) -> io::Result<RustlsConnector> {
    let invalid = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Everybody(provider)));
    let config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let pem = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:?}"));
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(pem)?;
            builder
                .with_client_auth_cert(chain.map_err(pem)?, key)
                .map_err(invalid)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(config.into())
}

/// Believes that every certificate is the right one. That the server has the key of the certificate is checked.
#[derive(Debug)]
struct Everybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Everybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
