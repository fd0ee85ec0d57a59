//! A bound on bytes that are in memory at once, shared fairly by those who send them.
//!
//! Where there is no room, who has most gives some back: the largest that it has, and only to somebody who would have less even then. So whoever
//! sends little is let in, however many others send much and slowly, and however long they take. Who has most itself waits a moment for
//! room and is refused then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::server::Peer;

/// Most that wait; each looks again whenever room is given back.
const WAITING: usize = 256;

/// All the room there is.
#[derive(Debug)]
pub(super) struct Room {
    limit: u64,
    patience: Duration,
    table: Mutex<Table>,
    freed: Notify,
}

/// There is no room, and there was none for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Room for some bytes, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    room: Arc<Room>,
    id: u64,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    waiting: usize,
    guests: BTreeMap<u64, Entry>,
    /// Bytes of all of them.
    held: u64,
    /// Bytes of those that were not told to leave, by whose they are.
    staying: HashMap<Peer, u64>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    bytes: u64,
    /// By which it is told to leave.
    order: CancellationToken,
    told: bool,
}

impl Room {
    /// For so many bytes, for which is waited so long.
    pub(super) fn new(limit: u64, patience: Duration) -> Arc<Self> {
        Arc::new(Self { limit, patience, table: Mutex::default(), freed: Notify::new() })
    }

    /// Takes room. Who has it lets go of it when `order` is cancelled.
    pub(super) async fn enter(
        self: &Arc<Self>,
        peer: Peer,
        bytes: u64,
        order: &CancellationToken,
    ) -> Result<Guest, Full> {
        if let Some(guest) = self.try_enter(peer, bytes, order) {
            return Ok(guest);
        }
        let _waiting = Waiting::new(self)?;
        let wait = async {
            loop {
                // From here on nothing is missed, although it is only waited for below.
                let freed = self.freed.notified();
                if let Some(guest) = self.try_enter(peer, bytes, order) {
                    return guest;
                }
                freed.await;
            }
        };
        tokio::time::timeout(self.patience, wait).await.map_err(|_| Full)
    }

    /// Bytes that are taken.
    pub(super) fn held(&self) -> u64 {
        self.table().held
    }

    fn try_enter(self: &Arc<Self>, peer: Peer, bytes: u64, order: &CancellationToken) -> Option<Guest> {
        let id = self.table().ask(self.limit, Entry { peer, bytes, order: order.clone(), told: false })?;
        Some(Guest { room: Arc::clone(self), id })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Lets somebody in, or tells others to leave for it where that is fair.
    fn ask(&mut self, limit: u64, entry: Entry) -> Option<u64> {
        if self.held.checked_add(entry.bytes).is_none_or(|held| held > limit) {
            self.make_way(limit, entry.peer, entry.bytes);
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.held += entry.bytes;
        *self.staying.entry(entry.peer).or_default() += entry.bytes;
        self.guests.insert(id, entry);
        Some(id)
    }

    fn make_way(&mut self, limit: u64, newcomer: Peer, bytes: u64) {
        let own = self.of(newcomer).saturating_add(bytes);
        let mut staying: u64 = self.staying.values().sum();
        while staying.saturating_add(bytes) > limit {
            let others = self.staying.iter().filter(|(peer, held)| **peer != newcomer && **held > own);
            let Some((most, _)) = others.max_by_key(|(peer, held)| (**held, **peer)) else { return };
            let theirs = self.guests.values_mut().filter(|entry| entry.peer == *most && !entry.told);
            let Some(largest) = theirs.max_by_key(|entry| entry.bytes) else { return };
            largest.told = true;
            largest.order.cancel();
            let (peer, held) = (largest.peer, largest.bytes);
            staying = staying.saturating_sub(held);
            self.give_back(peer, held);
        }
    }

    fn of(&self, peer: Peer) -> u64 {
        self.staying.get(&peer).copied().unwrap_or_default()
    }

    fn give_back(&mut self, peer: Peer, bytes: u64) {
        let left = self.of(peer).saturating_sub(bytes);
        if left == 0 {
            self.staying.remove(&peer);
        } else {
            self.staying.insert(peer, left);
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.guests.remove(&id)?;
        self.held = self.held.saturating_sub(entry.bytes);
        // Who was told to leave does not count any more.
        if !entry.told {
            self.give_back(entry.peer, entry.bytes);
        }
        Some(entry)
    }
}

impl Guest {
    /// Keeps room for fewer bytes, and hears of another order from now on.
    pub(super) fn shrink(&self, bytes: u64, order: &CancellationToken) {
        let mut table = self.room.table();
        if let Some(entry) = table.remove(self.id) {
            let bytes = bytes.min(entry.bytes);
            table.held += bytes;
            *table.staying.entry(entry.peer).or_default() += bytes;
            table.guests.insert(self.id, Entry { bytes, order: order.clone(), told: false, ..entry });
        }
        drop(table);
        self.room.freed.notify_waiters();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.table().remove(self.id);
        self.room.freed.notify_waiters();
    }
}

/// A place among those that wait.
struct Waiting<'r>(&'r Room);

impl<'r> Waiting<'r> {
    fn new(room: &'r Room) -> Result<Self, Full> {
        let mut table = room.table();
        if table.waiting == WAITING {
            return Err(Full);
        }
        table.waiting += 1;
        Ok(Self(room))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table().waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(20);

    fn peer(last: u8) -> Peer {
        Peer::from(IpAddr::from([10, 0, 0, last]))
    }

    fn order() -> CancellationToken {
        CancellationToken::new()
    }

    #[tokio::test]
    async fn who_sends_little_gets_room_from_the_one_that_has_most() {
        let room = Room::new(100, LATE);
        let orders = [order(), order(), order()];
        let small = room.enter(peer(1), 30, &orders[0]).await.expect("room");
        let large = room.enter(peer(1), 40, &orders[1]).await.expect("room");
        let other = room.enter(peer(2), 30, &orders[2]).await.expect("room");
        let newcomer = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.enter(peer(3), 20, &order()).await }
        });
        orders[1].cancelled().await;
        assert_eq!([0, 2].map(|index| orders[index].is_cancelled()), [false, false], "nobody else is told to leave");
        assert!(!newcomer.is_finished(), "what was told to leave has its memory until it has left");
        drop(large);
        let newcomer = newcomer.await.expect("no panic").expect("room");
        assert_eq!(room.held(), 80);
        drop((small, other, newcomer));
        let table = room.table();
        assert_eq!((table.held, table.guests.len(), table.staying.len(), table.waiting), (0, 0, 0, 0));
    }

