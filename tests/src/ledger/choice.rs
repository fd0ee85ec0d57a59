//! What an agent does next.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Agent,
    entry::{Entry, Life},
    now,
    operation::{Operation, Patch, Stored},
};

/// Contexts of a batch.
const BATCH: usize = 3;
/// Contexts that an agent keeps at least before it deletes.
const KEPT: usize = 12;
/// What has less time left is not prolonged any more, in milliseconds.
const TOO_LATE: i64 = 150;
/// How long ago something must have expired for its id to be used again, likewise.
const SURELY: i64 = 50;

impl Agent {
    pub(super) fn choose(&mut self) -> Operation {
        self.step += 1;
        let (now, choice) = (now(), self.next_random(40));
        // What follows is meant for what was stored first.
        if let Some(id) = self.again.take() {
            return Operation::Delete { id };
        }
        // Little time is left for these.
        let brief = |(_, entry): &(&Uuid, &Entry)| entry.life == Life::Brief && !entry.has_expired(now + TOO_LATE);
        let brief = self.entries.iter().find(brief).map(|(id, _)| *id);
        if let Some(id) = brief.filter(|_| choice % 2 == 0) {
            return Operation::Change { id, patch: Patch::Prolong };
        }
        // The other sidecar does not know that a change waits, which may have taken effect.
        let waiting = self.waiting.take().filter(|id| self.entries.contains_key(id));
        if let Some(id) = waiting.filter(|_| self.elsewhere.is_some()) {
            return Operation::ChangeElsewhere { id, key: format!("elsewhere-{}", self.step) };
        }
        if self.elsewhere.is_some() && self.next_random(8) == 0 {
            return self.choose_elsewhere();
        }
        let living = self.lasting(|_| true);
        let new = self.new_context();
        if living.len() < KEPT || choice < 10 {
            return Operation::Store(new);
        }
        let (id, entry) = living[self.next_random(living.len())].clone();
        if choice == 36
            && entry.was_changed()
            && let Some(stored) = &entry.sent
        {
            return Operation::StoreAgain { id, stored: stored.clone() };
        }
        match choice {
            10..16 => Operation::Store(Stored { texts: (0..BATCH).map(|number| self.text(number)).collect(), ..new }),
            16..21 => match entry.known_version() {
                Some(expected) => Operation::Update { id, text: format!("{}, changed", self.text(0)), expected },
                None => Operation::Change { id, patch: Patch::Mark("mark".to_owned(), self.step) },
            },
            21..24 if entry.takes_any_change() => {
                Operation::Change { id, patch: Patch::Mark("mark".to_owned(), self.step) }
            }
            // What it supersedes stays so when it has expired.
            21..27 => Operation::Store(Stored { supersedes: Some(id), is_brief: choice == 26, ..new }),
            27..31 => Operation::Delete { id },
            31 => Operation::DeleteGroup { group: entry.group },
            32..34 => Operation::Store(Stored { session: self.side(), ..new }),
            34 => Operation::Clear { session: self.side() },
            35 => Operation::Import { id: Uuid::now_v7(), at: now, text: self.text(0), group: new.group },
            _ => self.choose_brief(new, now),
        }
    }

    /// A context with little time to live; under an id that had another one, if that has expired.
    fn choose_brief(&mut self, new: Stored, now: i64) -> Operation {
        let before = self.entries.get(&self.reused);
        if before.is_some_and(|entry| entry.life != Life::Brief) {
            self.reused = Uuid::now_v7();
        } else if before.is_some_and(|entry| !entry.has_expired(now - SURELY)) {
            return Operation::Store(Stored { is_brief: true, ..new });
        }
        // What it says may be the same again.
        let text = if self.step.is_multiple_of(2) { self.text(0) } else { format!("{}, as ever", self.name) };
        Operation::Store(Stored { id: Some(self.reused), texts: vec![text], is_brief: true, ..new })
    }

    fn choose_elsewhere(&mut self) -> Operation {
        let changed = self.lasting(Entry::takes_any_change);
        if changed.is_empty() || self.next_random(4) == 0 {
            return Operation::StoreElsewhere { id: Uuid::now_v7(), text: self.text(0) };
        }
        let (id, _) = changed[self.next_random(changed.len())].clone();
        // A key of its own, because it may not be answered.
        Operation::ChangeElsewhere { id, key: format!("elsewhere-{}", self.step) }
    }

    /// What is there for long, by this sidecar's hand.
    fn lasting(&self, is_wanted: impl Fn(&Entry) -> bool) -> Vec<(Uuid, Entry)> {
        let lasting = |entry: &Entry| !entry.superseded && entry.lasts() && !entry.is_elsewheres && is_wanted(entry);
        let entries: &BTreeMap<Uuid, Entry> = &self.entries;
        entries.iter().filter(|(_, entry)| lasting(entry)).map(|(id, entry)| (*id, entry.clone())).collect()
    }

    fn new_context(&mut self) -> Stored {
        Stored {
            id: None,
            key: format!("{}-{}", self.name, self.step),
            level: ["long_term", "short_term", "immediate"][self.next_random(3)],
            texts: vec![self.text(0)],
            session: self.name.clone(),
            group: format!("{}-{}", self.name, self.step / 5),
            supersedes: None,
            is_brief: false,
        }
    }

    fn text(&self, number: usize) -> String {
        format!("{}, step {}, number {number}", self.name, self.step)
    }

    /// The session that is cleared at times.
    pub(super) fn side(&self) -> String {
        format!("{}-side", self.name)
    }

    fn next_random(&mut self, below: usize) -> usize {
        // Xorshift: the same work for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below.max(1) as u64).unwrap_or(0)
    }
}
