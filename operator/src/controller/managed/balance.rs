//! Which replica is made, moved or given up next, so that each shard has as many as are wanted, all on nodes that stay, and nodes have as
//! many as each other: pure. One step at a time, from what the cluster itself says, so nothing has to be remembered. No step leaves a
//! shard with fewer replicas than it had, unless it has more than are wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::view::Collection;

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A collection is told how many replicas its shards have.
    Factor { collection: String, factor: u32 },
    /// A replica more.
    Replicate { collection: String, shard: u32, from: u64, to: u64 },
    /// A replica elsewhere.
    Move { collection: String, shard: u32, from: u64, to: u64 },
    /// A replica less.
    Drop { collection: String, shard: u32, peer: u64 },
    /// A peer without replicas leaves the cluster.
    Remove { peer: u64 },
}

/// Peers that stay, and those that are to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peers {
    pub(super) staying: BTreeSet<u64>,
    pub(super) leaving: BTreeSet<u64>,
}

/// Where a shard is.
struct Shard<'c> {
    collection: &'c str,
    number: u32,
    holders: BTreeSet<u64>,
}

/// The next step, if there is one. All replicas are whole, and none is on its way.
pub(super) fn next(collections: &[Collection], peers: &Peers, factor: u32) -> Option<Step> {
    let Peers { staying, leaving } = peers;
    if staying.is_empty() {
        return None;
    }
    let different = collections.iter().find(|collection| collection.factor != Some(factor));
    if let Some(Collection { name, .. }) = different {
        return Some(Step::Factor { collection: name.clone(), factor });
    }
    let shards = shards(collections);
    let loads = loads(&shards, peers);
    let load = |peer: &u64| loads.get(peer).copied().unwrap_or_default();
    let wanted = usize::try_from(factor).unwrap_or(usize::MAX).min(staying.len());
    for Shard { collection, number, holders } in &shards {
        let (collection, shard) = ((*collection).to_owned(), *number);
        let stay: BTreeSet<u64> = holders.intersection(staying).copied().collect();
        let leave = holders.intersection(leaving).next().copied();
        if stay.len() < wanted {
            let to = staying.difference(holders).min_by_key(|peer| load(peer)).copied()?;
            return match (leave, holders.first().copied()) {
                (Some(from), _) => Some(Step::Move { collection, shard, from, to }),
                (None, Some(from)) => Some(Step::Replicate { collection, shard, from, to }),
                (None, None) => None,
            };
        }
        let superfluous = leave.or_else(|| {
            let fullest = stay.iter().max_by_key(|peer| load(peer)).copied();
            fullest.filter(|_| stay.len() > wanted)
        });
        if let Some(peer) = superfluous {
            return Some(Step::Drop { collection, shard, peer });
        }
    }
    if let Some(peer) = leaving.first().copied() {
        return Some(Step::Remove { peer });
    }
    even(&shards, staying, load)
}

fn shards(collections: &[Collection]) -> Vec<Shard<'_>> {
    let mut shards = BTreeMap::<(&str, u32), BTreeSet<u64>>::new();
    for collection in collections {
        for replica in &collection.replicas {
            shards.entry((&collection.name, replica.shard)).or_default().insert(replica.peer);
        }
    }
    shards.into_iter().map(|((collection, number), holders)| Shard { collection, number, holders }).collect()
}

