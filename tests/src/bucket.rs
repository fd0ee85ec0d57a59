//! A bucket of a real S3 server on this machine that pods reach: [Versity's gateway](https://github.com/versity/versitygw), which checks
//! signatures and keeps objects as files. As those that run in clusters mostly do, it shows a certificate of a CA of its own.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use tempfile::TempDir;

use crate::{
    cluster::{self, eventually},
    gate::Authority,
    operator::PATIENCE,
};

/// Names the gateway's program.
const PROGRAM: &str = "CONTEXT_MANAGER_TEST_S3_PROGRAM";
/// The bucket.
pub const NAME: &str = "snapshots";
/// Its key: id and secret. Of digits, as some are.
pub const KEY: (&str, &str) = ("0012345678", "00123456789abcdef");

/// A bucket; it ends when dropped.
pub struct Bucket {
    server: Child,
    address: SocketAddr,
    folder: TempDir,
    authority: Authority,
}

impl Bucket {
    /// Starts a server with an empty bucket.
    ///
    /// # Errors
    /// When no program is named, or it does not start.
    pub async fn start() -> Result<Self> {
        let program = std::env::var_os(PROGRAM).with_context(|| {
            format!("{PROGRAM} names no program of an S3 server; `cargo xtask test` leaves this test out then")
        })?;
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("data").join(NAME))?;
        let address = TcpListener::bind((node().await?, 0))?.local_addr()?;
        let authority = Authority::new("Storage")?;
        let (certificate, key) = authority.sign(&address.ip().to_string(), |_| {})?;
        let files =
            [("tls.crt", certificate), ("tls.key", key)].map(|(file, content)| (folder.path().join(file), content));
        for (file, content) in &files {
            fs::write(file, content)?;
        }
        let [(certificate, _), (key, _)] = &files;
        let log = fs::File::create(folder.path().join("log"))?;
        let server = Command::new(program)
            .args(["--port", &address.to_string()])
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key)
            .arg("posix")
            .arg(folder.path().join("data"))
            .envs([("ROOT_ACCESS_KEY", KEY.0), ("ROOT_SECRET_KEY", KEY.1)])
            .stdout(log.try_clone()?)
            .stderr(Stdio::from(log))
            .spawn()
            .context("the S3 server does not start")?;
        let bucket = Self { server, address, folder, authority };
        eventually("the S3 server", PATIENCE, || async { tokio::net::TcpStream::connect(address).await.map(drop) })
            .await?;
        Ok(bucket)
    }

    /// Where pods reach it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA of its certificate.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.authority.pem
    }

    /// Where its objects are as files.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(self.folder.path()).join("data").join(NAME)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The address of the cluster's node, which is this machine.
async fn node() -> Result<IpAddr> {
    let nodes = Api::<Node>::all(cluster::client().await?).list(&ListParams::default()).await?;
    let addresses = nodes.items.into_iter().filter_map(|node| node.status?.addresses).flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address).next();
    Ok(internal.context("the node has no address")?.parse()?)
}
