//! What the sidecar lists, compared with the ledger.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use context_manager_protocol::message::{Context, ContextList};
use uuid::Uuid;

use super::{Agent, Differences, entry::Life, now};
use crate::client::Client;

impl Agent {
    /// Compares all that the sidecar lists of the agent's sessions with the ledger.
    ///
    /// # Errors
    /// When the sidecar does not answer.
    pub async fn compare(&self, client: &Client) -> Result<Differences> {
        ensure!(self.unanswered.is_none(), "{:?} is open", self.unanswered);
        let mut differences = Differences::default();
        let mut listed = BTreeMap::new();
        let begun = now();
        for session in [&self.name, &self.side()] {
            list(client, session, &mut listed, &mut differences).await?;
        }
        let ended = now();
        for (id, entry) in &self.entries {
            match listed.remove(id) {
                Some(_) if entry.superseded => differences.doubled.push(format!("{id} is superseded and listed")),
                Some(_) if entry.has_expired(begun) && entry.life != Life::Uncertain => {
                    differences.doubled.push(format!("{id} has expired and is listed"));
                }
                Some(found) => {
                    if let Some(difference) = entry.difference(&found) {
                        differences.lost.push(format!("{id} {difference}: {found:?}, not {entry:?}"));
                    }
                }
                None if entry.superseded || entry.has_expired(ended) => {}
                None => differences.lost.push(format!("{id} {entry:?}")),
            }
        }
        listed.retain(|id, _| !self.maybe.contains(id));
        let again = |(id, context): (Uuid, Context)| {
            let why = if self.gone.contains(&id) { "was deleted" } else { "was never acknowledged" };
            format!("{id} {:?} {why}", context.text)
        };
        differences.doubled.extend(listed.into_iter().map(again));
        Ok(differences)
    }
}

async fn list(
    client: &Client,
    session: &str,
    listed: &mut BTreeMap<Uuid, Context>,
    differences: &mut Differences,
) -> Result<()> {
    let mut path = format!("/v1/contexts?limit=100&session={session}");
    loop {
        let list: ContextList = client.get(&path).await?.message()?;
        for context in list.contexts {
            if let Some(twice) = listed.insert(context.id, context) {
                differences.doubled.push(format!("{} is listed twice", twice.id));
            }
        }
        let Some(next) = list.next else { return Ok(()) };
        path = format!("/v1/contexts?limit=100&session={session}&cursor={next}");
    }
}
