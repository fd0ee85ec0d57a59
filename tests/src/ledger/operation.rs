//! Operations: how they are sent, and what is noted when they were answered.

use anyhow::{Context as _, Result, bail, ensure};
use context_manager_protocol::{
    codec::Format,
    message::{Acknowledgment, AcknowledgmentBatch, Imported},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Agent,
    entry::{Entry, Life, Version},
    now,
};
use crate::client::{Answer, Client, Draft};

/// Little time to live: an outage is often longer.
const BRIEF: &str = "1s";
/// Enough of it for the suite.
const LONG: &str = "1h";
/// The version that an imported context has.
const IMPORTED: i64 = 3;

/// An operation; sending it again leads to the same end.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Store(Stored),
    /// One that was answered before; its context was changed since.
    StoreAgain {
        id: Uuid,
        stored: Stored,
    },
    /// Another text, if the version is that.
    Update {
        id: Uuid,
        text: String,
        expected: i64,
    },
    /// A change that names no version.
    Change {
        id: Uuid,
        patch: Patch,
    },
    Delete {
        id: Uuid,
    },
    DeleteGroup {
        group: String,
    },
    Clear {
        session: String,
    },
    Import {
        id: Uuid,
        at: i64,
        text: String,
        group: String,
    },
    /// By the other sidecar, and not sent again.
    StoreElsewhere {
        id: Uuid,
        text: String,
    },
    ChangeElsewhere {
        id: Uuid,
        key: String,
    },
}

/// New contexts.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) id: Option<Uuid>,
    pub(super) key: String,
    pub(super) level: &'static str,
    pub(super) texts: Vec<String>,
    pub(super) session: String,
    pub(super) group: String,
    pub(super) supersedes: Option<Uuid>,
    pub(super) is_brief: bool,
}

/// What is changed without a version.
#[derive(Clone, Debug)]
pub(super) enum Patch {
    /// A key of the metadata.
    Mark(String, u64),
    /// A longer life.
    Prolong,
}

impl Operation {
    /// Whether it is not sent again when it is not answered.
    pub(super) const fn is_sent_once(&self) -> bool {
        matches!(self, Self::StoreElsewhere { .. } | Self::ChangeElsewhere { .. })
    }
}

impl Agent {
    /// Sends an operation, and notes what was acknowledged. Says whether it was answered as done.
    pub(super) async fn perform(&mut self, client: &Client, operation: &Operation) -> Result<bool> {
        match operation {
            Operation::Store(stored) => self.store(client, stored).await,
            Operation::StoreAgain { id, stored } => self.store_again(client, *id, stored).await,
            Operation::Update { id, text, expected } => self.update(client, *id, text, *expected).await,
            Operation::Change { id, patch } => self.change(client, *id, patch).await,
            Operation::Delete { id } => {
                let path = format!("/v1/contexts/{id}");
                let answer = done(client.send(Draft::new("DELETE", &path, Vec::new())).await, &[200, 202, 404])?;
                let Some(answer) = answer else { return Ok(false) };
                ensure!(answer.status != 404 || self.unanswered.is_some(), "{id} was gone before it was deleted");
                self.forget(*id);
                Ok(true)
            }
            Operation::DeleteGroup { group } => {
                let message = json!({"filter": {"group": {"eq": group}}, "session": self.name});
                let answer = client.post("/v1/contexts/delete", &message).await;
                let session = self.name.clone();
                Ok(done(answer, &[200, 202])?.is_some_and(|_| {
                    self.forget_those(|entry| entry.session == session && entry.group == *group && !entry.superseded)
                }))
            }
            Operation::Clear { session } => {
                let path = format!("/v1/contexts?session={session}");
                let answer = client.send(Draft::new("DELETE", &path, Vec::new())).await;
                Ok(done(answer, &[200, 202])?
                    .is_some_and(|_| self.forget_those(|entry| entry.session == *session && !entry.superseded)))
            }
            Operation::Import { id, at, text, group } => self.import(client, *id, *at, (text, group)).await,
            Operation::StoreElsewhere { id, text } => self.store_elsewhere(*id, text).await,
            Operation::ChangeElsewhere { id, key } => self.change_elsewhere(*id, key).await,
        }
    }