/// How many replicas each peer has.
fn loads(shards: &[Shard<'_>], Peers { staying, leaving }: &Peers) -> BTreeMap<u64, usize> {
    let mut loads: BTreeMap<_, _> = staying.iter().chain(leaving).map(|peer| (*peer, 0)).collect();
    for peer in shards.iter().flat_map(|shard| &shard.holders) {
        *loads.entry(*peer).or_default() += 1;
    }
    loads
}

/// A move from a peer that has two more than another one.
fn even(shards: &[Shard<'_>], staying: &BTreeSet<u64>, load: impl Fn(&u64) -> usize) -> Option<Step> {
    let mut by_load: Vec<u64> = staying.iter().copied().collect();
    by_load.sort_by_key(|peer| (load(peer), *peer));
    for &to in &by_load {
        for &from in by_load.iter().rev().filter(|from| load(from) >= load(&to) + 2) {
            let fits = |shard: &&Shard<'_>| shard.holders.contains(&from) && !shard.holders.contains(&to);
            if let Some(Shard { collection, number, .. }) = shards.iter().find(fits) {
                return Some(Step::Move { collection: (*collection).to_owned(), shard: *number, from, to });
            }
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::controller::managed::view::{ACTIVE, Replica};

    fn collection(name: &str, factor: u32, replicas: &[(u32, u64)]) -> Collection {
        let replica = |&(shard, peer): &(u32, u64)| Replica { shard, peer, state: ACTIVE.to_owned() };
        let replicas = replicas.iter().map(replica).collect();
        Collection { name: name.to_owned(), replicas, is_moving: false, factor: Some(factor) }
    }

    fn peers(staying: &[u64], leaving: &[u64]) -> Peers {
        Peers { staying: staying.iter().copied().collect(), leaving: leaving.iter().copied().collect() }
    }

    /// What Qdrant makes of a step.
    fn carry_out(collections: &mut [Collection], peers: &mut Peers, step: &Step) {
        let mut change = |name: &str, change: &dyn Fn(&mut Vec<Replica>)| {
            change(&mut collections.iter_mut().find(|collection| collection.name == name).unwrap().replicas);
        };
        let replica = |shard: u32, peer: u64| Replica { shard, peer, state: ACTIVE.to_owned() };
        match step {
            Step::Factor { collection, factor } => {
                let found = collections.iter_mut().find(|found| found.name == *collection).unwrap();
                found.factor = Some(*factor);
            }
            Step::Replicate { collection, shard, from: _, to } => {
                change(collection, &|replicas| replicas.push(replica(*shard, *to)));
            }
            Step::Move { collection, shard, from, to } => change(collection, &|replicas| {
                replicas.retain(|other| *other != replica(*shard, *from));
                replicas.push(replica(*shard, *to));
            }),
            Step::Drop { collection, shard, peer } => {
                change(collection, &|replicas| replicas.retain(|other| *other != replica(*shard, *peer)));
            }
            Step::Remove { peer } => assert!(peers.leaving.remove(peer)),
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let three = [collection("a", 2, &[(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 1)])];
        assert_eq!(next(&three, &peers(&[1, 2, 3], &[]), 2), None);
        // Two replicas on three nodes cannot be spread more evenly.
        assert_eq!(next(&[collection("a", 2, &[(0, 1), (0, 2)])], &peers(&[1, 2, 3], &[]), 2), None);
    }

    #[test]
    fn one_node_becomes_three() {
        let mut one = [collection("a", 1, &[(0, 1), (1, 1), (2, 1)])];
        let mut peers = peers(&[1, 2, 3], &[]);
        let mut steps = Vec::new();
        while let Some(step) = next(&one, &peers, 2) {
            carry_out(&mut one, &mut peers, &step);
            steps.push(step);
        }
        let a = || "a".to_owned();
        let expected = [
            Step::Factor { collection: a(), factor: 2 },
            Step::Replicate { collection: a(), shard: 0, from: 1, to: 2 },
            Step::Replicate { collection: a(), shard: 1, from: 1, to: 3 },
            Step::Replicate { collection: a(), shard: 2, from: 1, to: 2 },
            Step::Move { collection: a(), shard: 0, from: 1, to: 3 },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_peer_leaves_when_it_has_nothing_left() {
        let mut three = [collection("a", 2, &[(0, 1), (0, 3), (1, 2), (1, 3)])];
        let mut peers = peers(&[1, 2], &[3]);
        let mut steps = Vec::new();
        while let Some(step) = next(&three, &peers, 2) {
            carry_out(&mut three, &mut peers, &step);
            steps.push(step);
        }
        let moved = |shard, to| Step::Move { collection: "a".to_owned(), shard, from: 3, to };
        assert_eq!(steps, [moved(0, 2), moved(1, 1), Step::Remove { peer: 3 }]);
    }

    proptest! {
        #[test]
        fn from_anywhere_it_ends_with_all_shards_replicated_evenly_and_loses_nothing(
            placed in prop::collection::btree_set((0_u32..2, 0_u32..6, 0_u64..6), 1..40),
            stay in 1_u64..6, factor in 1_u32..4,
        ) {
            let of = |index: u32| -> Vec<(u32, u64)> {
                placed.iter().filter(|place| place.0 == index).map(|&(_, shard, peer)| (shard, peer)).collect()
            };
            let mut all = [collection("a", 1, &of(0)), collection("b", 2, &of(1))];
            let everybody: BTreeSet<u64> = (0..6).collect();
            let mut peers = Peers {
                staying: everybody.iter().copied().filter(|peer| *peer < stay).collect(),
                leaving: everybody.iter().copied().filter(|peer| *peer >= stay).collect(),
            };
            let wanted = usize::try_from(factor).unwrap().min(peers.staying.len());
            let count = |all: &[Collection]| -> BTreeMap<(String, u32), usize> {
                let mut counts = BTreeMap::new();
                for collection in all {
                    for replica in &collection.replicas {
                        *counts.entry((collection.name.clone(), replica.shard)).or_default() += 1;
                    }
                }
                counts
            };
            let mut steps = 0;
            while let Some(step) = next(&all, &peers, factor) {
                let before = count(&all);
                if let Step::Remove { peer } = &step {
                    prop_assert!(all.iter().flat_map(|found| &found.replicas).all(|replica| replica.peer != *peer));
                }
                carry_out(&mut all, &mut peers, &step);
                for (shard, now) in count(&all) {
                    prop_assert!(now >= before[&shard].min(wanted), "{step:?}");
                }
                prop_assert_eq!(count(&all).len(), before.len());
                steps += 1;
                prop_assert!(steps < 200, "it does not end");
            }
            prop_assert!(peers.leaving.is_empty());
            prop_assert!(count(&all).values().all(|replicas| *replicas == wanted));
            let shards = shards(&all);
            let loads = loads(&shards, &peers);
            let most = loads.values().max().unwrap();
            let least = loads.values().min().unwrap();
            prop_assert!(most - least <= 1, "{:?}", loads);
        }
    }
}
