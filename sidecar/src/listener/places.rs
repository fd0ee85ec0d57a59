//! Who has how many connections of a listener that others than the agent reach, so that nobody takes the places of the others.
//!
//! Nobody who comes is refused. Where no place is left another connection makes way: of the same address if that has its share, else of the
//! address that has most, and of these the one that has been without a request for longest. So the kubelet, which has one or two, loses
//! none to somebody who opens many.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Most connections.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Of all addresses together.
    pub all: usize,
    /// Of one address.
    pub of_one: usize,
}

/// All places, taken and free.
#[derive(Debug)]
pub(super) struct Places {
    share: Share,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The one on which nothing has happened for longest is the first.
    open: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    peer: IpAddr,
    in_flight: usize,
    makes_way: CancellationToken,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    makes_way: CancellationToken,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Place>);

impl Places {
    pub(super) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self { share, table: Mutex::default() })
    }

    /// Gives a place to a connection from `peer`.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Place {
        let (peer, makes_way) = (peer.to_canonical(), CancellationToken::new());
        let mut table = self.table();
        table.make_room(self.share, peer);
        let id = table.next;
        table.next += 1;
        table.open.push(Entry { id, peer, in_flight: 0, makes_way: makes_way.clone() });
        Place { places: Arc::clone(self), id, makes_way }
    }

    /// Notes that something happened on a connection, and how many requests it has then.
    fn happened(&self, id: u64, in_flight: impl FnOnce(usize) -> usize) {
        let mut table = self.table();
        // One that made way is not there any more.
        if let Some(index) = table.open.iter().position(|entry| entry.id == id) {
            let mut entry = table.open.remove(index);
            entry.in_flight = in_flight(entry.in_flight);
            table.open.push(entry);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends a connection if there is no place for one more; one with a request only if there is no other.
    fn make_room(&mut self, share: Share, newcomer: IpAddr) {
        let of = |peer: IpAddr| self.open.iter().filter(|entry| entry.peer == peer).count();
        let has_its_share = of(newcomer) >= share.of_one;
        if !has_its_share && self.open.len() < share.all {
            return;
        }
        let candidates = self.open.iter().enumerate().filter(|(_, entry)| !has_its_share || entry.peer == newcomer);
        let first = candidates.min_by_key(|(_, entry)| (Reverse(of(entry.peer)), entry.in_flight > 0));
        if let Some(index) = first.map(|(index, _)| index) {
            self.open.remove(index).makes_way.cancel();
        }
    }
}

impl Place {
    /// Says when the connection is to end at once.
    pub(super) fn makes_way(&self) -> CancellationToken {
        self.makes_way.clone()
    }

    /// Notes a request.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.places.happened(self.id, |in_flight| in_flight + 1);
        InFlight(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().open.retain(|entry| entry.id != self.id);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self(place) = self;
        place.places.happened(place.id, |in_flight| in_flight.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Room(Arc<Places>);

    impl Room {
        fn new() -> Self {
            Self(Places::new(Share { all: 4, of_one: 3 }))
        }

        fn take(&self, last: u8) -> Arc<Place> {
            Arc::new(self.0.take([10, 0, 0, last].into()))
        }
    }

    fn gone<const N: usize>(places: [&Arc<Place>; N]) -> [bool; N] {
        places.map(|place| place.makes_way.is_cancelled())
    }

    #[test]
    fn who_has_its_share_loses_what_was_idle_for_longest_and_what_works_last() {
        let room = Room::new();
        let other = room.take(2);
        let [first, second, third] = [(); 3].map(|()| room.take(1));
        drop(first.request());
        let _working = second.request();
        let fourth = room.take(1);
        // The third has been idle for longest: something happened on the first since.
        assert_eq!(gone([&other, &first, &second, &third, &fourth]), [false, false, false, true, false]);
        let _works_too = [first.request(), fourth.request()];
        let fifth = room.take(1);
        assert_eq!(gone([&other, &first, &second, &fourth, &fifth]), [false, false, true, false, false]);
    }

    #[test]
    fn where_all_are_taken_the_address_with_most_makes_way() {
        let room = Room::new();
        let kubelet = room.take(1);
        let many = [(); 3].map(|()| room.take(2));
        let newcomer = room.take(3);
        assert_eq!(gone([&kubelet, &many[0], &many[1], &many[2], &newcomer]), [false, true, false, false, false]);
        drop(newcomer);
        let again = room.take(1);
        assert_eq!(gone([&kubelet, &many[1], &many[2], &again]), [false; 4], "what has ended is free again");
    }

    #[test]
    fn an_address_is_the_same_in_both_families() {
        let room = Room::new();
        let first = room.take(1);
        let _others = [(); 3].map(|()| room.0.take("::ffff:10.0.0.1".parse().expect("an address")));
        assert_eq!(gone([&first]), [true]);
        drop(first);
        assert_eq!(room.0.table().open.len(), 3, "who made way has no place to give back");
    }
}
