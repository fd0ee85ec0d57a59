//! Keys, tokens and kubeconfigs: made at random once per cluster, readable by their owner only.
//!
//! People and parts prove themselves to the API server by static bearer tokens; the API server proves itself to the
//! kubelets by a client certificate. The API server makes its own serving certificate.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::programs::Programs;
use super::state::{MOST_NODES, State, write_if_changed};
use crate::command;
use crate::images::oci;

/// Who has a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// The person at the keyboard: cluster administrator.
    Admin,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kube-proxy.
    Proxy,
    /// The cluster's DNS server.
    Dns,
    /// The kubelet of one node.
    Node(u8),
}

impl User {
    /// The user's name in the API server's eyes.
    pub fn name(self) -> String {
        match self {
            Self::Admin => "context-manager-dev:admin".into(),
            Self::ControllerManager => "system:kube-controller-manager".into(),
            Self::Scheduler => "system:kube-scheduler".into(),
            Self::Proxy => "system:kube-proxy".into(),
            Self::Dns => "context-manager-dev:dns".into(),
            Self::Node(node) => format!("system:node:{}", super::node::name(node)),
        }
    }

    fn group(self) -> Option<&'static str> {
        match self {
            Self::Admin => Some("system:masters"),
            Self::Node(_) => Some("system:nodes"),
            Self::ControllerManager | Self::Scheduler | Self::Proxy | Self::Dns => None,
        }
    }

    /// The file of this user's kubeconfig.
    pub fn kubeconfig(self, state: &State) -> PathBuf {
        match self {
            Self::Admin => state.kubeconfig(),
            Self::ControllerManager => state.path("controller-manager.kubeconfig"),
            Self::Scheduler => state.path("scheduler.kubeconfig"),
            Self::Proxy => state.path("proxy.kubeconfig"),
            Self::Dns => state.path("dns.kubeconfig"),
            Self::Node(node) => state.node(node).join("kubeconfig"),
        }
    }
}

/// Makes keys and tokens, if this cluster has none yet.
pub fn provide(state: &State, programs: &Programs) -> Result<()> {
    let keys = state.path("keys");
    if !keys.is_dir() {
        let unfinished = state.path("keys.unfinished");
        fs::create_dir_all(&unfinished)?;
        command::output(Command::new(programs.path("keys")).arg(&unfinished))?;
        fs::rename(unfinished, keys)?;
    }
    let tokens = state.path("tokens.csv");
    if !tokens.is_file() {
        let fixed = [User::Admin, User::ControllerManager, User::Scheduler, User::Proxy, User::Dns];
        // The API server reads the file once, so nodes that may be added later have their tokens from the start.
        let users = fixed.into_iter().chain((0..MOST_NODES).map(User::Node));
        let lines = users.map(|user| Ok(token_line(user, &random_token()?))).collect::<Result<String>>()?;
        write_if_changed(&tokens, &lines)?;
    }
    Ok(())
}

/// Extracts the authority of the API server's own certificate; possible once the API server has started.
pub fn write_authority(state: &State) -> Result<()> {
    let path = state.path("certs/apiserver.crt");
    let chain = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let authority = second_certificate(&chain).with_context(|| format!("{} holds no authority", path.display()))?;
    write_if_changed(&state.path("ca.crt"), authority)?;
    Ok(())
}

/// Writes a user's kubeconfig, and tells whether it is new.
pub fn write_kubeconfig(state: &State, user: User, server: &str) -> Result<bool> {
    let authority = fs::read(state.path("ca.crt")).context("the API server's authority is not known yet")?;
    let tokens = fs::read_to_string(state.path("tokens.csv"))?;
    let token = find_token(&tokens, &user.name()).with_context(|| format!("{} has no token", user.name()))?;
    let text = format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: context-manager-dev\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {authority}\n\
         users:\n\
         - name: {name:?}\n  \
           user:\n    \
             token: {token}\n\
         contexts:\n\
         - name: context-manager-dev\n  \
           context:\n    \
             cluster: context-manager-dev\n    \
             user: {name:?}\n\
         current-context: context-manager-dev\n",
        authority = BASE64_STANDARD.encode(authority),
        name = user.name(),
    );
    write_if_changed(&user.kubeconfig(state), &text)
}

fn token_line(user: User, token: &str) -> String {
    let name = user.name();
    let group = user.group().map(|group| format!(",\"{group}\"")).unwrap_or_default();
    format!("{token},{name},{name}{group}\n")
}

fn find_token<'t>(tokens: &'t str, user: &str) -> Option<&'t str> {
    tokens.lines().find_map(|line| {
        let mut fields = line.split(',');
        let token = fields.next()?;
        (fields.next()? == user).then_some(token)
    })
}

fn random_token() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("failed to read random bytes")?;
    if bytes.iter().all(|byte| *byte == 0) {
        bail!("the source of random bytes gave only zeros");
    }
    Ok(oci::hex(&bytes))
}

/// The API server's file holds its own certificate first and the authority second. The whole file must not serve as
/// the authority: what checks that an authority is one would refuse it.
fn second_certificate(chain: &str) -> Option<&str> {
    let begin = chain.match_indices("-----BEGIN CERTIFICATE-----").nth(1)?.0;
    Some(&chain[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_finds_the_own_token() {
        let file =
            token_line(User::Admin, "aaa") + &token_line(User::Node(1), "bbb") + &token_line(User::Node(10), "ccc");
        assert_eq!(find_token(&file, &User::Node(1).name()), Some("bbb"));
        assert_eq!(find_token(&file, "nobody"), None);
    }

    #[test]
    fn node_is_in_the_nodes_group_and_controllers_in_none() {
        assert_eq!(token_line(User::Node(0), "t"), "t,system:node:node0,system:node:node0,\"system:nodes\"\n");
        assert_eq!(token_line(User::Scheduler, "t").matches(',').count(), 2);
    }

    #[test]
    fn tokens_differ_each_time() {
        let (one, two) = (random_token().expect("random"), random_token().expect("random"));
        assert_ne!(one, two);
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn authority_is_the_second_certificate() {
        let leaf = "-----BEGIN CERTIFICATE-----\nleaf\n-----END CERTIFICATE-----\n";
        let authority = "-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n";
        assert_eq!(second_certificate(&format!("{leaf}{authority}")), Some(authority));
        assert_eq!(second_certificate(leaf), None);
    }
}
