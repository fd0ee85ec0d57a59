//! The three levels: how much of each is kept, and for how long.

use serde::{Deserialize, Serialize};

use super::validate::{self, refuse, within};
use crate::duration::HumanDuration;

/// The three levels. What a table leaves out has the default of its level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "GivenLevels")]
pub struct Levels {
    /// L1.
    pub immediate: LevelConfig,
    /// L2.
    pub short_term: LevelConfig,
    /// L3.
    pub long_term: LevelConfig,
    /// From L2 to L3.
    pub promotion: Promotion,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            immediate: LevelConfig { capacity: Some(10), ttl: Some(HumanDuration::from_secs(3_600)) },
            short_term: LevelConfig { capacity: Some(100), ttl: Some(HumanDuration::from_secs(3_600)) },
            long_term: LevelConfig::default(),
            promotion: Promotion { min_accesses: Some(3) },
        }
    }
}

/// The levels as they are written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenLevels {
    immediate: LevelConfig,
    short_term: LevelConfig,
    long_term: LevelConfig,
    promotion: Promotion,
}

impl From<GivenLevels> for Levels {
    fn from(given: GivenLevels) -> Self {
        let GivenLevels { immediate, short_term, long_term, promotion } = given;
        let or = |given: LevelConfig, default: LevelConfig| LevelConfig {
            capacity: given.capacity.or(default.capacity),
            ttl: given.ttl.or(default.ttl),
        };
        let default = Self::default();
        Self {
            immediate: or(immediate, default.immediate),
            short_term: or(short_term, default.short_term),
            long_term: or(long_term, default.long_term),
            promotion: Promotion { min_accesses: promotion.min_accesses.or(default.promotion.min_accesses) },
        }
    }
}

/// One level. Without a capacity it is not bounded, without a TTL its contexts are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelConfig {
    /// Most contexts of a session in this level; the oldest make room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
    /// How long a context lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
}

/// From L2 to L3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Promotion {
    /// A short-term context that was returned this often is kept as a long-term one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accesses: Option<i64>,
}

impl Levels {
    pub(super) fn check(&self) -> validate::Result {
        let Self { immediate, short_term, long_term, promotion: Promotion { min_accesses } } = self;
        for (name, level) in [("immediate", immediate), ("short_term", short_term), ("long_term", long_term)] {
            level.check(name)?;
        }
        if let Some(capacity) = long_term.capacity {
            let remedy = "leave it out: what was kept on purpose makes no room for others";
            return refuse("levels.long_term.capacity", capacity, remedy);
        }
        match min_accesses {
            Some(accesses) => within("levels.promotion.min_accesses", accesses, 1, 1_000_000),
            None => Ok(()),
        }
    }
}

impl LevelConfig {
    fn check(&self, name: &str) -> validate::Result {
        let Self { capacity, ttl } = self;
        if let Some(capacity) = capacity {
            within(format!("levels.{name}.capacity"), capacity, 1, 1_000_000)?;
        }
        match ttl {
            Some(ttl) if ttl.get().is_zero() => {
                let remedy = "it must be longer than zero; leave it out to keep contexts";
                refuse(format!("levels.{name}.ttl"), ttl, remedy)
            }
            Some(_) | None => Ok(()),
        }
    }
}
