//! A proxy that ends TLS in front of a server without it, and asks who calls: by a client certificate, as service meshes and load
//! balancers do for gRPC.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result};
use context_manager_protocol::hexadecimal::hexadecimal;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// What becomes of a caller without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// It is turned away.
    Refused,
    /// It is turned away, and was not told beforehand which CAs are known here.
    RefusedUntold,
    /// It may pass. One with a certificate of somebody else is turned away all the same.
    LetIn,
}

/// A CA.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// Its certificate.
    pub pem: String,
}

/// The gate; it ends when dropped.
pub struct Gate {
    address: SocketAddr,
    authority: Authority,
    /// What new connections are asked for; a change ends those that are there.
    config: watch::Sender<Arc<ServerConfig>>,
    seen: Arc<Seen>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    certificates: Mutex<Vec<Option<String>>>,
    refused: AtomicUsize,
}

impl Authority {
    /// A CA of this name.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { params, key, pem })
    }

    /// A certificate for `name` and its key in PEM, changed before it is signed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        change(&mut params);
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// What a Secret of the user holds: a new certificate for clients, its key, and this CA.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn given(&self) -> Result<Value> {
        let (certificate, key) = self.sign("agents", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2200, 1, 1);
        })?;
        Ok(json!({"tls.crt": certificate, "tls.key": key, "ca.crt": self.pem}))
    }
}

impl Gate {
    /// Listens in front of `target`, and asks for certificates of a CA that has signed none.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let authority = Authority::new("Servers")?;
        let nobody = Authority::new("Nobody")?;
        let config = settings(&authority, &nobody.pem, Strangers::Refused)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (config, current) = watch::channel(config);
        let seen = Arc::<Seen>::default();
        let mut task = JoinSet::new();
        task.spawn(accept(listener, target, current, Arc::clone(&seen)));
        Ok(Self { address, authority, config, seen, _task: task })
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The CA of its own certificate.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.authority.pem
    }

    /// Ends all connections, and asks for certificates of these CAs from now on.
    ///
    /// # Errors
    /// When there is no CA in it.
    pub fn ask_for(&self, bundle: &str, strangers: Strangers) -> Result<()> {
        self.config.send_replace(settings(&self.authority, bundle, strangers)?);
        Ok(())
    }

    /// Ends all connections. From now on its own certificate is of this CA, and it asks for certificates of those.
    ///
    /// # Errors
    /// When there is no CA in the bundle.
    pub fn rotate(&mut self, own: Authority, bundle: &str) -> Result<()> {
        self.authority = own;
        self.ask_for(bundle, Strangers::Refused)
    }

    /// Ends all connections.
    pub fn disconnect(&self) {
        self.config.send_modify(|_| {});
    }

    /// What was shown by those who passed since the last time: the SHA-256 of the certificate in hexadecimal, or none.
    #[must_use]
    pub fn passed(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.seen.certificates.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many were turned away.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.seen.refused.load(Ordering::Relaxed)
    }
}

fn settings(own: &Authority, bundle: &str, strangers: Strangers) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = match strangers {
        Strangers::Refused => verifier,
        Strangers::RefusedUntold => verifier.clear_root_hint_subjects(),
        Strangers::LetIn => verifier.allow_unauthenticated(),
    };
    let (certificate, key) = own.sign("localhost", |_| {})?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A session that is resumed would show the certificate of the first one.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    config: watch::Receiver<Arc<ServerConfig>>,
    seen: Arc<Seen>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (config, seen) = (config.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            if pass(client, target, config, &seen).await.is_err() {
                seen.refused.fetch_add(1, Ordering::Relaxed);
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    client: TcpStream,
    target: SocketAddr,
    mut config: watch::Receiver<Arc<ServerConfig>>,
    seen: &Seen,
) -> Result<()> {
    let current = Arc::clone(&config.borrow_and_update());
    let mut stream = TlsAcceptor::from(current).accept(client).await?;
    let shown =
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|shown| hexadecimal(&Sha256::digest(shown)));
    seen.certificates.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
    let mut server = TcpStream::connect(target).await.context("the server behind the gate is away")?;
    server.set_nodelay(true)?;
    stream.get_ref().0.set_nodelay(true)?;
    tokio::select! {
        // However a connection ends that was let in, it was not turned away.
        _ = copy_bidirectional(&mut stream, &mut server) => {}
        _ = config.changed() => {}
    }
    Ok(())
}
