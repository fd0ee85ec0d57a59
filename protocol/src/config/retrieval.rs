//! How answers are ranked and packed.

use serde::{Deserialize, Serialize};

use super::validate::{self, refuse, within};
use crate::duration::HumanDuration;

/// The share of the token budget that L1 gets at least.
const IMMEDIATE_FLOOR: f64 = 0.1;

/// How answers are ranked and packed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retrieval {
    /// Weights of the four legs.
    pub legs: Legs,
    /// Bounded multiplicative nudges.
    pub nudges: Nudges,
    /// Age at which the recency signal is one half.
    pub recency_half_life: HumanDuration,
    /// Shares of the token budget of L1; the floor is 0.1 when absent.
    #[serde(deserialize_with = "immediate_share")]
    pub immediate: BudgetShare,
    /// Shares of the token budget of L2.
    pub short_term: BudgetShare,
    /// Shares of the token budget of L3.
    pub long_term: BudgetShare,
    /// Budget of a search that names none.
    pub default_token_budget: usize,
    /// Least score of a returned context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// What counts the tokens of contexts. Left out unless chosen, because sidecars before it refuse fields that they do not know.
    #[serde(skip_serializing_if = "is_estimate")]
    pub tokenizer: Tokenizer,
}

impl Default for Retrieval {
    fn default() -> Self {
        Self {
            legs: Legs::default(),
            nudges: Nudges::default(),
            recency_half_life: HumanDuration::from_secs(24 * 3_600),
            immediate: BudgetShare { floor: IMMEDIATE_FLOOR, cap: None },
            short_term: BudgetShare::default(),
            long_term: BudgetShare::default(),
            default_token_budget: 2_000,
            min_score: None,
            tokenizer: Tokenizer::Estimate,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_estimate(tokenizer: &Tokenizer) -> bool {
    *tokenizer == Tokenizer::Estimate
}

/// What counts the tokens of contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// An estimate of the tokens of `o200k_base`, which needs no memory.
    #[default]
    Estimate,
    /// The vocabulary of GPT-4o and later models.
    #[serde(rename = "o200k_base")]
    O200kBase,
    /// The vocabulary of GPT-4 and GPT-3.5.
    #[serde(rename = "cl100k_base")]
    Cl100kBase,
}

/// Weights of the four legs: dense and sparse, over the context itself and over the context with the one before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Legs {
    /// Dense, the context itself.
    pub dense: f64,
    /// Dense, with the one before it.
    pub dense_with_previous: f64,
    /// Sparse (BM25), the context itself.
    pub sparse: f64,
    /// Sparse (BM25), with the one before it.
    pub sparse_with_previous: f64,
}

impl Default for Legs {
    fn default() -> Self {
        Self { dense: 0.2, dense_with_previous: 0.2, sparse: 0.3, sparse_with_previous: 0.3 }
    }
}

/// Bounded multiplicative nudges, each from 0 (off) to 0.1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nudges {
    /// For young contexts.
    pub recency: f64,
    /// For contexts that were often returned.
    pub frequency: f64,
    /// For fresher levels.
    pub level: f64,
}

/// Shares of the token budget that a level gets at least and at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetShare {
    /// At least, if it has that much to offer.
    pub floor: f64,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
}

fn immediate_share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BudgetShare, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        floor: Option<f64>,
        cap: Option<f64>,
    }
    let Given { floor, cap } = Given::deserialize(deserializer)?;
    Ok(BudgetShare { floor: floor.unwrap_or(IMMEDIATE_FLOOR), cap })
}

impl Retrieval {
    pub(super) fn check(&self) -> validate::Result {
        let Self {
            legs,
            nudges: Nudges { recency, frequency, level },
            recency_half_life,
            immediate,
            short_term,
            long_term,
            default_token_budget,
            min_score,
            tokenizer: _,
        } = self;
        legs.check()?;
        for (name, nudge) in [("recency", recency), ("frequency", frequency), ("level", level)] {
            within(format!("retrieval.nudges.{name}"), nudge, 0.0, 0.1)?;
        }
        let shares = [("immediate", immediate), ("short_term", short_term), ("long_term", long_term)];
        for (name, BudgetShare { floor, cap }) in shares {
            within(format!("retrieval.{name}.floor"), floor, 0.0, 1.0)?;
            if let Some(cap) = cap {
                within(format!("retrieval.{name}.cap"), cap, *floor, 1.0)?;
            }
        }
        let floors: f64 = shares.iter().map(|(_, share)| share.floor).sum();
        if floors > 1.0 {
            return refuse("retrieval.*.floor", floors, "the floors of all levels together must be at most 1");
        }
        if recency_half_life.get().is_zero() {
            return refuse("retrieval.recency_half_life", recency_half_life, "it must be longer than zero");
        }
        within("retrieval.default_token_budget", default_token_budget, 1, 1_000_000)?;
        match min_score {
            Some(score) => within("retrieval.min_score", score, -10.0, 10.0),
            None => Ok(()),
        }
    }
}

impl Legs {
    fn check(&self) -> validate::Result {
        let Self { dense, dense_with_previous, sparse, sparse_with_previous } = self;
        let legs = [
            ("dense", dense),
            ("dense_with_previous", dense_with_previous),
            ("sparse", sparse),
            ("sparse_with_previous", sparse_with_previous),
        ];
        for (name, weight) in legs {
            within(format!("retrieval.legs.{name}"), weight, 0.0, 1.0)?;
        }
        if legs.iter().all(|(_, weight)| **weight == 0.0) {
            return refuse("retrieval.legs", "all 0", "at least one leg needs a weight above 0");
        }
        Ok(())
    }
}
