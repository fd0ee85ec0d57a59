//! Servers of this process, and how they are reached.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use context_manager_memory::{
    AgentId, Context, ContextId, Level, TenantId, Timestamp, Vectors, lexical,
    store::{Owner, Point},
};
use context_manager_qdrant::{Collection, Options, Trust};
use context_manager_test_qdrant::{Control, Server, Tls};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

pub const DIMENSIONS: usize = 4;
pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A server on a port of this machine.
pub struct Running {
    pub address: SocketAddr,
    pub control: Control,
    pub directory: TempDir,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(change: impl FnOnce(Server) -> Server) -> Self {
        let directory = TempDir::new().expect("a directory");
        Self::start_in(directory, TcpListener::bind("127.0.0.1:0").await.expect("a port"), change)
    }

    fn start_in(directory: TempDir, listener: TcpListener, change: impl FnOnce(Server) -> Server) -> Self {
        let server = change(Server::open(directory.path().to_owned()).expect("a server"));
        let (address, control) = (listener.local_addr().expect("an address"), server.control());
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ended = async { ended.await.unwrap_or_default() };
            server.serve(listener, ended).await.expect("served");
        });
        Self { address, control, directory, end, task }
    }

    /// The same collections on the same port, served anew.
    pub async fn restart(self, change: impl FnOnce(Server) -> Server) -> Self {
        let Self { address, control: _, directory, end, task } = self;
        end.send(()).expect("it runs");
        task.await.expect("ended in order");
        Self::start_in(directory, TcpListener::bind(address).await.expect("the same port"), change)
    }

    pub fn plain(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn encrypted(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

/// Options that a slow machine does not make fail.
pub fn options(url: String) -> Options {
    Options { timeout: Duration::from_secs(10), ..Options::new(url, "memory", DIMENSIONS, "model") }
}

pub fn connect(url: String, trust: Trust) -> Collection {
    Collection::connect(Options { trust, ..options(url) }).expect("usable options")
}

/// A CA in a file.
pub struct Authority {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("Authority")
    }

    /// The same with a name of its own; servers name the CAs whose certificates they take.
    pub fn named(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { params, key, pem }
    }

    /// A certificate for `name` and its key, changed before it is signed.
    pub fn sign(&self, name: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let certificate = params.signed_by(&key, &rcgen::Issuer::from_params(&self.params, &self.key));
        (certificate.expect("a certificate").pem(), key.serialize_pem())
    }

    /// What a server called `name` shows.
    pub fn server(&self, name: &str) -> Tls {
        let (certificate, key) = self.sign(name, |_| {});
        Tls { certificate, key, client_ca: None }
    }
}

/// A folder with files in it.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    pub fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    pub fn bundle(&self, authority: &Authority) -> Trust {
        Trust::File(self.put("ca.crt", &authority.pem))
    }
}

pub fn owner() -> Owner {
    Owner::new(TenantId::new("t").expect("a name"), AgentId::new("a").expect("a name"))
}

pub fn id(number: u16) -> ContextId {
    ContextId::new(uuid::Uuid::from_u128(u128::from(number) + 1))
}

pub fn point(number: u16, level: Level, text: &str) -> Point {
    let Owner { tenant, holder } = owner();
    let context = Context::new(id(number), tenant, holder, level, text, NOW);
    let terms = lexical::Bm25::default().document(text);
    let dense = Some(vec![1.0, f32::from(number), 0.0, 0.0]);
    let vectors =
        Vectors { dense_self: dense.clone(), dense_ctx: dense, sparse_self: terms.clone(), sparse_ctx: terms };
    Point { context, vectors }
}
