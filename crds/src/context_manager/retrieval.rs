//! `spec.retrieval`: how answers are ranked and packed into a token budget.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::Duration, rules};

/// How answers are ranked and packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retrieval {
    /// Weights of the four legs of a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legs: Option<Legs>,
    /// Small multiplicative nudges. Default: all 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nudges: Option<Nudges>,
    /// Age at which the recency signal is one half. Default: 24h.
    #[x_kube(validation = rules::HALF_LIFE)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recency_half_life: Option<Duration>,
    /// Shares of the token budget, by level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<LevelShares>,
    /// Budget of a search that names none. Default: 2000.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_token_budget: Option<i32>,
    /// Least score of a returned context. Default: none.
    #[schemars(range(min = -10.0, max = 10.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    /// What counts the tokens of contexts. Default: estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
}

/// What counts the tokens of contexts. Default: estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Tokenizer {
    /// An estimate of the tokens of `o200k_base`, which needs no memory.
    #[default]
    #[serde(rename = "estimate")]
    Estimate,
    /// The vocabulary of GPT-4o and later models.
    #[serde(rename = "o200k_base")]
    O200kBase,
    /// The vocabulary of GPT-4 and GPT-3.5.
    #[serde(rename = "cl100k_base")]
    Cl100kBase,
}

/// Weights of the four legs: dense and sparse, over the context itself and over the context with the one before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::A_LEG)]
#[serde(rename_all = "camelCase")]
pub struct Legs {
    /// Dense, the context itself. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<f64>,
    /// Dense, with the one before it. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_with_previous: Option<f64>,
    /// Sparse (BM25), the context itself. Default: 0.3.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse: Option<f64>,
    /// Sparse (BM25), with the one before it. Default: 0.3.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse_with_previous: Option<f64>,
}

/// Multiplicative nudges, each at most a tenth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nudges {
    /// For young contexts.
    #[schemars(range(min = 0.0, max = 0.1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recency: Option<f64>,
    /// For contexts that were often returned.
    #[schemars(range(min = 0.0, max = 0.1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency: Option<f64>,
    /// For fresher levels.
    #[schemars(range(min = 0.0, max = 0.1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<f64>,
}

/// Shares of the token budget, by level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::FLOOR_BELOW_CAP, validation = rules::FLOORS_FIT)]
#[serde(rename_all = "camelCase")]
pub struct LevelShares {
    /// Of the immediate level. Default: a floor of 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<Share>,
    /// Of the short-term level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_term: Option<Share>,
    /// Of the long-term level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_term: Option<Share>,
}

/// Share of the token budget that a level gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// At least, if it has that much to offer. Default: 0, and 0.1 for immediate.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// At most. Default: all of it.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
}
