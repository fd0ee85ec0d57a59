//! Packing: which ranked contexts fit in a token budget.
//!
//! Small floors per level first, then one pass over the global order that skips what does not fit, under optional caps. What a
//! level does not use goes where the demand is, and a long context never keeps a shorter one out.

use crate::{Level, PerLevel};

/// What packing needs to know of a ranked context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its level.
    pub level: Level,
    /// Its length in tokens.
    pub tokens: u32,
}

/// The shares of the budget that a level gets at least and at most, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// At least, if it has that much to offer.
    pub floor: f64,
    /// At most.
    pub cap: Option<f64>,
}

/// A context that is part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its place in the ranking, from 0.
    pub place: usize,
    /// The tokens it may have; fewer than its length if it has to be shortened.
    pub tokens: u32,
    /// Whether it has to be shortened.
    pub shortened: bool,
}

/// What fits and what does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// What fits, in the order of the ranking.
    pub taken: Vec<Taken>,
    /// Places of what does not, in the order of the ranking.
    pub left_out: Vec<usize>,
    /// Tokens used by level.
    pub used: PerLevel<u32>,
}

/// Packs `ranked`, best first, in `budget` tokens and at most `limit` contexts.
///
/// The best one is always part of the answer: if it alone is longer than the budget it is shortened to it.
///
/// ```
/// use context_manager_memory::{Level, PerLevel, budget::{Item, pack}};
///
/// let item = |tokens| Item { level: Level::LongTerm, tokens };
/// let packing = pack(&[item(6), item(9), item(4)], 10, 100, &PerLevel::default());
/// assert_eq!(packing.taken.iter().map(|taken| taken.place).collect::<Vec<_>>(), [0, 2]);
/// assert_eq!(packing.left_out, [1]);
/// ```
#[must_use]
pub fn pack(ranked: &[Item], budget: u32, limit: usize, shares: &PerLevel<Share>) -> Packing {
    let mut packer =
        Packer { ranked, budget, limit, shares, tokens: vec![None; ranked.len()], used: PerLevel::default(), count: 0 };
    packer.best();
    packer.floors();
    for (place, item) in ranked.iter().enumerate() {
        packer.take(place, packer.cap(item.level));
    }
    packer.finish()
}

struct Packer<'a> {
    ranked: &'a [Item],
    budget: u32,
    limit: usize,
    shares: &'a PerLevel<Share>,
    tokens: Vec<Option<u32>>,
    used: PerLevel<u32>,
    count: usize,
}

