//! vault-k8s' agent injector. It knows its cluster only by what a pod finds in its file system, so it gets a file system of its own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use context_manager_tests::{cluster, webhook::dead_address};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use url::Url;

use super::{server::Server, site::Site};

/// The container that it adds.
pub const ADDS: &str = "vault-agent";
/// Environment variable with the program's path; `cargo xtask bench` sets it.
const PROGRAM: &str = "CONTEXT_MANAGER_BENCH_VAULT_K8S";
/// Lays a pod's account, which is in the folder `$0`, where it is in a pod, and becomes the program. Only this process sees it there.
const IN_A_POD: &str = r#"
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io
cp -r "$0" /var/run/secrets/kubernetes.io/serviceaccount
exec "$@"
"#;

/// Asks for it, as an agent that needs a database's password.
pub fn annotations() -> Value {
    json!({
        "vault.hashicorp.com/agent-inject": "true",
        "vault.hashicorp.com/role": "agent",
        "vault.hashicorp.com/agent-inject-secret-database": "secret/data/database",
        "vault.hashicorp.com/agent-inject-template-database":
            "{{- with secret \"secret/data/database\" -}}postgres://{{ .Data.data.user }}:{{ .Data.data.password }}@db{{- end }}",
    })
}

/// Starts it.
pub fn start(site: &Site) -> Result<Server> {
    let program =
        std::env::var_os(PROGRAM).with_context(|| format!("{PROGRAM} is not set; run `cargo xtask bench`"))?;
    let account = site.folder.path().join("account");
    let api_server = write_account(&account)?;
    let address = dead_address()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", IN_A_POD]).arg(&account).arg(program);
    command
        .args(["agent-inject", "-log-level", "info", "-listen", &address.to_string()])
        .args(["-vault-address", "https://vault.vault.svc:8200"])
        .arg("-tls-cert-file")
        .arg(&site.certificate.chain)
        .arg("-tls-key-file")
        .arg(&site.certificate.key)
        .env("NAMESPACE", &site.home.name)
        .env("KUBERNETES_SERVICE_HOST", api_server.host_str().unwrap_or_default())
        .env("KUBERNETES_SERVICE_PORT", api_server.port_or_known_default().unwrap_or(443).to_string());
    Server::start("vault-k8s", format!("https://{address}/mutate"), &mut command, site.folder.path())
}

/// Writes what a pod's account is, and says where the API server is.
fn write_account(folder: &Path) -> Result<Url> {
    let config = json!(Kubeconfig::read_from(cluster::kubeconfig()?)?);
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
    let token = text("/users/0/user/token").context("the kubeconfig has no token")?;
    let ca = text("/clusters/0/cluster/certificate-authority-data").context("the kubeconfig has no CA")?;
    fs::create_dir(folder)?;
    fs::write(folder.join("token"), token)?;
    fs::write(folder.join("ca.crt"), BASE64_STANDARD.decode(ca)?)?;
    let server = text("/clusters/0/cluster/server").context("the kubeconfig has no server")?;
    Ok(Url::parse(server)?)
}
