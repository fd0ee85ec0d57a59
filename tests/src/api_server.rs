//! A second API server of the dev cluster, on the same etcd, with settings that the first one has not: what is written at one is there at the
//! other, and nobody else is in its way.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kube::{Client, Config};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cluster::{self, eventually},
    webhook::dead_address,
};

/// How long one may take to serve on a machine that is busy.
const START: Duration = Duration::from_mins(2);
/// What the second one has of its own.
const OWN: [&str; 5] =
    ["--cert-dir", "--bind-address", "--secure-port", "--endpoint-reconciler-type", "--etcd-compaction-interval"];

/// A running API server; it is killed when dropped.
pub struct ApiServer {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
    etcd: String,
}

impl ApiServer {
    /// Starts one with `more` arguments, such as `--watch-cache=false`, each in place of that of the same name.
    ///
    /// # Errors
    /// When the dev cluster is not on this machine, or it does not serve.
    pub async fn start(more: &[&str]) -> Result<Self> {
        let (program, arguments) = first()?;
        let name = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
        let etcd = arguments.iter().find_map(|argument| argument.strip_prefix("--etcd-servers="));
        let etcd = etcd.context("the API server names no etcd")?.to_owned();
        let own =
            |argument: &String| OWN.iter().copied().chain(more.iter().copied()).any(|own| name(own) == name(argument));
        let (folder, port) = (tempfile::tempdir()?, dead_address()?.port());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(program)
            .args(arguments.iter().filter(|argument| !own(argument)))
            .arg(format!("--cert-dir={}", folder.path().join("certs").display()))
            .args([format!("--bind-address={}", address.ip()), format!("--secure-port={port}")])
            // The Service `kubernetes` leads to the first one alone, and that one compacts.
            .args(["--endpoint-reconciler-type=none", "--etcd-compaction-interval=0"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("failed to start an API server")?;
        let mut server = Self { child, folder, address, etcd };
        let ready = eventually("the API server", START, || async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok::<_, anyhow::Error>(Client::try_from(server.config().await?)?.request_text(request).await?)
        });
        if let Err(error) = ready.await {
            let ended = server.child.try_wait()?;
            let log = fs::read_to_string(server.folder.path().join("log"))?;
            let last: Vec<_> = log.lines().rev().take(20).collect();
            return Err(error.context(format!("{ended:?}: {}", last.join("\n"))));
        }
        Ok(server)
    }

    /// How it is reached, as who has the suites' kubeconfig.
    ///
    /// # Errors
    /// When it has no certificate yet.
    pub async fn config(&self) -> Result<Config> {
        let mut config = cluster::config().await?;
        config.cluster_url = format!("https://{}", self.address).parse()?;
        config.root_cert = Some(authority(&self.folder.path().join("certs/apiserver.crt"))?);
        Ok(config)
    }

    /// Has etcd forget all that was before now, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn compact(&self) -> Result<u64> {
        cluster::install_tls();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build()?;
        let ask = async |path: &str, body: Value| -> Result<Value> {
            let answer = http.post(format!("{}/v3/kv/{path}", self.etcd)).json(&body).send().await?;
            let status = answer.status();
            let answer: Value = answer.json().await?;
            ensure!(status.is_success(), "etcd answers {status}: {answer}");
            Ok(answer)
        };
        let any = json!({"key": BASE64_STANDARD.encode("\0"), "limit": 1, "keys_only": true});
        let found = ask("range", any).await?;
        let revision = found["header"]["revision"].as_str().context("a revision")?.to_owned();
        ask("compaction", json!({"revision": revision, "physical": true})).await?;
        Ok(revision.parse()?)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("the API server cannot be ended: {error}");
        }
    }
}

/// Program and arguments of the dev cluster's API server.
fn first() -> Result<(PathBuf, Vec<String>)> {
    let found = fs::read_dir("/proc")?.filter_map(Result::ok).find_map(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let mut parts = line.split_terminator('\0').map(str::to_owned);
        let program = PathBuf::from(parts.next()?);
        let arguments: Vec<_> = parts.collect();
        // Not one of another suite.
        let is_first = arguments.iter().all(|argument| !argument.starts_with("--endpoint-reconciler-type"));
        (program.file_name()? == "kube-apiserver" && is_first).then_some((program, arguments))
    });
    found.context("no API server of a dev cluster runs on this machine; run this suite by `cargo xtask test`")
}

/// The authority of a certificate, which stands behind it.
fn authority(file: &Path) -> Result<Vec<Vec<u8>>> {
    let chain = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
    let authorities: Vec<_> = chain.into_iter().skip(1).map(|certificate| certificate.to_vec()).collect();
    ensure!(!authorities.is_empty(), "{} holds no authority", file.display());
    Ok(authorities)
}
