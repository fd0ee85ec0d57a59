//! A selection as clauses over payload fields: what both stores translate to their engine's filter.
//!
//! Owns how a condition of a caller and the product's own conditions are expressed, so that the stores cannot differ in it.

use std::collections::HashMap;

use super::{
    InvalidCall, schema,
    selection::{Condition, Dense, Expiry, Operator, Owner, Scalar, Selection, Sessions, Tenant, Validity},
};
use crate::{Context, ContextId, Holder, Timestamp};

/// Clauses that must hold, and clauses that must not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clauses {
    /// All of these hold.
    pub must: Vec<Clause>,
    /// None of these holds.
    pub must_not: Vec<Clause>,
}

/// What is asked of a point. Keys are paths in the payload, in the syntax of Qdrant.
#[derive(Clone, Debug, PartialEq)]
pub enum Clause {
    /// The field is this keyword, or a list that has it.
    Keyword(String, String),
    /// The field is one of these keywords.
    AnyKeyword(String, Vec<String>),
    /// The field is this truth value.
    Flag(String, bool),
    /// The field is a number within these bounds.
    Range(String, Bounds),
    /// The field is not there, `null` or an empty list.
    Empty(String),
    /// The point has the vector of this name.
    HasVector(String),
    /// The point is one of these.
    HasId(Vec<ContextId>),
    /// At least one of these holds.
    Any(Vec<Clause>),
    /// All of these hold.
    All(Vec<Clause>),
}

/// Bounds of a number; absent ones are open.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// At least.
    pub gte: Option<f64>,
    /// At most.
    pub lte: Option<f64>,
    /// Less than.
    pub lt: Option<f64>,
}

impl Clauses {
    /// The selection's.
    ///
    /// # Errors
    /// When a key of the metadata cannot be expressed.
    pub fn of(selection: &Selection) -> Result<Self, InvalidCall> {
        let Selection {
            owner,
            expiry,
            validity,
            sessions,
            levels,
            created_since,
            created_before,
            min_accesses,
            dense,
            version_of,
            metadata,
        } = selection;
        let mut clauses = Self::of_owner(owner);
        let Self { must, must_not } = &mut clauses;
        match expiry {
            Expiry::AliveAt(now) => must_not.push(expired(*now)),
            Expiry::ExpiredAt(now) => must.push(expired(*now)),
            Expiry::Any => {}
        }
        match validity {
            Validity::Current => must_not.push(closed()),
            Validity::At(at) => {
                let at = Some(millis(*at));
                let bounds = |key: &str, lte| Clause::Range(key.to_owned(), Bounds { lte, ..Bounds::default() });
                must.push(bounds(schema::UPDATED_AT, at));
                must_not.push(bounds(schema::VALID_UNTIL, at));
            }
            Validity::Any => {}
        }
        match sessions {
            Sessions::All => {}
            Sessions::Only(session) => must.push(keyword(schema::SESSION, session.as_str())),
            Sessions::Without => must.push(Clause::Empty(schema::SESSION.to_owned())),
        }
        if let Some(levels) = levels {
            let names = levels.iter().map(|level| level.as_str().to_owned()).collect();
            must.push(Clause::AnyKeyword(schema::LEVEL.to_owned(), names));
        }
        if let Some(since) = created_since {
            let bounds = Bounds { gte: Some(millis(*since)), ..Bounds::default() };
            must.push(Clause::Range(schema::CREATED_AT.to_owned(), bounds));
        }
        if let Some(before) = created_before {
            let bounds = Bounds { lt: Some(millis(*before)), ..Bounds::default() };
            must.push(Clause::Range(schema::CREATED_AT.to_owned(), bounds));
        }
        if let Some(least) = min_accesses {
            #[expect(clippy::cast_precision_loss, reason = "an access count is far below 2^52")]
            let bounds = Bounds { gte: Some(*least as f64), ..Bounds::default() };
            must.push(Clause::Range(schema::ACCESS_COUNT.to_owned(), bounds));
        }
        match dense {
            Dense::Any => {}
            Dense::Missing => must_not.push(Clause::HasVector(schema::DENSE_SELF.to_owned())),
        }
        if let Some(original) = version_of {
            must.push(keyword(schema::VERSION_OF, &original.to_string()));
        }
        for condition in metadata {
            clauses.add(condition)?;
        }
        Ok(clauses)
    }

