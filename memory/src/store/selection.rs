//! Which contexts a call is about, in the product's terms. A selection always names tenant and holder: there is no way to ask for
//! everybody's contexts. Who moves a tenant asks for a [`Tenant`] instead, and for nothing else of it.

use crate::{Context, ContextId, Holder, Level, SessionId, TenantId, Timestamp};

/// Whose contexts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// Who in it.
    pub holder: Holder,
}

impl Owner {
    /// An agent of a tenant, or a space.
    #[must_use]
    pub fn new(tenant: TenantId, holder: impl Into<Holder>) -> Self {
        Self { tenant, holder: holder.into() }
    }

    /// The owner of a context.
    #[must_use]
    pub fn of(context: &Context) -> Self {
        Self { tenant: context.tenant.clone(), holder: context.holder.clone() }
    }

    /// Whether a context is this owner's.
    #[must_use]
    pub fn owns(&self, context: &Context) -> bool {
        self.tenant == context.tenant && self.holder == context.holder
    }
}

/// All contexts of a tenant that are alive at a time, whoever in it holds them, earlier versions included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Which one.
    pub tenant: TenantId,
    /// When.
    pub alive_at: Timestamp,
}

impl Tenant {
    /// Whether a context that an index found may be returned: the index is not trusted with whose it is, and whether it is alive.
    #[must_use]
    pub fn admits(&self, context: &Context) -> bool {
        let Self { tenant, alive_at } = self;
        context.tenant == *tenant && !context.is_expired(*alive_at)
    }
}

/// Contexts of which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// Of all, and those without one.
    #[default]
    All,
    /// Of one.
    Only(SessionId),
    /// Those without one.
    Without,
}

/// Contexts in which state of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Not expired at this time.
    AliveAt(Timestamp),
    /// Expired at this time.
    ExpiredAt(Timestamp),
    /// Both; only for deleting.
    Any,
}

/// Contexts of which time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Validity {
    /// What is so now.
    #[default]
    Current,
    /// What was so at this time, as far as it was kept.
    At(Timestamp),
    /// Both; for moving and deleting.
    Any,
}

/// Contexts with which vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dense {
    /// With or without dense vectors.
    #[default]
    Any,
    /// Without: they were stored while the embedding was down.
    Missing,
}

/// Which contexts a call is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Whose.
    pub owner: Owner,
    /// Alive or expired.
    pub expiry: Expiry,
    /// What is so now, or was.
    pub validity: Validity,
    /// Of which sessions.
    pub sessions: Sessions,
    /// On which levels; `None` is all of them, an empty list none.
    pub levels: Option<Vec<Level>>,
    /// Stored at this time or later.
    pub created_since: Option<Timestamp>,
    /// Stored before this time.
    pub created_before: Option<Timestamp>,
    /// Returned at least so often.
    pub min_accesses: Option<i64>,
    /// With or without dense vectors.
    pub dense: Dense,
    /// Only earlier versions of this context.
    pub version_of: Option<ContextId>,
    /// What the caller's metadata must be; all have to hold.
    pub metadata: Vec<Condition>,
}

impl Selection {
    /// All current contexts of an owner that are alive at `now`.
    #[must_use]
    pub const fn alive(owner: Owner, now: Timestamp) -> Self {
        Self {
            owner,
            expiry: Expiry::AliveAt(now),
            validity: Validity::Current,
            sessions: Sessions::All,
            levels: None,
            created_since: None,
            created_before: None,
            min_accesses: None,
            dense: Dense::Any,
            version_of: None,
            metadata: Vec::new(),
        }
    }
}

/// A condition on the caller's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The key, or the keys that lead into nested objects.
    pub path: Vec<String>,
    /// What the value must be. A list meets it if one of its entries does.
    pub operator: Operator,
}

/// What a metadata value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    /// This value.
    Equals(Scalar),
    /// One of these values.
    AnyOf(Vec<Scalar>),
    /// None of these values; an absent key has none of them.
    NoneOf(Vec<Scalar>),
    /// A number in this range; a bound that is `None` is open.
    Range {
        /// At least.
        from: Option<f64>,
        /// Less than.
        below: Option<f64>,
    },
    /// There, and neither `null` nor an empty list.
    Exists,
    /// Not there, `null` or an empty list.
    Absent,
}

/// A value that metadata can be compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A string.
    Text(String),
    /// A number.
    Number(f64),
    /// A truth value.
    Flag(bool),
}

impl Selection {
    /// The same, whether or not they are alive or current: all there is, for deleting.
    #[must_use]
    pub fn with_all_that_was(self) -> Self {
        Self { expiry: Expiry::Any, validity: Validity::Any, ..self }
    }

    /// An owner's current contexts of some sessions in this state of life; with [`Expiry::Any`] earlier versions too, because a number in a
    /// session is never given twice.
    #[must_use]
    pub fn of_sessions(owner: Owner, sessions: Sessions, expiry: Expiry) -> Self {
        let validity = if expiry == Expiry::Any { Validity::Any } else { Validity::Current };
        Self { expiry, validity, sessions, ..Self::alive(owner, Timestamp::from_millis(0)) }
    }

    /// Whether [`admits`](Self::admits) tells all of it: there is no condition but whose, which levels, and alive and current or not.
    #[must_use]
    pub fn is_of_levels_alone(&self) -> bool {
        let Self {
            owner: _,
            expiry: _,
            validity: _,
            sessions,
            levels: _,
            created_since,
            created_before,
            min_accesses,
            dense,
            version_of,
            metadata,
        } = self;
        *sessions == Sessions::All
            && created_since.is_none()
            && created_before.is_none()
            && min_accesses.is_none()
            && *dense == Dense::Any
            && version_of.is_none()
            && metadata.is_empty()
    }

    /// Whether a context that an index found may be returned: the index is not trusted with whose it is, whether it is alive, and on which
    /// level it is.
    #[must_use]
    pub fn admits(&self, context: &Context) -> bool {
        let in_time = match self.expiry {
            Expiry::AliveAt(now) => !context.is_expired(now),
            Expiry::ExpiredAt(now) => context.is_expired(now),
            Expiry::Any => true,
        };
        let is_valid = match self.validity {
            Validity::Current => context.is_current(),
            Validity::At(at) => context.is_valid_at(at),
            Validity::Any => true,
        };
        let on_level = self.levels.as_ref().is_none_or(|levels| levels.contains(&context.level));
        in_time && is_valid && on_level && self.owner.owns(context)
    }
}