    async fn store(&mut self, client: &Client, stored: &Stored) -> Result<bool> {
        let Some(answer) = send_stored(client, stored).await? else { return Ok(false) };
        let Stored { id, key: _, level, texts, session, group, supersedes, is_brief } = stored;
        let acknowledged = match texts.as_slice() {
            [_] => vec![answer.message::<Acknowledgment>()?],
            _ => answer.message::<AcknowledgmentBatch>()?.acknowledgments,
        };
        ensure!(acknowledged.len() == texts.len(), "{} acknowledged of {}", acknowledged.len(), texts.len());
        let is_immediate = *level == "immediate";
        let is_alone = texts.len() == 1 && id.is_none() && supersedes.is_none() && !is_brief && !is_immediate;
        for (acknowledgment, text) in acknowledged.into_iter().zip(texts) {
            let entry = Entry::new(text, session, group, acknowledgment.expires_at, 1);
            let life = if *is_brief { Life::Brief } else { Life::Long };
            let entry = Entry { is_immediate, life, sent: is_alone.then(|| stored.clone()), ..entry };
            self.entries.insert(acknowledgment.id, entry);
        }
        if let Some(entry) = supersedes.and_then(|id| self.entries.get_mut(&id)) {
            entry.superseded = true;
        }
        Ok(true)
    }

    /// It is the same write, and changes nothing.
    async fn store_again(&mut self, client: &Client, id: Uuid, stored: &Stored) -> Result<bool> {
        let Some(answer) = send_stored(client, stored).await? else { return Ok(false) };
        let acknowledgment: Acknowledgment = answer.message()?;
        ensure!(acknowledgment.id == id, "{id} was stored again as {}", acknowledgment.id);
        self.again = Some(id);
        Ok(true)
    }

    async fn update(&mut self, client: &Client, id: Uuid, text: &str, expected: i64) -> Result<bool> {
        let body = json!({"text": text, "if_version": expected});
        let Some(answer) = done(patch(client, id, &body).await, &[200, 202, 409])? else { return Ok(false) };
        // A conflict with oneself: the change was done, only the answer to it was lost.
        ensure!(answer.status != 409 || self.unanswered.is_some(), "somebody else changed {id}");
        let entry = self.entries.get_mut(&id).context("an entry")?;
        (entry.text, entry.version) = (text.to_owned(), Version::Exactly(expected + 1));
        Ok(true)
    }

    async fn change(&mut self, client: &Client, id: Uuid, change: &Patch) -> Result<bool> {
        let entry = self.entries.get_mut(&id).context("an entry")?;
        entry.count_sent();
        let (body, expected): (_, &[u16]) = match change {
            Patch::Mark(key, mark) => (json!({"metadata": {key.as_str(): mark}}), &[200, 202]),
            Patch::Prolong => (json!({"ttl": LONG}), &[200, 202, 404]),
        };
        let Some(answer) = done(patch(client, id, &body).await, expected)? else { return Ok(false) };
        if answer.status == 404 {
            ensure!(entry.has_expired(now()), "{id} was gone before its time: {entry:?}");
            if self.unanswered.is_some() {
                entry.life = Life::Uncertain;
            }
            return Ok(true);
        }
        entry.count_acknowledged();
        self.waiting = (answer.status == 202).then_some(id);
        match change {
            Patch::Mark(key, mark) => _ = entry.marks.insert(key.clone(), *mark),
            Patch::Prolong => {
                entry.life = Life::Long;
                entry.expires_at = answer.message::<Acknowledgment>()?.expires_at;
            }
        }
        Ok(true)
    }

