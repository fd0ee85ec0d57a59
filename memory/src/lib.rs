//! The domain of Context Manager: contexts, levels, ranking, token budget, expiry and promotion.
//!
//! Everything here is a pure function of its arguments. The crate owns the *decisions* (what is a valid context, which
//! context answers a query best, what fits in a budget, what has expired, what is promoted) and none of the *effects*:
//! it never reads a clock, never makes an id, never talks to a disk or a network, and knows no async runtime. Time and
//! ids come in as arguments, so every decision can be tested and replayed.
//!
//! The way of a context through the crate:
//!
//! 1. [`limits`] refuses what is too large, [`context`] holds what is valid and [`holder`] whose it is, [`tokens`] counts its length.
//! 2. [`index_text`] builds the two texts under which it can be found, [`lexical`] and [`builtin`] turn them into vectors.
//! 3. A store finds candidates and their exact scores; [`local`] does the same for contexts held in memory, and [`frequencies`] tells both
//!    how rare a term is.
//! 4. [`rank`] orders the candidates and [`budget`] packs them in the caller's token budget.
//! 5. [`store`] says what the store is asked, and how a context lies in it; [`alike`] tells whether what it gives back is what was written.
//! 6. [`expiry`], [`immediate`], [`promotion`], [`update`] and [`history`] decide how it changes, moves and ends.

pub mod alike;
pub mod budget;
pub mod builtin;
pub mod context;
pub mod date;
pub mod expiry;
pub mod frequencies;
pub mod history;
pub mod holder;
pub mod immediate;
pub mod index_text;
pub mod level;
pub mod lexical;
pub mod limits;
pub mod local;
pub mod name;
pub mod promotion;
pub mod rank;
pub mod store;
pub mod time;
pub mod tokens;
pub mod update;
pub mod vectors;

pub use context::{Context, ContextId, Metadata};
pub use holder::Holder;
pub use level::{Level, PerLevel};
pub use name::{Actor, AgentId, SessionId, SpaceId, TenantId};
pub use time::{Timestamp, Ttl};
pub use vectors::{Leg, LegScores, QueryVectors, SparseVector, Vectors};
