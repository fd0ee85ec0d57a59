//! Whom a connection trusts, and what it shows, against a server that speaks TLS.

use std::sync::Arc;

use context_manager_qdrant::{Collection, Error, Failure, Identity, Options, Refusal, Trust};
use context_manager_test_qdrant::Tls;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fixture::{Authority, Folder, Running, connect, options};

#[tokio::test]
async fn a_certificate_counts_only_if_one_of_the_trusted_vouches_for_it() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let server = Running::start(|server| server.with_tls(authority.server("localhost"))).await;
    connect(server.encrypted(), folder.bundle(&authority)).open().await.expect("vouched for");
    connect(server.encrypted(), Trust::Anybody).open().await.expect("not looked at");
    let other = Trust::File(folder.put("other.crt", &Authority::new().pem));
    for trust in [other, Trust::WebRoots] {
        let refused = connect(server.encrypted(), trust.clone()).open().await.expect_err("not vouched for");
        assert!(matches!(refused, Error::Distrusted { .. }), "{trust:?}: {refused:?}");
        let message = refused.to_string();
        assert!(message.contains("no CA that is trusted") && message.contains("store.qdrant.ca_file"), "{message}");
    }
    let plain = connect(format!("http://localhost:{}", server.address.port()), Trust::WebRoots).open().await;
    assert!(plain.is_err(), "a TLS server does not speak without");
}

#[tokio::test]
async fn a_certificate_for_another_host_or_time_is_refused_with_the_reason() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let trust = folder.bundle(&authority);
    let served = async |tls: Tls, url: fn(&Running) -> String| {
        let server = Running::start(|server| server.with_tls(tls)).await;
        let unverified = connect(url(&server), Trust::Anybody);
        Box::pin(unverified.open()).await.expect("whoever does not look does not see it");
        let verified = connect(url(&server), trust.clone());
        let refused = Box::pin(verified.open()).await.expect_err("refused");
        assert!(matches!(refused.failure(), Failure::Distrusted(_)), "{refused:?}");
        refused.to_string()
    };
    let message = served(authority.server("elsewhere.example.com"), Running::encrypted).await;
    assert!(message.contains("another host name"), "{message}");
    let by_address = |server: &Running| format!("https://{}", server.address);
    let message = served(authority.server("localhost"), by_address).await;
    assert!(message.contains("another host name"), "{message}");
    for (from, until, said) in [(1990, 2000, "it has expired"), (2990, 3000, "it is not valid yet")] {
        let (certificate, key) = authority.sign("localhost", |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        });
        let message = served(Tls { certificate, key, client_ca: None }, Running::encrypted).await;
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn a_rotated_ca_counts_from_the_next_connection_on() {
    let (first, second, folder) = (Authority::new(), Authority::new(), Folder::new());
    let server = Running::start(|server| server.with_tls(first.server("localhost"))).await;
    let collection = connect(server.encrypted(), folder.bundle(&first));
    collection.open().await.expect("vouched for by the first CA");

    let server = server.restart(|server| server.with_tls(second.server("localhost"))).await;
    let refused = collection.stats().await;
    assert!(matches!(refused, Err(Error::Distrusted { .. })), "{refused:?}");
    folder.put("ca.crt", "-----BEGIN CERTIFICATE-----\nhalf a file");
    let refused = collection.stats().await;
    assert!(matches!(refused, Err(Error::Distrusted { .. })), "the first CA stays in force: {refused:?}");
    folder.bundle(&second);
    collection.stats().await.expect("vouched for by the second CA, without a new client");
    drop(server);
}

#[tokio::test]
async fn a_server_that_asks_who_calls_gets_the_client_certificate() {
    let (authority, callers, folder) = (Authority::new(), Authority::new(), Folder::new());
    let tls = Tls { client_ca: Some(callers.pem.clone()), ..authority.server("localhost") };
    let server = Running::start(|server| server.with_tls(tls)).await;
    let trust = folder.bundle(&authority);
    let anonymous = connect(server.encrypted(), trust.clone()).open().await.expect_err("nobody is let in without one");
    assert_eq!(anonymous.failure(), Failure::Unwelcome(Refusal::NoCertificate), "{anonymous:?}");
    let write = |authority: &Authority| {
        let (certificate, key) = authority.sign("sidecar", |_| {});
        Identity::Files { certificate: folder.put("client.crt", &certificate), key: folder.put("client.key", &key) }
    };
    let as_client = |identity| {
        let options = Options { trust: trust.clone(), identity: Some(identity), ..options(server.encrypted()) };
        Collection::connect(options)
    };
    let collection = as_client(write(&authority)).expect("a certificate");
    let other = collection.open().await.expect_err("signed by another CA than the server asks for");
    assert!(matches!(other, Error::Unwelcome { refusal: Refusal::UnknownAuthority, .. }), "{other:?}");
    write(&Authority::named("another name"));
    let other = collection.open().await.expect_err("of a CA that the server does not name");
    assert!(matches!(other, Error::Unwelcome { refusal: Refusal::OtherAuthorities, .. }), "{other:?}");
    let identity = write(&callers);
    collection.open().await.expect("the new certificate counts from the next connection on");
    folder.put("client.key", "no key");
    let Err(unusable) = as_client(identity) else { unreachable!("there is no key in the file") };
    assert!(matches!(unusable, Error::Identity { .. }) && unusable.is_configuration(), "{unusable}");
}

#[tokio::test]
async fn a_server_that_refuses_the_certificate_is_understood_whatever_it_says_and_when() {
    let (authority, callers, folder) = (Authority::new(), Authority::new(), Folder::new());
    let trust = folder.bundle(&authority);
    let old = |params: &mut rcgen::CertificateParams| {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(1990, 1, 1), rcgen::date_time_ymd(2000, 1, 1));
    };
    let for_servers = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let shown = [
        (None, Refusal::NoCertificate),
        (Some(Authority::named("another name").sign("sidecar", |_| {})), Refusal::UnknownAuthority),
        (Some(Authority::new().sign("sidecar", |_| {})), Refusal::UnknownAuthority),
        (Some(callers.sign("sidecar", old)), Refusal::Expired),
        (Some(callers.sign("sidecar", for_servers)), Refusal::NotTaken),
    ];
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let url = refusing(&authority, &callers, version).await;
        for (shown, refusal) in &shown {
            let identity = shown
                .as_ref()
                .map(|(certificate, key)| Identity::Pem { certificate: certificate.clone(), key: key.as_str().into() });
            let options = Options { trust: trust.clone(), identity, ..options(url.clone()) };
            let collection = Collection::connect(options).expect("usable options");
            // Not once by chance: the alert races the end of the connection.
            for _ in 0..20 {
                let refused = collection.inspect().await.expect_err("refused");
                assert_eq!(refused.failure(), Failure::Unwelcome(*refusal), "{number}: {refused:?}");
            }
        }
    }
}

/// A server that asks for certificates of `callers`, does not say so beforehand, and lets nobody in for long.
async fn refusing(own: &Authority, callers: &Authority, version: &'static SupportedProtocolVersion) -> String {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(callers.pem.as_bytes()).expect("a certificate")).expect("a CA");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let (certificate, key) = own.sign("localhost", |_| {});
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_client_cert_verifier(verifier.clear_root_hint_subjects().build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
        )
        .expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    format!("https://localhost:{port}")
}