    /// All contexts of an owner, alive or not.
    #[must_use]
    pub fn of_owner(owner: &Owner) -> Self {
        let holder = match &owner.holder {
            Holder::Agent(agent) => keyword(schema::AGENT, agent.as_str()),
            Holder::Space(space) => keyword(schema::SPACE, space.as_str()),
        };
        let must = vec![keyword(schema::TENANT, owner.tenant.as_str()), holder];
        Self { must, must_not: Vec::new() }
    }

    /// The contexts by which the rarity of a term is told: the owner's current ones.
    #[must_use]
    pub fn corpus(owner: &Owner) -> Self {
        Self { must_not: vec![closed()], ..Self::of_owner(owner) }
    }

    /// The owner's contexts among `ids`.
    #[must_use]
    pub fn owned(owner: &Owner, ids: &[ContextId]) -> Self {
        let mut clauses = Self::of_owner(owner);
        clauses.must.push(Clause::HasId(ids.to_vec()));
        clauses
    }

    /// The contexts with these ids, whoever owns them.
    #[must_use]
    pub fn ids(ids: &[ContextId]) -> Self {
        Self { must: vec![Clause::HasId(ids.to_vec())], must_not: Vec::new() }
    }

    /// No context at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self::ids(&[])
    }

    /// The owner's contexts among `ids` that have this version.
    #[must_use]
    pub fn at_version(owner: &Owner, ids: &[ContextId], version: i64) -> Self {
        let mut clauses = Self::owned(owner, ids);
        clauses.must.push(whole(schema::VERSION, version));
        clauses
    }

    /// The owner's context with this id, if it was returned so often.
    #[must_use]
    pub fn counted(owner: &Owner, id: ContextId, accesses: i64) -> Self {
        let mut clauses = Self::owned(owner, &[id]);
        clauses.must.push(whole(schema::ACCESS_COUNT, accesses));
        clauses
    }

    /// The owner's context with this id, if it has this version and was returned so often.
    #[must_use]
    pub fn unchanged(owner: &Owner, id: ContextId, version: i64, accesses: i64) -> Self {
        let mut clauses = Self::at_version(owner, &[id], version);
        clauses.must.push(whole(schema::ACCESS_COUNT, accesses));
        clauses
    }

    /// The owner's contexts that have one of these vectors.
    #[must_use]
    pub fn having_any_of(owner: &Owner, vectors: &[String]) -> Self {
        let mut clauses = Self::of_owner(owner);
        clauses.must.push(Clause::Any(vectors.iter().cloned().map(Clause::HasVector).collect()));
        clauses
    }

    /// Every context of a tenant that is alive, whoever in it holds it: for moving a tenant only.
    #[must_use]
    pub fn of_tenant(Tenant { tenant, alive_at }: &Tenant) -> Self {
        Self { must: vec![keyword(schema::TENANT, tenant.as_str())], must_not: vec![expired(*alive_at)] }
    }

    /// What of these owners, or of all when none are named, is expired at `now`: for the collector of garbage only.
    #[must_use]
    pub fn expired_of(owners: Option<&[Owner]>, now: Timestamp) -> Self {
        match owners {
            Some(owners) => Self::any_of(owners.iter().map(Self::of_owner), expired(now)),
            None => Self { must: vec![expired(now)], must_not: Vec::new() },
        }
    }

    /// The same without the contexts with these ids.
    #[must_use]
    pub fn but_for(mut self, ids: &[ContextId]) -> Self {
        if !ids.is_empty() {
            self.must_not.push(Clause::HasId(ids.to_vec()));
        }
        self
    }

    /// What lies under the ids of these contexts, is expired at `now`, and is of the same owner: what a new context may take the place of.
    #[must_use]
    pub fn making_way<'a>(contexts: impl IntoIterator<Item = &'a Context>, now: Timestamp) -> Self {
        let mut ids: HashMap<Owner, Vec<ContextId>> = HashMap::new();
        for context in contexts {
            ids.entry(Owner::of(context)).or_default().push(context.id);
        }
        Self::any_of(ids.iter().map(|(owner, ids)| Self::owned(owner, ids)), expired(now))
    }

    /// What one of several lists of clauses finds, and for which the clause holds.
    fn any_of(lists: impl Iterator<Item = Self>, clause: Clause) -> Self {
        let mut lists: Vec<Vec<Clause>> = lists.map(|clauses| clauses.must).collect();
        let mut must = match lists.pop() {
            // "One of nothing" holds for no context, but an empty disjunction would hold for all.
            None => return Self::nothing(),
            Some(only) if lists.is_empty() => only,
            Some(last) => vec![Clause::Any(lists.into_iter().chain([last]).map(Clause::All).collect())],
        };
        must.push(clause);
        Self { must, must_not: Vec::new() }
    }

    /// The owner's contexts that have expired after `after` and until `until`.
    #[must_use]
    pub fn expired_between(owner: &Owner, after: Timestamp, until: Timestamp) -> Self {
        let mut clauses = Self::of_owner(owner);
        clauses.must.push(expired(until));
        clauses.must_not.push(expired(after));
        clauses
    }

    /// The same about a store where the vectors of [`schema::DENSE_SELF`] have another name.
    #[must_use]
    pub fn with_dense_named(mut self, name: &str) -> Self {
        for clause in self.must.iter_mut().chain(&mut self.must_not) {
            if matches!(clause, Clause::HasVector(of) if of == schema::DENSE_SELF) {
                *clause = Clause::HasVector(name.to_owned());
            }
        }
        self
    }

    fn add(&mut self, Condition { path, operator }: &Condition) -> Result<(), InvalidCall> {
        let key = metadata_key(path)?;
        match operator {
            Operator::Equals(value) => self.must.push(equals(&key, value)),
            // "One of nothing" holds for no context, but an empty disjunction would hold for all.
            Operator::AnyOf(values) if values.is_empty() => self.must.push(Clause::HasId(Vec::new())),
            Operator::AnyOf(values) => self.must.push(any(&key, values)),
            Operator::NoneOf(values) if values.is_empty() => {}
            Operator::NoneOf(values) => self.must_not.push(any(&key, values)),
            Operator::Range { from, below } => {
                self.must.push(Clause::Range(key, Bounds { gte: *from, lt: *below, lte: None }));
            }
            Operator::Exists => self.must_not.push(Clause::Empty(key)),
            Operator::Absent => self.must.push(Clause::Empty(key)),
        }
        Ok(())
    }
}

