//! The certificates of the webhook, with lifetimes of seconds: two replicas as processes behind what a Service is, called by the real API
//! server without a pause, while leaves and CAs change, the controller is stopped and killed, and a replica is stopped and killed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use context_manager_protocol::names;
use context_manager_tests::{
    cluster::{self, Namespace, eventually},
    objects::asking,
    operator::{HOME, make_home},
    program::{Operator, page},
    proxy::Proxy,
    webhook::{Registration, dead_address, sidecar_image},
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::{sync::RwLock, task::JoinSet};

const SECRET: &str = "webhook-ca";
const PATIENCE: Duration = Duration::from_secs(30);
/// How often readiness is looked at.
const PROBE: Duration = Duration::from_millis(200);
/// What a pod's preStop hook is for: until then nobody sends new connections to a replica that is to end.
const PRE_STOP: Duration = Duration::from_secs(1);
const SENDERS: usize = 3;
/// How long the test takes.
const LONG: Duration = Duration::from_secs(90);

/// Two replicas behind a forwarder that gives new connections to ready ones.
struct Replicas {
    running: Vec<Operator>,
    addresses: Vec<SocketAddr>,
    service: Arc<Proxy>,
    endpoints: JoinSet<()>,
    registration: Registration,
    /// The namespace of the CA.
    home: Namespace,
}

impl Replicas {
    /// `home` is the namespace of the Secret.
    async fn start(client: &Client, home: Namespace, folder: &Path, flags: &[&str]) -> Result<Self> {
        cluster::install_definition(client).await?;
        let service = Arc::new(Proxy::balanced(Vec::new()).await?);
        let registration = Registration::create(client, &[&home.name], service.address()).await?;
        let (mut running, mut addresses) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let address = dead_address()?;
            let (image, at) = (sidecar_image(), address.to_string());
            let arguments = [
                ["--namespace", &home.name],
                ["--webhook-configuration", &home.name],
                ["--ca-secret", SECRET],
                ["--server-name", "127.0.0.1"],
                ["--sidecar-image", &image],
                ["--address", &at],
                ["--instance", name],
            ];
            let arguments = [&["webhook"], arguments.as_flattened(), flags].concat();
            running.push(Operator::start(&arguments, &folder.join(name))?);
            addresses.push(address);
        }
        let mut endpoints = JoinSet::new();
        let places = running.iter().map(|replica| replica.admin).zip(addresses.iter().copied()).collect();
        endpoints.spawn(follow(Arc::clone(&service), places));
        let replicas = Self { running, addresses, service, endpoints, registration, home };
        for replica in &replicas.running {
            replica.ready().await?;
        }
        Ok(replicas)
    }

    /// A namespace with a resource, whose pods are injected.
    async fn namespace(&self, client: &Client) -> Result<Namespace> {
        let namespace = self.registration.namespace(client, "admitted", &[]).await?;
        namespace.make_resource("memory", json!({})).await?;
        eventually("injection", PATIENCE, || async { admit(&namespace).await }).await?;
        Ok(namespace)
    }

    /// Starts a replica again that has ended.
    async fn again(&mut self, which: usize) -> Result<()> {
        let replica = self.running.remove(which).again()?;
        replica.ready().await?;
        self.running.insert(which, replica);
        Ok(())
    }

    /// How often something stands in the replicas' logs.
    fn logged(&self, what: &str) -> usize {
        self.running.iter().map(|replica| replica.logged().matches(what).count()).sum()
    }
}

/// Keeps the targets of the forwarder to the replicas that say that they are ready.
async fn follow(service: Arc<Proxy>, places: Vec<(SocketAddr, SocketAddr)>) {
    loop {
        let mut ready = Vec::new();
        for (admin, address) in &places {
            if page(*admin, "/readyz").await.is_ok() {
                ready.push(*address);
            }
        }
        service.set_targets(ready);
        tokio::time::sleep(PROBE).await;
    }
}

