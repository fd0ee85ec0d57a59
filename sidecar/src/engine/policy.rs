//! The decisions that the configuration makes, in the domain's terms.

use std::time::Duration;

use context_manager_memory::{
    Level, PerLevel, Timestamp, Ttl, budget::Share, expiry::LevelTtls, rank, tokens::Tokenizer,
};
use context_manager_protocol::config::{self, BudgetShare, LevelConfig, SidecarConfig};

/// The decisions.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) ttls: LevelTtls,
    pub(super) capacities: PerLevel<Option<usize>>,
    pub(super) min_accesses: Option<i64>,
    pub(super) ranking: rank::Settings,
    pub(super) shares: PerLevel<Share>,
    pub(super) default_token_budget: usize,
    pub(super) min_score: Option<f64>,
    pub(super) tokenizer: Tokenizer,
    history: Duration,
}

impl Policy {
    pub(super) fn of(config: &SidecarConfig) -> Self {
        let level = |level| -> &LevelConfig {
            match level {
                Level::Immediate => &config.levels.immediate,
                Level::ShortTerm => &config.levels.short_term,
                Level::LongTerm => &config.levels.long_term,
            }
        };
        let retrieval = &config.retrieval;
        let tokenizer = match retrieval.tokenizer {
            config::Tokenizer::Estimate => Tokenizer::Estimate,
            config::Tokenizer::O200kBase => Tokenizer::O200kBase,
            config::Tokenizer::Cl100kBase => Tokenizer::Cl100kBase,
        };
        // A vocabulary is unpacked now, and not while somebody waits for an answer.
        let _ = tokenizer.count("");
        let share = |share: &BudgetShare| Share { floor: share.floor, cap: share.cap };
        Self {
            ttls: PerLevel::from_fn(|of| level(of).ttl.and_then(|ttl| Ttl::new(ttl.get()))),
            capacities: PerLevel::from_fn(|of| level(of).capacity),
            min_accesses: config.levels.promotion.min_accesses,
            ranking: rank::Settings {
                weights: rank::Weights {
                    dense_self: retrieval.legs.dense,
                    dense_ctx: retrieval.legs.dense_with_previous,
                    sparse_self: retrieval.legs.sparse,
                    sparse_ctx: retrieval.legs.sparse_with_previous,
                },
                boosts: rank::Boosts::default(),
                nudges: rank::Nudges {
                    recency: retrieval.nudges.recency,
                    frequency: retrieval.nudges.frequency,
                    level: retrieval.nudges.level,
                },
                recency_half_life: retrieval.recency_half_life.get(),
            },
            shares: PerLevel {
                immediate: share(&retrieval.immediate),
                short_term: share(&retrieval.short_term),
                long_term: share(&retrieval.long_term),
            },
            default_token_budget: retrieval.default_token_budget,
            min_score: retrieval.min_score,
            tokenizer,
            history: config.history.keep_for.get(),
        }
    }

    /// Until when it is kept what a context was before a change at `now`; `None` keeps nothing.
    pub(super) fn history_until(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.history.is_zero()).then(|| now + self.history)
    }
}