/// One of several values. Texts are one clause however many they are, because the engine looks them up in a set.
fn any(key: &str, values: &[Scalar]) -> Clause {
    let mut texts = Vec::new();
    let mut others = Vec::new();
    for value in values {
        match value {
            Scalar::Text(text) => texts.push(text.clone()),
            Scalar::Flag(_) | Scalar::Number(_) => others.push(equals(key, value)),
        }
    }
    if !texts.is_empty() {
        let texts = Clause::AnyKeyword(key.to_owned(), texts);
        if others.is_empty() {
            return texts;
        }
        others.push(texts);
    }
    Clause::Any(others)
}

/// A number is compared by range, because the engine's equality knows whole numbers only.
fn equals(key: &str, value: &Scalar) -> Clause {
    match value {
        Scalar::Text(text) => keyword(key, text),
        Scalar::Flag(flag) => Clause::Flag(key.to_owned(), *flag),
        Scalar::Number(number) => {
            Clause::Range(key.to_owned(), Bounds { gte: Some(*number), lte: Some(*number), lt: None })
        }
    }
}

/// The path of a metadata key; every part is quoted, so that dots and brackets in it mean nothing.
fn metadata_key(path: &[String]) -> Result<String, InvalidCall> {
    let unusable = |part: &String| part.is_empty() || part.contains(['"', '\\']);
    if path.is_empty() || path.iter().any(unusable) {
        return Err(InvalidCall::MetadataKey(path.join(".")));
    }
    Ok(path.iter().fold(schema::METADATA.to_owned(), |key, part| format!("{key}.\"{part}\"")))
}

