//! What the webhook serves, compared with what the API server trusts.
//!
//! The certificate is taken from a real TLS handshake: with a URL over a connection of this machine, with a Service through a port that the
//! API server forwards. Nothing is sent after the handshake, so this may be done at any time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use context_manager_operator::pods;
use context_manager_protocol::hexadecimal::hexadecimal;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ServiceReference, WebhookClientConfig},
        core::v1::{Pod, Service},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{ResourceExt as _, api::ListParams};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::Digest as _;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    cluster::{Cluster, call},
    error::Error,
};

/// Longest wait for a handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// The certificates of a PEM bundle.
pub(crate) fn bundle(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// When a certificate ends.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Result<Timestamp, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|error| error.to_string())
}

/// The SHA-256 of a certificate, in hexadecimal.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hexadecimal(&sha2::Sha256::digest(certificate.as_ref()))
}

/// The name by which the API server knows the webhook.
pub(crate) fn server_name(config: &WebhookClientConfig) -> String {
    match (&config.service, &config.url) {
        (Some(service), _) => server_name_of(service),
        (None, Some(url)) => host(url),
        (None, None) => String::new(),
    }
}

fn host(url: &str) -> String {
    let uri = url.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// Whether a bundle verifies a chain under a name; why not, in words.
pub(crate) fn verify(pem: &[u8], chain: &[CertificateDer<'_>], name: &str, now: Timestamp) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle(pem));
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
        .map_err(|_| "the caBundle is empty".to_owned())?;
    let name = ServerName::try_from(name).map_err(|error| format!("{name:?} is not a host name ({error})"))?;
    let [leaf, rest @ ..] = chain else { return Err("no certificate is served".to_owned()) };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()));
    verifier.verify_server_cert(leaf, rest, &name, &[], now).map(drop).map_err(|error| error.to_string())
}

/// What is served at the place that the API server calls. With a Service this is one of its ready pods.
pub(crate) async fn served(
    cluster: &Cluster,
    config: &WebhookClientConfig,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    match (&config.service, &config.url) {
        (Some(service), _) => by_service(cluster, service).await,
        (None, Some(url)) => by_url(url).await,
        (None, None) => {
            Err(Error::Refused("the entry names neither a Service nor a URL; install the chart again".to_owned()))
        }
    }
}

async fn by_url(url: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |what: String| Error::Refused(format!("failed to connect to {url} from here: {what}"));
    let port = url.parse::<http::Uri>().ok().and_then(|uri| uri.port_u16()).unwrap_or(443);
    let host = host(url);
    let connect = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host.as_str(), port))).await;
    let stream =
        connect.map_err(|_| failed("no answer in time".to_owned()))?.map_err(|error| failed(error.to_string()))?;
    handshake(stream, &host).await.map_err(failed)
}

async fn by_service(cluster: &Cluster, service: &ServiceReference) -> Result<Vec<CertificateDer<'static>>, Error> {
    let ServiceReference { name, namespace, port, .. } = service;
    let action = format!("read the Service {name:?} of namespace {namespace:?}");
    let found = call(&action, "get services", cluster.of::<Service>(namespace).get_opt(name)).await?;
    let spec = found.and_then(|found| found.spec).ok_or_else(|| Error::Missing {
        what: format!("the Service {name:?} of namespace {namespace:?}"),
        remedy: "install the chart again".to_owned(),
    })?;
    let labels: Vec<_> = spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let pods = cluster.of::<Pod>(namespace);
    let action = format!("list the pods of namespace {namespace:?}");
    let found = call(&action, "list pods", pods.list(&ListParams::default().labels(&labels.join(",")))).await?;
    let pod = found.items.into_iter().find(pods::is_ready).ok_or_else(|| Error::Missing {
        what: format!("a ready pod of the Service {name:?}"),
        remedy: format!("look at `kubectl -n {namespace} describe pods` and their logs"),
    })?;
    let wanted = port.unwrap_or(443);
    let target = spec.ports.iter().flatten().find(|port| port.port == wanted).and_then(|port| port.target_port.clone());
    let port = port_of(&pod, target.unwrap_or(IntOrString::Int(wanted)))
        .ok_or_else(|| Error::Refused(format!("the pod {} has no port of the Service {name:?}", pod.name_any())))?;
    let (pod, wanted) = (pod.name_any(), [port]);
    let action = format!("forward a port of the pod {pod}");
    let mut forwarder = call(&action, "create pods/portforward", pods.portforward(&pod, &wanted)).await?;
    let failed = |what: String| Error::Refused(format!("failed to reach the webhook in pod {pod}: {what}"));
    let stream = forwarder.take_stream(port).ok_or_else(|| failed("no stream".to_owned()))?;
    let outcome = handshake(stream, &server_name_of(service)).await.map_err(failed);
    forwarder.abort();
    outcome
}

fn server_name_of(service: &ServiceReference) -> String {
    format!("{}.{}.svc", service.name, service.namespace)
}

fn port_of(pod: &Pod, target: IntOrString) -> Option<u16> {
    match target {
        IntOrString::Int(port) => u16::try_from(port).ok(),
        IntOrString::String(name) => {
            let containers = &pod.spec.as_ref()?.containers;
            let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
            let found = ports.find(|port| port.name.as_deref() == Some(&name))?;
            u16::try_from(found.container_port).ok()
        }
    }
}

/// Shakes hands and remembers the certificates.
async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    name: &str,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let seen = Arc::new(Seen { chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let connect = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    let outcome = tokio::time::timeout(PATIENCE, connect).await.map_err(|_| "no answer in time".to_owned())?;
    let chain = seen.chain.lock().map(|chain| chain.clone()).unwrap_or_default();
    // The chain is known before the handshake is over, and that is all that is wanted.
    match outcome {
        Err(error) if chain.is_empty() => Err(error.to_string()),
        Ok(_) | Err(_) => Ok(chain),
    }
}

/// Takes any certificate, because it is only looked at: [`verify`] judges it afterwards.
#[derive(Debug)]
struct Seen {
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut chain) = self.chain.lock() {
            *chain = std::iter::once(leaf).chain(rest).map(|certificate| certificate.clone().into_owned()).collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_server_name_is_the_services_or_the_urls() {
        let name = |config| server_name(&serde_json::from_value(config).unwrap());
        assert_eq!(name(json!({"service": {"name": "hook", "namespace": "system"}})), "hook.system.svc");
        assert_eq!(name(json!({"url": "https://[::1]:9443/mutate"})), "::1");
    }

    #[test]
    fn a_named_port_is_found_in_the_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "webhook", "ports": [{"name": "https", "containerPort": 10250}]}]}}))
        .unwrap();
        assert_eq!(port_of(&pod, IntOrString::String("https".to_owned())), Some(10250));
        assert_eq!(port_of(&pod, IntOrString::String("other".to_owned())), None);
        assert_eq!(port_of(&pod, IntOrString::Int(8443)), Some(8443));
    }

    #[test]
    fn an_empty_bundle_trusts_nobody() {
        let error = verify(b"", &[], "hook.system.svc", Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(error.contains("caBundle is empty"), "{error}");
    }
}