    /// An import is refused while writes wait, and sent again until it is taken.
    async fn import(&mut self, client: &Client, id: Uuid, at: i64, (text, group): (&str, &str)) -> Result<bool> {
        let line = json!({"id": id, "text": text, "level": "long_term", "session": self.name, "version": IMPORTED,
                          "metadata": {"group": group}, "created_at": at, "updated_at": at});
        let draft = Draft {
            content_type: "application/jsonl",
            ..Draft::new("POST", "/v1/contexts/import", format!("{line}\n"))
        };
        let Some(answer) = done(client.send(draft).await, &[200])? else { return Ok(false) };
        let Imported { imported, unchanged, refused, .. } = answer.message()?;
        ensure!(imported + unchanged == 1, "{id} was not imported: {refused:?}");
        self.entries.insert(id, Entry::new(text, &self.name, group, None, IMPORTED));
        Ok(true)
    }

    async fn store_elsewhere(&mut self, id: Uuid, text: &str) -> Result<bool> {
        let Some(other) = self.elsewhere.clone() else { return Ok(true) };
        let group = format!("elsewhere-{}", self.name);
        let message = json!({"id": id, "text": text, "level": "long_term", "session": self.name,
                             "metadata": {"group": group}});
        let Some(answer) = done(other.post("/v1/contexts", &message).await, &[201, 202])? else {
            self.maybe.insert(id);
            return Ok(false);
        };
        let Acknowledgment { expires_at, .. } = answer.message()?;
        let entry = Entry::new(text, &self.name, &group, expires_at, 1);
        self.entries.insert(id, Entry { is_elsewheres: true, ..entry });
        Ok(true)
    }

    async fn change_elsewhere(&mut self, id: Uuid, key: &str) -> Result<bool> {
        let Some(other) = self.elsewhere.clone() else { return Ok(true) };
        let entry = self.entries.get_mut(&id).context("an entry")?;
        entry.count_sent();
        let body = json!({"metadata": {key: self.step}});
        // What waits in the journal of the one sidecar, the other does not see.
        let Some(answer) = done(patch(&other, id, &body).await, &[200, 202, 404])? else { return Ok(false) };
        if answer.status != 404 {
            entry.count_acknowledged();
            entry.marks.insert(key.to_owned(), self.step);
        }
        Ok(true)
    }

    fn forget_those(&mut self, are_gone: impl Fn(&Entry) -> bool) -> bool {
        let ids: Vec<Uuid> = self.entries.iter().filter(|(_, entry)| are_gone(entry)).map(|(id, _)| *id).collect();
        for id in ids {
            self.forget(id);
        }
        true
    }
}

async fn send_stored(client: &Client, stored: &Stored) -> Result<Option<Answer>> {
    let Stored { id, key, level, texts, session, group, supersedes, is_brief } = stored;
    let message = |text: &String| {
        let supersedes: Vec<Uuid> = supersedes.iter().copied().collect();
        let mut message = json!({"text": text, "level": level, "session": session, "metadata": {"group": group},
                                 "supersedes": supersedes});
        if let Some(id) = id {
            message["id"] = json!(id);
        }
        if *is_brief {
            message["ttl"] = json!(BRIEF);
        }
        message
    };
    let messages: Vec<Value> = texts.iter().map(message).collect();
    let (path, body) = match messages.as_slice() {
        [one] => ("/v1/contexts", one.clone()),
        _ => ("/v1/contexts/batch", json!({"contexts": messages})),
    };
    let idempotency_key = id.is_none().then_some(key.as_str());
    let draft = Draft { idempotency_key, ..Draft::new("POST", path, Format::Json.encode(&body)) };
    done(client.send(draft).await, &[201, 202])
}

async fn patch(client: &Client, id: Uuid, body: &Value) -> Result<Answer> {
    client.send(Draft::new("PATCH", &format!("/v1/contexts/{id}"), Format::Json.encode(body))).await
}

/// The answer if it has one of the statuses; none when there is no answer, or the sidecar cannot for now.
fn done(answer: Result<Answer>, expected: &[u16]) -> Result<Option<Answer>> {
    match answer {
        Ok(answer) if expected.contains(&answer.status) => Ok(Some(answer)),
        Ok(answer) if answer.status >= 500 => Ok(None),
        Ok(answer) => bail!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
        Err(_) => Ok(None),
    }
}