/// The field is this whole number.
#[expect(clippy::cast_precision_loss, reason = "versions and counts are far below 2^52")]
fn whole(key: &str, number: i64) -> Clause {
    let number = Some(number as f64);
    Clause::Range(key.to_owned(), Bounds { gte: number, lte: number, lt: None })
}

fn keyword(key: &str, value: &str) -> Clause {
    Clause::Keyword(key.to_owned(), value.to_owned())
}

/// Not current any more. Any time counts, so the lowest bound is enough.
fn closed() -> Clause {
    Clause::Range(schema::VALID_UNTIL.to_owned(), Bounds { gte: Some(f64::MIN), ..Bounds::default() })
}

fn expired(now: Timestamp) -> Clause {
    Clause::Range(schema::EXPIRES_AT.to_owned(), Bounds { lte: Some(millis(now)), ..Bounds::default() })
}

/// Unix milliseconds stay exact in a 64-bit float for 280,000 years.
#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53 milliseconds")]
const fn millis(at: Timestamp) -> f64 {
    at.as_millis() as f64
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::{AgentId, TenantId};

    #[test]
    fn the_texts_of_a_list_are_one_clause() {
        let texts = |count: usize| (0..count).map(|text| text.to_string()).collect::<Vec<_>>();
        let scalars = || texts(200).into_iter().map(Scalar::Text);
        let all = Clause::AnyKeyword("k".to_owned(), texts(200));
        assert_eq!(any("k", &scalars().collect::<Vec<_>>()), all);
        let number = [Scalar::Number(1.0), Scalar::Flag(true)];
        let mixed: Vec<Scalar> = number.iter().cloned().chain(scalars()).collect();
        assert_eq!(any("k", &mixed), Clause::Any(vec![equals("k", &number[0]), equals("k", &number[1]), all]));
    }

    #[test]
    fn what_is_expired_of_nobody_is_nothing() {
        let now = Timestamp::from_millis(5);
        assert_eq!(Clauses::expired_of(Some(&[]), now), Clauses::nothing());
        assert_eq!(Clauses::making_way([], now), Clauses::nothing());
        let owner = |name: &str| Owner::new(TenantId::new("t").unwrap(), AgentId::new(name).unwrap());
        let Clauses { must, .. } = Clauses::expired_of(Some(&[owner("a")]), now);
        assert_eq!(must, [Clauses::of_owner(&owner("a")).must, vec![expired(now)]].concat());
        let Clauses { must, .. } = Clauses::expired_of(Some(&[owner("a"), owner("b")]), now);
        let each = [owner("a"), owner("b")].map(|owner| Clause::All(Clauses::of_owner(&owner).must));
        assert_eq!(must, [Clause::Any(each.to_vec()), expired(now)]);
    }

    #[test]
    fn metadata_keys_are_quoted_and_unusable_ones_refused() {
        assert_eq!(metadata_key(&["a.b[]".to_owned(), "c d".to_owned()]).unwrap(), r#"metadata."a.b[]"."c d""#);
        for path in [vec![], vec![String::new()], vec!["a\"b".to_owned()], vec!["a\\b".to_owned()]] {
            assert!(metadata_key(&path).is_err(), "{path:?}");
        }
    }
}