impl Packer<'_> {
    fn best(&mut self) {
        if let Some(best) = self.ranked.first().filter(|_| self.budget > 0 && self.limit > 0) {
            let tokens = best.tokens.min(self.budget);
            self.tokens[0] = Some(tokens);
            self.used[best.level] += tokens;
            self.count = 1;
        }
    }

    fn floors(&mut self) {
        for level in Level::ALL {
            let floor = share_of(self.budget, self.shares[level].floor);
            for place in 0..self.ranked.len() {
                if self.ranked[place].level == level {
                    self.take(place, floor);
                }
            }
        }
    }

    /// Takes a context if it fits in what is left of the budget, and its level stays within `level_budget`.
    fn take(&mut self, place: usize, level_budget: u32) {
        let Item { level, tokens } = self.ranked[place];
        let total: u32 = self.used.iter().map(|(_, used)| *used).sum();
        let fits = tokens <= self.budget - total && self.used[level].saturating_add(tokens) <= level_budget;
        if self.tokens[place].is_none() && fits && self.count < self.limit && self.budget > 0 {
            self.tokens[place] = Some(tokens);
            self.used[level] += tokens;
            self.count += 1;
        }
    }

    fn cap(&self, level: Level) -> u32 {
        self.shares[level].cap.map_or(self.budget, |cap| share_of(self.budget, cap))
    }

    fn finish(self) -> Packing {
        let mut packing = Packing { used: self.used, ..Packing::default() };
        for (place, (tokens, item)) in self.tokens.iter().zip(self.ranked).enumerate() {
            match *tokens {
                Some(tokens) => packing.taken.push(Taken { place, tokens, shortened: tokens < item.tokens }),
                None => packing.left_out.push(place),
            }
        }
        packing
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32 lies within u32")]
fn share_of(budget: u32, share: f64) -> u32 {
    (f64::from(budget) * share.clamp(0.0, 1.0)).floor() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items() -> impl Strategy<Value = Vec<Item>> {
        prop::collection::vec(
            (0_usize..3, 0_u32..60).prop_map(|(level, tokens)| Item { level: Level::ALL[level], tokens }),
            0..40,
        )
    }

    fn shares() -> impl Strategy<Value = PerLevel<Share>> {
        prop::collection::vec((0.0_f64..0.33, prop::option::of(0.33_f64..1.0)), 3).prop_map(|shares| {
            let share = |place: usize| Share { floor: shares[place].0, cap: shares[place].1 };
            PerLevel { immediate: share(0), short_term: share(1), long_term: share(2) }
        })
    }

    fn total(packing: &Packing) -> u32 {
        packing.taken.iter().map(|taken| taken.tokens).sum()
    }

    proptest! {
        #[test]
        fn the_budget_is_never_exceeded(items in items(), budget in 0_u32..400, limit in 0_usize..50, shares in shares()) {
            let packing = pack(&items, budget, limit, &shares);
            prop_assert!(total(&packing) <= budget);
            prop_assert!(packing.taken.len() <= limit);
            prop_assert_eq!(total(&packing), packing.used.iter().map(|(_, used)| *used).sum::<u32>());
        }

        #[test]
        fn every_item_is_taken_or_left_out_once_and_in_order(items in items(), budget in 0_u32..400, shares in shares()) {
            let packing = pack(&items, budget, 50, &shares);
            let mut places: Vec<_> = packing.taken.iter().map(|taken| taken.place).collect();
            prop_assert!(places.is_sorted());
            places.extend(&packing.left_out);
            places.sort_unstable();
            prop_assert_eq!(places, (0..items.len()).collect::<Vec<_>>());
        }

        #[test]
        fn the_best_is_always_there(items in items(), budget in 1_u32..400, shares in shares()) {
            let packing = pack(&items, budget, 50, &shares);
            prop_assert_eq!(packing.taken.first().map(|taken| taken.place), items.first().map(|_| 0));
        }

        #[test]
        fn nothing_that_would_fit_is_left_out(items in items(), budget in 1_u32..400) {
            let packing = pack(&items, budget, 50, &PerLevel::default());
            let free = budget - total(&packing);
            prop_assert!(packing.left_out.iter().all(|&place| items[place].tokens > free));
        }

        #[test]
        fn a_larger_budget_loses_no_context_to_a_worse_one(items in items(), budget in 1_u32..400, more in 1_u32..100) {
            let taken = |budget| {
                let packing = pack(&items, budget, 50, &PerLevel::default());
                let whole = packing.taken.iter().filter(|taken| !taken.shortened).map(|taken| taken.place);
                (whole.collect::<std::collections::BTreeSet<_>>(), total(&packing))
            };
            let ((less, used), (larger, used_of_more)) = (taken(budget), taken(budget + more));
            // The best context in which they differ is one that the larger budget has.
            let differs = less.symmetric_difference(&larger).min();
            prop_assert!(differs.is_none_or(|place| larger.contains(place)), "{:?} {:?}", less, larger);
            prop_assert!(used_of_more >= used);
        }

        #[test]
        fn a_cap_binds_all_but_the_best(items in items(), budget in 1_u32..400, shares in shares()) {
            let packing = pack(&items, budget, 50, &shares);
            for level in Level::ALL {
                let best = packing.taken.first().filter(|best| items[best.place].level == level);
                let cap = shares[level].cap.map_or(budget, |cap| share_of(budget, cap));
                prop_assert!(packing.used[level] <= cap.max(best.map_or(0, |best| best.tokens)));
            }
        }

        #[test]
        fn a_floor_is_filled_as_far_as_its_level_and_the_room_allow(
            items in items(),
            budget in 1_u32..400,
            shares in shares(),
        ) {
            let packing = pack(&items, budget, 50, &shares);
            for level in Level::ALL {
                let missing = share_of(budget, shares[level].floor).saturating_sub(packing.used[level]);
                // What the best one takes, and other levels' floors, may leave less room than the floor asks for.
                let room = missing.min(budget - total(&packing));
                let left = packing.left_out.iter().map(|&place| items[place]).filter(|item| item.level == level);
                prop_assert!(missing == 0 || left.clone().all(|item| item.tokens > room), "{:?} {} {:?}", level, room, packing);
            }
        }

        #[test]
        fn floors_come_before_what_ranks_higher(budget in 40_u32..400, floor in 0.1_f64..0.5, long in 1_u32..400) {
            // Everything else ranks before the level with the floor, the best one being as long as it may be.
            let mut items = vec![Item { level: Level::LongTerm, tokens: long }];
            items.extend([Item { level: Level::LongTerm, tokens: 1 }; 400]);
            items.extend([Item { level: Level::Immediate, tokens: 1 }; 400]);
            let shares = PerLevel { immediate: Share { floor, cap: None }, ..PerLevel::default() };
            let packing = pack(&items, budget, 1_000, &shares);
            prop_assert_eq!(packing.used.immediate, share_of(budget, floor).min(budget - long.min(budget)));
            prop_assert_eq!(total(&packing), budget);
        }

        #[test]
        fn a_budget_for_everything_takes_everything(items in items()) {
            let all = items.iter().map(|item| item.tokens).sum::<u32>().max(1);
            prop_assert!(pack(&items, all, 50, &PerLevel::default()).left_out.is_empty());
        }
    }

    #[test]
    fn a_floor_keeps_room_for_a_level_that_ranks_low() {
        let long = Item { level: Level::LongTerm, tokens: 10 };
        let fresh = Item { level: Level::Immediate, tokens: 10 };
        let items = [long, long, long, long, fresh];
        let shares = PerLevel { immediate: Share { floor: 0.25, cap: None }, ..PerLevel::default() };
        let packing = pack(&items, 40, 50, &shares);
        assert_eq!(packing.left_out, [3]);
        assert_eq!(packing.used.immediate, 10);
    }

    #[test]
    fn a_cap_leaves_room_for_the_others_but_not_for_itself() {
        let items = [Item { level: Level::LongTerm, tokens: 10 }; 4];
        let shares = PerLevel { long_term: Share { floor: 0.0, cap: Some(0.5) }, ..PerLevel::default() };
        assert_eq!(pack(&items, 40, 50, &shares).taken.len(), 2);
    }

    #[test]
    fn a_best_that_is_too_long_is_shortened_to_the_budget() {
        let packing = pack(&[Item { level: Level::LongTerm, tokens: 90 }], 40, 50, &PerLevel::default());
        assert_eq!(packing.taken, [Taken { place: 0, tokens: 40, shortened: true }]);
    }
}
