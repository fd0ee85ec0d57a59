//! Which contexts a request wants: whose, session, levels and conditions on metadata, for the store and for L1 alike.

use context_manager_memory::{Context, Level, SessionId, Timestamp, limits::filter_field};
use context_manager_protocol::{
    level,
    message::{self, ContextDelete, Filter, Range},
};
use serde_json::Value;

use super::{Error, convert};
use crate::{
    access::Reach,
    ports::vector_store::{Condition, Operator, Owner, Scalar, Selection, Sessions, Validity},
};

/// Most levels that a request names: the store looks at each of them for every memory that is searched.
pub const MOST_LEVELS: usize = Level::ALL.len();

/// What a request wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    pub(super) session: Option<SessionId>,
    pub(super) levels: Vec<Level>,
    pub(super) metadata: Vec<Condition>,
    pub(super) created_before: Option<Timestamp>,
    pub(super) validity: Validity,
}

impl Wanted {
    /// Everything that a permission reaches.
    pub(super) fn within(reach: &Reach) -> Self {
        Self { session: reach.session().cloned(), levels: reach.levels(), ..Self::all(reach.owner().clone()) }
    }

    /// Everything of an owner.
    pub(super) fn all(owner: Owner) -> Self {
        Self {
            owner,
            session: None,
            levels: Level::ALL.to_vec(),
            metadata: Vec::new(),
            created_before: None,
            validity: Validity::Current,
        }
    }

    /// Whether it is a session with all that is in it.
    pub(super) fn is_whole_session(&self) -> bool {
        let Self { owner: _, session, levels, metadata, created_before, validity: _ } = self;
        session.is_some()
            && metadata.is_empty()
            && created_before.is_none()
            && Level::ALL.iter().all(|level| levels.contains(level))
    }

    /// The same, for the store.
    pub(super) fn selection(&self, levels: Vec<Level>, now: Timestamp) -> Selection {
        Selection {
            sessions: self.session.clone().map_or(Sessions::All, Sessions::Only),
            levels: Some(levels),
            metadata: self.metadata.clone(),
            created_before: self.created_before,
            validity: self.validity,
            ..Selection::alive(self.owner.clone(), now)
        }
    }

    /// Whether a context in memory is wanted.
    pub(super) fn matches(&self, context: &Context) -> bool {
        let is_valid = match self.validity {
            Validity::Current => context.is_current(),
            Validity::At(at) => context.is_valid_at(at),
            Validity::Any => true,
        };
        is_valid && self.matches_whenever(context)
    }

    /// Whether a context is wanted but for when it was so.
    pub(super) fn matches_whenever(&self, context: &Context) -> bool {
        self.owner.owns(context)
            && self.session.as_ref().is_none_or(|session| context.session.as_ref() == Some(session))
            && self.levels.contains(&context.level)
            && self.created_before.is_none_or(|before| context.created_at < before)
            && self.metadata.iter().all(|condition| holds(condition, context))
    }
}

/// What a deletion is about. One that was journaled `at` a time is not about what was stored later.
pub(super) fn of_deletion(message: ContextDelete, within: Wanted, at: Option<Timestamp>) -> Result<Wanted, Error> {
    // Scope and session are part of what the permission reaches.
    let ContextDelete { session, levels, filter, created_before, scope: _, dry_run: _ } = message;
    if session.is_none() && levels.is_none() && filter.is_empty() && created_before.is_none() {
        return Err(Error::field(
            "filter",
            "nothing says what to delete; give session, levels, filter or created_before",
        ));
    }
    let named = created_before.map(Timestamp::from_millis);
    Ok(Wanted { metadata: conditions(filter)?, created_before: named.into_iter().chain(at.map(after)).min(), ..within })
}

/// The moment after one.
pub(super) fn after(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_add(1))
}

/// What is so now, or was at a time.
pub(super) fn validity(as_of: Option<i64>) -> Validity {
    as_of.map_or(Validity::Current, |at| Validity::At(Timestamp::from_millis(at)))
}

/// The levels of a request, each once; all that the permission reaches when it names none.
pub(super) fn levels(levels: Option<Vec<level::Level>>, reach: &Reach) -> Result<Vec<Level>, Error> {
    match levels {
        Some(levels) if levels.is_empty() => {
            Err(Error::field("levels", "levels is empty; leave it out for all levels"))
        }
        Some(levels) if levels.len() > MOST_LEVELS => {
            Err(Error::too_many("levels", levels.len(), "entries", MOST_LEVELS))
        }
        Some(mut levels) => {
            levels.sort_unstable();
            levels.dedup();
            levels.into_iter().map(|level| on_level(reach, "levels", convert::level(level))).collect()
        }
        None => Ok(reach.levels()),
    }
}

