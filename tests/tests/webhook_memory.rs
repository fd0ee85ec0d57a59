//! The webhook as a program whose memory is bounded: strangers send large reviews, slowly and many at once, and what they are read into is
//! larger still. It keeps within what the chart gives it, and the API server is answered meanwhile.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::asking,
    program::Operator,
    webhook::{CA, Registration, dead_address, sidecar_image},
};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, Client};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(30);
/// The longest review.
const LENGTH: usize = 4 << 20;
/// Strangers, each with an address of its own.
const STRANGERS: u8 = 8;
/// Connections of each that send, and that do not.
const EACH: usize = 12;
const IDLE: usize = 40;
/// A piece of a body that comes slowly, and how slowly.
const PIECE: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(20);
/// Pods that the API server asks for meanwhile.
const PODS: usize = 40;
/// The chart's limit of 128Mi, without a tenth.
const MOST_KIBIBYTES: u64 = 115 << 10;

/// Where the webhook is, and by what it is trusted.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Target {
    async fn read(client: &Client, configuration: &str, address: SocketAddr) -> Result<Self> {
        let found = Api::<MutatingWebhookConfiguration>::all(client.clone()).get(configuration).await?;
        let first = found.webhooks.unwrap_or_default().into_iter().next().context("it has a webhook")?;
        let bundle = first.client_config.ca_bundle.context("it has a CA")?.0;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bundle) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn connect(&self, stranger: u8) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::from([127, 0, 0, 2 + stranger]), 0).into())?;
        let stream = socket.connect(self.address).await?;
        Ok(self.tls.connect(ServerName::try_from("127.0.0.1")?, stream).await?)
    }

    /// A connection that has announced a review of so many bytes.
    async fn announce(&self, stranger: u8, length: usize) -> Result<TlsStream<TcpStream>> {
        let mut stream = self.connect(stranger).await?;
        let head = format!("POST /mutate HTTP/1.1\r\nhost: webhook\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        Ok(stream)
    }

    /// Sends all of a review but its last byte, as slowly as that; returns when the webhook has had enough of it.
    async fn dawdle(&self, stranger: u8) -> Result<()> {
        let (mut reader, mut writer) = tokio::io::split(self.announce(stranger, LENGTH).await?);
        let body = "[0,".repeat(PIECE / 3 + 1);
        let sending = async {
            for _ in 0..LENGTH / PIECE - 1 {
                writer.write_all(&body.as_bytes()[..PIECE]).await?;
                writer.flush().await?;
                tokio::time::sleep(PAUSE).await;
            }
            std::future::pending::<std::io::Result<()>>().await
        };
        let mut byte = [0];
        tokio::select! {
            sent = sending => sent?,
            read = reader.read(&mut byte) => { read?; }
        }
        Ok(())
    }

    async fn come_again(&self, stranger: u8, turned_away: &AtomicUsize) {
        loop {
            // However it ended.
            let _ = self.dawdle(stranger).await;
            turned_away.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(10 * PAUSE).await;
        }
    }

    /// The status of the answer to a review.
    async fn post(&self, stranger: u8, body: &str) -> Result<String> {
        let mut stream = self.announce(stranger, body.len()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok(String::from_utf8_lossy(&head[9..]).into_owned())
    }
}

/// The most that a process had at once.
fn peak(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn admit(namespace: &Namespace) -> Result<()> {
    let pod = namespace.try_pod(&asking("asks")).await?;
    pod.spec.and_then(|spec| spec.init_containers).map(drop).context("the pod was admitted without a sidecar")
}

/// Bodies that are read into much more than they are, and one that would be answered by as much again.
fn heavy(namespace: &str) -> Vec<String> {
    let repeated = |piece: &str, end: &str| piece.repeat((LENGTH - 1 - end.len()) / piece.len()) + end;
    let review = |count: usize| {
        let containers: Value = (0..count).map(|index| json!({"name": format!("c{index}")})).collect();
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "request": {
                "uid": "u",
                "resource": {"group": "", "resource": "pods"},
                "operation": "CREATE",
                "namespace": namespace,
                "object": {
                    "metadata": {"name": "x", "annotations": {"contextmanager.dev/inject": "true", "contextmanager.dev/containers": "none"}},
                    "spec": {"containers": containers},
                },
            },
        })
        .to_string()
    };
    vec![
        format!("[{}", repeated("0,", "0]")),
        format!("[{}", repeated("{},", "0]")),
        format!("[{}", repeated("{\"a\":[0]},", "0]")),
        format!("[{}", repeated("\"\",", "0]")),
        format!("{{{}", repeated("\"a\":0,", "\"b\":0}")),
        review(150_000),
        review(20_000),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_with_large_reviews_take_neither_the_webhooks_memory_nor_the_api_servers_turn() -> Result<()> {
    let client = cluster::client().await?;
    cluster::install_definition(&client).await?;
    let folder = tempfile::tempdir()?;
    let home = Namespace::create(&client, "memory", &[]).await?;
    let (address, image) = (dead_address()?, sidecar_image());
    let registration = Registration::create(&client, &[&home.name], address).await?;
    let arguments = [
        ["--namespace", &home.name],
        ["--webhook-configuration", &home.name],
        ["--ca-secret", CA],
        ["--server-name", "127.0.0.1"],
        ["--sidecar-image", &image],
        ["--address", &address.to_string()],
        ["--pki-poll", "500ms"],
    ];
    let webhook = Operator::start(&[&["webhook"], arguments.as_flattened()].concat(), &folder.path().join("log"))?;
    webhook.ready().await?;
    let namespace = registration.namespace(&client, "admitted", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    eventually("injection", PATIENCE, || admit(&namespace)).await?;
    let target = Target::read(&client, &home.name, address).await?;
    let before = peak(webhook.id())?;

    let mut idle = Vec::new();
    for stranger in (0..STRANGERS).flat_map(|stranger| [stranger; IDLE]) {
        idle.push(target.connect(stranger).await?);
    }
    let (mut strangers, turned_away) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for stranger in (0..STRANGERS).flat_map(|stranger| [stranger; EACH]) {
        let (target, turned_away) = (target.clone(), Arc::clone(&turned_away));
        strangers.spawn(async move { target.come_again(stranger, &turned_away).await });
    }
    eventually("bodies that fill the room", PATIENCE, || async {
        let page = webhook.page("/metrics").await?;
        let held = page.lines().find_map(|line| line.strip_prefix("context_manager_admission_reserved_bytes "));
        let held: f64 = held.context("the metric")?.parse()?;
        ensure!(held > 12e6, "{held} bytes");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    for _ in 0..PODS {
        admit(&namespace).await?;
    }
    let slow = peak(webhook.id())?;

    let mut senders = JoinSet::new();
    for (turn, body) in heavy(&namespace.name).into_iter().enumerate() {
        for stranger in 0..STRANGERS {
            let (target, body) = (target.clone(), body.clone());
            senders.spawn(async move { (turn, target.post(stranger, &body).await) });
        }
    }
    let heavy = async {
        let mut statuses = vec![];
        while let Some(sent) = senders.join_next().await {
            let (turn, status) = sent?;
            // One whose body is not waited for may not hear why.
            statuses.push((turn, status.unwrap_or_else(|error| format!("{error}"))));
        }
        statuses.sort();
        Ok::<_, anyhow::Error>(statuses)
    };
    let meanwhile = async {
        for _ in 0..PODS {
            admit(&namespace).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (statuses, meanwhile) = tokio::join!(heavy, meanwhile);
    meanwhile?;
    let (statuses, peak) = (statuses?, peak(webhook.id())?);
    println!("{before} KiB before, {slow} with slow bodies, {peak} with heavy ones; {statuses:?}");
    ensure!(statuses.iter().any(|(_, status)| status == "413"), "nothing was too large: {statuses:?}");
    ensure!(turned_away.load(Ordering::Relaxed) > 0, "nobody had to make way");
    strangers.shutdown().await;
    drop(idle);
    ensure!(peak <= MOST_KIBIBYTES, "{peak} KiB of {MOST_KIBIBYTES}");
    admit(&namespace).await
}