    #[tokio::test]
    async fn who_has_most_waits_for_its_own_and_is_refused_then() {
        let room = Room::new(100, SOON);
        let orders = [order(), order()];
        let mine = room.enter(peer(1), 60, &orders[0]).await.expect("room");
        let other = room.enter(peer(2), 40, &orders[1]).await.expect("room");
        assert_eq!(room.enter(peer(1), 1, &order()).await.expect_err("it has most"), Full);
        assert_eq!(room.enter(peer(2), 21, &order()).await.expect_err("it would have more"), Full);
        assert_eq!(room.enter(peer(3), 101, &order()).await.expect_err("more than there is"), Full);
        assert!(orders.iter().all(|order| !order.is_cancelled()), "nobody was told to leave for them");
        drop(other);
        let more = room.enter(peer(1), 40, &order()).await.expect("there is room again");
        // An answer takes less than what it answers.
        let answered = order();
        mine.shrink(10, &answered);
        assert_eq!(room.held(), 50);
        drop(more);
        let rest = room.enter(peer(2), 90, &order()).await.expect("room");
        assert!(
            room.enter(peer(3), 5, &order()).await.is_err() && !answered.is_cancelled(),
            "it has less than the other"
        );
        drop((mine, rest));
        assert_eq!(room.held(), 0);
    }

    #[tokio::test]
    async fn no_more_wait_than_can_be_looked_after() {
        let room = Room::new(1, LATE);
        let taken = room.enter(peer(1), 1, &order()).await.expect("room");
        let wait = || {
            tokio::spawn({
                let room = Arc::clone(&room);
                async move { room.enter(peer(1), 1, &order()).await.map(drop) }
            })
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| wait()).collect();
        while room.table().waiting < WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(wait().await.expect("no panic"), Err(Full));
        drop(taken);
        for waited in waiting {
            assert_eq!(waited.await.expect("no panic"), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn a_fair_share_is_had_by_everybody_who_asks_for_no_more(
            steps in proptest::collection::vec((0_u8..5, 1_u64..60, 0_u8..4), 1..80),
        ) {
            const LIMIT: u64 = 100;
            let mut table = Table::default();
            for (whose, bytes, what) in steps {
                let peer = peer(whose);
                let entry = |order: &CancellationToken| Entry { peer, bytes, order: order.clone(), told: false };
                if what == 0 {
                    let first = table.guests.iter().find(|(_, entry)| entry.peer == peer).map(|(id, _)| *id);
                    if let Some(id) = first {
                        table.remove(id);
                    }
                } else if table.ask(LIMIT, entry(&order())).is_none() {
                    // Those that were told to leave do so, and it asks again.
                    let told: Vec<_> =
                        table.guests.iter().filter(|(_, entry)| entry.told).map(|(id, _)| *id).collect();
                    for id in told {
                        table.remove(id);
                    }
                    let others = table.staying.keys().filter(|other| **other != peer).count() as u64;
                    let is_fair = (table.of(peer) + bytes) * (others + 1) <= LIMIT;
                    let got = table.ask(LIMIT, entry(&order()));
                    prop_assert!(got.is_some() || !is_fair, "{} + {bytes} beside {others} others", table.of(peer));
                }
                let sum: u64 = table.guests.values().map(|entry| entry.bytes).sum();
                prop_assert_eq!(table.held, sum);
                prop_assert!(sum <= LIMIT);
                let staying: u64 =
                    table.guests.values().filter(|entry| !entry.told).map(|entry| entry.bytes).sum();
                prop_assert_eq!(table.staying.values().sum::<u64>(), staying);
            }
        }
    }
}