/// Asks the API server what becomes of a pod; it has to get its sidecar.
async fn admit(namespace: &Namespace) -> Result<()> {
    let pod: Pod = namespace.try_pod(&asking("asks")).await?;
    let injected = pod.spec.and_then(|spec| spec.init_containers).is_some();
    ensure!(injected, "it was admitted without a sidecar");
    Ok(())
}

/// Admissions that are asked for without a pause.
struct Load {
    stop: Arc<AtomicBool>,
    /// Held by each request in flight, and as a whole by who wants none in flight.
    gate: Arc<RwLock<()>>,
    tasks: JoinSet<(usize, Vec<String>)>,
}

impl Load {
    fn start(namespace: &Arc<Namespace>) -> Self {
        let (stop, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(RwLock::new(())));
        let mut tasks = JoinSet::new();
        for _ in 0..SENDERS {
            let (namespace, stop, gate) = (Arc::clone(namespace), Arc::clone(&stop), Arc::clone(&gate));
            tasks.spawn(async move {
                let (mut admitted, mut refused) = (0, Vec::new());
                while !stop.load(Ordering::Acquire) {
                    let _in_flight = gate.read().await;
                    match admit(&namespace).await {
                        Ok(()) => admitted += 1,
                        Err(error) => refused.push(format!("{} {error:#}", jiff::Timestamp::now())),
                    }
                }
                (admitted, refused)
            });
        }
        Self { stop, gate, tasks }
    }

    async fn stop(mut self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Release);
        let (mut admitted, mut refused) = (0, Vec::new());
        while let Some(sender) = self.tasks.join_next().await {
            let (more, errors) = sender?;
            admitted += more;
            refused.extend(errors);
        }
        Ok((admitted, refused))
    }
}

