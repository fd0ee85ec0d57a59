//! How a context changes: metadata are merged, the version grows, and a stale `if_version` is a conflict.

use crate::{Context, Metadata, Timestamp, Ttl, expiry, tokens};

/// A wanted change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The new text.
    pub text: Option<String>,
    /// Values to merge; `null` removes a key.
    pub metadata: Option<Metadata>,
    /// A new time to live, counted from now.
    pub ttl: Option<Ttl>,
    /// Change only this version.
    pub if_version: Option<i64>,
}

/// The context has another version than the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the context has version {actual}, not {expected}; get it again and apply the change to what it is now")]
pub struct VersionConflict {
    /// What the caller expected.
    pub expected: i64,
    /// What it is.
    pub actual: i64,
}

/// The changed context. The caller embeds it anew if the text is another one.
///
/// # Errors
/// When `if_version` is not the context's version.
///
/// ```
/// # use context_manager_memory::{AgentId, Context, ContextId, Level, TenantId, Timestamp};
/// use context_manager_memory::update::{Change, apply};
///
/// # let now = Timestamp::from_millis(0);
/// # let id = ContextId::new(uuid::Uuid::from_u128(1));
/// # let context = Context::new(id, TenantId::new("t").unwrap(), AgentId::new("a").unwrap(), Level::LongTerm, "tea", now);
/// let changed = apply(&context, Change { text: Some("coffee".into()), ..Change::default() }, now)?;
/// assert_eq!((changed.id, changed.version), (context.id, 2));
/// assert!(apply(&changed, Change { if_version: Some(1), ..Change::default() }, now).is_err());
/// # Ok::<(), context_manager_memory::update::VersionConflict>(())
/// ```
pub fn apply(context: &Context, change: Change, now: Timestamp) -> Result<Context, VersionConflict> {
    let Change { text, metadata, ttl, if_version } = change;
    if let Some(expected) = if_version
        && expected != context.version
    {
        return Err(VersionConflict { expected, actual: context.version });
    }
    let mut changed = context.clone();
    if let Some(text) = text {
        changed.tokens = tokens::estimate(&text);
        changed.text = text;
    }
    for (key, value) in metadata.unwrap_or_default() {
        if value.is_null() {
            changed.metadata.remove(&key);
        } else {
            changed.metadata.insert(key, value);
        }
    }
    if let Some(ttl) = ttl {
        changed.ttl = Some(ttl);
        changed.expires_at = expiry::expires_at(now, changed.level, Some(ttl), &expiry::LevelTtls::default());
    }
    changed.version += 1;
    changed.updated_at = now;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Level, context::tests::sample};

    #[test]
    fn metadata_are_merged_and_null_removes() {
        let mut context = sample(1, Level::LongTerm, "x");
        context.metadata = json!({"a": 1, "b": 2}).as_object().cloned().unwrap_or_default();
        let merge = json!({"b": null, "c": 3, "d": null}).as_object().cloned();
        let changed = apply(&context, Change { metadata: merge, ..Change::default() }, Timestamp::from_millis(5));
        assert_eq!(changed.map(|context| json!(context.metadata)), Ok(json!({"a": 1, "c": 3})));
    }

    #[test]
    fn a_stale_version_changes_nothing_and_names_both() {
        let context = sample(1, Level::LongTerm, "x");
        let stale = Change { text: Some("y".to_owned()), if_version: Some(7), ..Change::default() };
        let refused = apply(&context, stale, Timestamp::from_millis(5));
        assert_eq!(refused, Err(VersionConflict { expected: 7, actual: 1 }));
    }

    #[test]
    fn a_new_ttl_counts_from_now() {
        let now = Timestamp::from_millis(1_000);
        let change = Change { ttl: Ttl::try_from(50).ok(), ..Change::default() };
        let changed = apply(&sample(1, Level::LongTerm, "x"), change, now);
        assert_eq!(changed.map(|context| context.expires_at), Ok(Some(Timestamp::from_millis(1_050))));
    }
}