/// A level that a request names, if it may be worked on.
pub(super) fn on_level(reach: &Reach, field: &str, level: Level) -> Result<Level, Error> {
    reach.on_level(level)?;
    if reach.is_out_of_hand(level) {
        let message = "immediate memory is written by its own agent alone; use short_term or long_term";
        return Err(Error::field(field, message));
    }
    Ok(level)
}

/// The conditions of a filter.
pub(super) fn conditions(filter: Filter) -> Result<Vec<Condition>, Error> {
    filter.0.into_iter().map(|(key, condition)| translate(key, condition)).collect()
}

fn translate(key: String, condition: message::Condition) -> Result<Condition, Error> {
    let field = filter_field(&key);
    if key.is_empty() || key.contains(['"', '\\']) {
        return Err(Error::field(field, "a filter's key is not empty and has no '\"' and no '\\'"));
    }
    let operator = match condition {
        message::Condition::Eq(value) => Operator::Equals(scalar(&field, value)?),
        message::Condition::Any(values) if values.is_empty() => {
            return Err(Error::field(field, "any is empty; give it at least one value"));
        }
        message::Condition::Any(values) => {
            Operator::AnyOf(values.into_iter().map(|value| scalar(&field, value)).collect::<Result<_, _>>()?)
        }
        message::Condition::Range(range) => bounds(&field, range)?,
    };
    Ok(Condition { path: vec![key], operator })
}

fn scalar(field: &str, value: Value) -> Result<Scalar, Error> {
    let refused = || Error::field(field, "the value is not a string, a number or a boolean; compare with one of those");
    match value {
        Value::String(text) => Ok(Scalar::Text(text)),
        Value::Bool(flag) => Ok(Scalar::Flag(flag)),
        Value::Number(number) => number.as_f64().map(Scalar::Number).ok_or_else(refused),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(refused()),
    }
}

/// The store knows "at least" and "less than"; the other two bounds are these at the next number.
fn bounds(field: &str, Range { gt, gte, lt, lte }: Range) -> Result<Operator, Error> {
    if [gt, gte, lt, lte].into_iter().flatten().any(|bound| !bound.is_finite()) {
        return Err(Error::field(field, "a bound of range is not a finite number"));
    }
    let from = gte.into_iter().chain(gt.map(f64::next_up)).reduce(f64::max);
    let below = lt.into_iter().chain(lte.map(f64::next_up)).reduce(f64::min);
    match (from, below) {
        (None, None) => Err(Error::field(field, "range has no bound; give it gt, gte, lt or lte")),
        (Some(from), Some(below)) if from >= below => {
            Err(Error::field(field, "range is empty; the lower bound must be below the upper one"))
        }
        (from, below) => Ok(Operator::Range { from, below }),
    }
}

/// Whether a condition holds for a context in memory. A list meets it if one of its entries does.
fn holds(condition: &Condition, context: &Context) -> bool {
    let value = condition.path.first().and_then(|key| context.metadata.get(key));
    let entries: Vec<&Value> = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(values)) => values.iter().collect(),
        Some(value) => vec![value],
    };
    let any = |scalars: &[Scalar]| entries.iter().any(|entry| scalars.iter().any(|scalar| equals(entry, scalar)));
    match &condition.operator {
        Operator::Equals(scalar) => any(std::slice::from_ref(scalar)),
        Operator::AnyOf(scalars) => any(scalars),
        Operator::NoneOf(scalars) => !any(scalars),
        Operator::Range { from, below } => entries
            .iter()
            .filter_map(|entry| entry.as_f64())
            .any(|number| from.is_none_or(|from| number >= from) && below.is_none_or(|below| number < below)),
        Operator::Exists => !entries.is_empty(),
        Operator::Absent => entries.is_empty(),
    }
}

fn equals(value: &Value, scalar: &Scalar) -> bool {
    match scalar {
        Scalar::Text(text) => value.as_str() == Some(text),
        Scalar::Flag(flag) => value.as_bool() == Some(*flag),
        Scalar::Number(number) => value.as_f64().is_some_and(|value| (*number..=*number).contains(&value)),
    }
}