/// How many different bundles the API server was given.
async fn count_bundles(client: Client, configuration: String, seen: Arc<Mutex<Vec<String>>>) {
    let api = Api::<MutatingWebhookConfiguration>::all(client);
    loop {
        if let Ok(found) = api.get(&configuration).await {
            let bundle = found.webhooks.into_iter().flatten().find_map(|entry| entry.client_config.ca_bundle);
            let bundle = bundle.map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned()).unwrap_or_default();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.last() != Some(&bundle) {
                seen.push(bundle);
            }
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// A controller under a lease of the suite's own.
async fn controller(client: &Client, configuration: &str, folder: &Path) -> Result<Operator> {
    make_home(client).await?;
    let arguments = [
        ["--namespace", HOME],
        ["--webhook-configuration", configuration],
        ["--instance", "certificates"],
        ["--lease-duration", "6s"],
        ["--sweep", "off"],
    ];
    let controller =
        Operator::start(&[&["controller"], arguments.as_flattened()].concat(), &folder.join("controller"))?;
    controller.ready().await?;
    Ok(controller)
}

/// A CA lives for 24 s, gets a successor 8 s after it was made, and a leaf lives for 3 s.
const SECONDS: [&str; 12] = [
    "--ca-lifetime",
    "24s",
    "--ca-renew-before",
    "16s",
    "--ca-grace",
    "2s",
    "--leaf-lifetime",
    "3s",
    "--pki-poll",
    "500ms",
    "--connection-age",
    "1s",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_dozens_of_times_and_no_pod_is_refused() -> Result<()> {
    let started = Instant::now();
    let client = cluster::client().await?;
    let folder = tempfile::tempdir()?;
    let home = Namespace::create(&client, "certificates", &[]).await?;
    let mut replicas = Replicas::start(&client, home, folder.path(), &SECONDS).await?;
    let namespace = Arc::new(replicas.namespace(&client).await?);
    let mut controller = controller(&client, &replicas.home.name, folder.path()).await?;
    let bundles = Arc::new(Mutex::new(Vec::new()));
    let mut watching = JoinSet::new();
    watching.spawn(count_bundles(client.clone(), replicas.home.name.clone(), Arc::clone(&bundles)));
    let load = Load::start(&namespace);

    let pause = || tokio::time::sleep(Duration::from_secs(8));
    pause().await;
    controller.terminate()?;
    controller = controller.again()?;
    pause().await;
    controller.kill()?;
    controller = controller.again()?;
    pause().await;
    // A replica is stopped as a kubelet does it: it gets no new connections any more, and then its signal.
    let [_, other] = replicas.addresses[..] else { anyhow::bail!("there are two replicas") };
    replicas.endpoints.abort_all();
    replicas.service.set_targets(vec![other]);
    tokio::time::sleep(PRE_STOP).await;
    replicas.running[0].terminate()?;
    replicas.again(0).await?;
    let places = replicas.running.iter().map(|replica| replica.admin).zip(replicas.addresses.iter().copied()).collect();
    replicas.endpoints.spawn(follow(Arc::clone(&replicas.service), places));
    pause().await;
    // What is in flight when a process is killed is lost with it, so nothing is. The new process is sent to at once, as a Service does
    // that has not noticed anything yet.
    {
        let _nothing_in_flight = load.gate.write().await;
        replicas.running[1].kill()?;
        let replica = replicas.running.remove(1).again()?;
        replicas.running.insert(1, replica);
        eventually("the socket of the new process", PATIENCE, || tokio::net::TcpStream::connect(replicas.addresses[1]))
            .await?;
        replicas.service.set_targets(vec![replicas.addresses[1]]);
    }
    pause().await;
    // The Secret vanishes, and somebody asks for a CA.
    replicas.home.api::<Secret>().delete(SECRET, &DeleteParams::default()).await?;
    pause().await;
    let ask = Patch::Merge(json!({"metadata": {"annotations": {names::ROTATE: "now"}}}));
    replicas.home.api::<Secret>().patch(SECRET, &PatchParams::default(), &ask).await?;
    while started.elapsed() < LONG {
        tokio::time::sleep(PROBE).await;
    }

    let (admitted, refused) = load.stop().await?;
    controller.page("/healthz").await?;
    let leaves = replicas.logged("Serving a new certificate");
    let bundles = bundles.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let authorities: BTreeSet<_> =
        bundles.iter().flat_map(|bundle| bundle.split_inclusive("-----END CERTIFICATE-----\n")).collect();
    let (authorities, bundles) = (authorities.len(), bundles.len());
    let handshakes = replicas.service.connections();
    println!(
        "{leaves} leaves, {authorities} CAs, {bundles} bundles, {handshakes} connections in {:?}: {} of {} refused",
        started.elapsed(),
        refused.len(),
        admitted + refused.len(),
    );
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    ensure!(leaves >= 65 && authorities >= 5 && bundles >= 10, "too little has changed");
    ensure!(handshakes >= 100, "the API server did not look at the certificates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_nobody_trusts_lets_nobody_in_and_says_why() -> Result<()> {
    let client = cluster::client().await?;
    let folder = tempfile::tempdir()?;
    let home = Namespace::create(&client, "untrusted", &[]).await?;
    let address = dead_address()?.to_string();
    let image = sidecar_image();
    let arguments = [
        ["--namespace", &home.name],
        ["--webhook-configuration", &home.name],
        ["--ca-secret", SECRET],
        ["--server-name", "127.0.0.1"],
        ["--sidecar-image", &image],
        ["--address", &address],
        ["--pki-poll", "500ms"],
    ];
    let replica = Operator::start(&[&["webhook"], arguments.as_flattened()].concat(), &folder.path().join("log"))?;
    let why = eventually("a reason", PATIENCE, || async {
        let said = replica.page("/readyz").await.err().context("it is ready")?.to_string();
        said.contains("MutatingWebhookConfiguration").then_some(()).context(said)
    });
    why.await?;
    ensure!(!replica.logged().contains("Serving admission reviews"), "it lets everybody in");
    let registration = Registration::create(&client, &[&home.name], address.parse()?).await?;
    replica.ready().await?;
    let namespace = registration.namespace(&client, "admitted", &[]).await?;
    namespace.make_resource("memory", json!({})).await?;
    eventually("injection", PATIENCE, || async { admit(&namespace).await }).await
}

/// A certificate of somebody else's CA, until the year that is given.
struct Made {
    authority: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Made {
    fn authority(name: &str) -> Result<Self> {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let authority = params.self_signed(&key)?.pem();
        Ok(Self { authority, issuer: Issuer::new(params, key) })
    }

    /// What a Secret with a certificate of it holds.
    fn secret(&self, year: i32) -> Result<Value> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(json!({"tls.crt": certificate, "tls.key": key.serialize_pem(), "ca.crt": self.authority}))
    }
}

/// Waits until both replicas serve what ends with that year.
async fn served(replicas: &Replicas, year: i16) -> Result<()> {
    let ends = jiff::civil::date(year, 1, 1).to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_second();
    let metric = "context_manager_webhook_certificate_not_after_timestamp_seconds{certificate=\"leaf\"}";
    for replica in &replicas.running {
        eventually("the given certificate", PATIENCE, || async {
            let metrics = replica.page("/metrics").await?;
            let shown = metrics.lines().find_map(|line| line.strip_prefix(metric)).context("no leaf")?.trim();
            ensure!(shown == ends.to_string(), "it ends at {shown} and not at {ends}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_somebody_else_is_served_and_each_change_of_it_refuses_no_pod() -> Result<()> {
    let client = cluster::client().await?;
    let folder = tempfile::tempdir()?;
    let home = Namespace::create(&client, "existing", &[]).await?;
    let mut made = Made::authority("first")?;
    let secret = json!({"metadata": {"name": "mine"}, "type": "kubernetes.io/tls", "stringData": made.secret(2100)?});
    home.make::<Secret>(&secret).await?;
    let flags = [
        ["--certificate-issuer", "existing"],
        ["--certificate-secret", "mine"],
        ["--ca-grace", "2s"],
        ["--pki-poll", "500ms"],
        ["--connection-age", "500ms"],
    ];
    let replicas = Replicas::start(&client, home, folder.path(), flags.as_flattened()).await?;
    let namespace = Arc::new(replicas.namespace(&client).await?);
    let write = async |content: Value| {
        let secrets = replicas.home.api::<Secret>();
        let patch = Patch::Merge(json!({"stringData": content}));
        secrets.patch("mine", &PatchParams::apply(cluster::FIELD_MANAGER), &patch).await
    };
    let load = Load::start(&namespace);
    for year in 2101..2107 {
        // Every other time all three are replaced at once, and nothing of the CA before is left in the Secret.
        if year % 2 == 0 {
            made = Made::authority(&format!("of {year}"))?;
        }
        write(made.secret(year.into())?).await?;
        served(&replicas, year).await?;
    }
    // What cannot be used is not served, and the log says why.
    let mut broken = made.secret(2107)?;
    broken["tls.key"] = json!(KeyPair::generate()?.serialize_pem());
    write(broken).await?;
    eventually("the complaint", PATIENCE, || async {
        let said = replicas.logged("tls.key and tls.crt do not belong together");
        ensure!(said >= 2, "only {said} of two replicas complained");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    served(&replicas, 2106).await?;
    write(made.secret(2108)?).await?;
    served(&replicas, 2108).await?;
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    eventually("the end of what was trusted before", PATIENCE, || async {
        let found = api.get(&replicas.home.name).await?;
        let bundles = found.webhooks.into_iter().flatten().map(|entry| entry.client_config.ca_bundle);
        let alone = bundles.map(|bundle| bundle.is_some_and(|bundle| bundle.0 == made.authority.as_bytes()));
        ensure!(alone.into_iter().all(|alone| alone), "others are trusted still");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let (admitted, refused) = load.stop().await?;
    println!("8 changes of the Secret: {} of {} refused", refused.len(), admitted + refused.len());
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    ensure!(admitted >= 100, "only {admitted} pods were tried");
    let secret = replicas.home.api::<Secret>().get("mine").await?;
    let managers: BTreeSet<_> =
        secret.metadata.managed_fields.into_iter().flatten().filter_map(|entry| entry.manager).collect();
    ensure!(managers.iter().all(|manager| !manager.contains("pki")), "the Secret was written by {managers:?}");
    Ok(())
}
