//! Our own webhook, as the program that it is in a pod.

use anyhow::Result;

use super::{server::Server, site::Site};
use crate::part;

/// The container that it adds.
pub const ADDS: &str = context_manager_protocol::names::CONTAINER;

/// Starts it.
pub async fn start(site: &Site) -> Result<Server> {
    let address = site.address;
    let process = part::webhook(site.folder.path(), &site.home.name, &address.to_string()).await?;
    Ok(Server::ours("context-manager", format!("https://{address}/mutate"), process))
}
