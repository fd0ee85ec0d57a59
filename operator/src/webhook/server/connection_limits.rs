//! Who has how many connections: a bound for all, and one for each client, so that none takes the places of the others.
//!
//! Nobody who comes is refused. Where no place is left another connection ends for it: of the same client if that has its share, else of the
//! client that has most, and of these the one that has been without a request for longest. So API servers, which have a few connections
//! each, lose none to somebody who opens many.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

/// Most connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of all clients together.
    pub(super) all: usize,
    /// Of one client. Several API servers can come from one address, as by a tunnel to the cluster's network.
    pub(super) of_one: usize,
    /// Of those that gave up their place and have not ended yet; of more than that the oldest are cut off.
    pub(super) ending: usize,
}

/// What counts as one client: an address or, of IPv6, the network that one machine has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::webhook) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
            short @ IpAddr::V4(_) => short,
        })
    }
}

/// All places, taken and free.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    table: Mutex<Table>,
    /// Counts what happens on connections: a clock by which the one that was idle for longest is found.
    turns: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Entry>,
    /// Those that gave up their place, the oldest first.
    ending: VecDeque<(u64, CancellationToken)>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    activity: Arc<Activity>,
    orders: Orders,
}

/// By which a connection learns that it is to end.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// After the requests that are in flight.
    pub(super) end: CancellationToken,
    /// At once.
    pub(super) cut: CancellationToken,
}

/// What happens on a connection.
#[derive(Debug, Default)]
struct Activity {
    in_flight: AtomicUsize,
    last: AtomicU64,
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    /// Whose it is.
    pub(super) peer: Peer,
    activity: Arc<Activity>,
    /// When the connection is to end.
    pub(super) orders: Orders,
}

/// The requests of a connection.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    places: Arc<Places>,
    activity: Arc<Activity>,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Requests);

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), turns: AtomicU64::new(0) })
    }

    /// Gives a place to a connection from `address`. It is to end with `shutdown`, too.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, shutdown: &CancellationToken) -> Place {
        let peer = Peer::from(address);
        let orders = Orders { end: shutdown.child_token(), cut: CancellationToken::new() };
        let activity = Arc::new(Activity::default());
        self.happened(&activity);
        let mut table = self.table();
        if let Some(who) = table.full(self.limits, peer) {
            table.end_one_of(who, self.limits.ending);
        }
        let id = table.next;
        table.next += 1;
        table.open.insert(id, Entry { peer, activity: Arc::clone(&activity), orders: orders.clone() });
        Place { places: Arc::clone(self), id, peer, activity, orders }
    }

    fn happened(&self, activity: &Activity) {
        activity.last.store(self.turns.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The client that has to give up a place before `newcomer` gets one.
    fn full(&self, limits: Limits, newcomer: Peer) -> Option<Peer> {
        let mut counts = HashMap::<Peer, usize>::new();
        for entry in self.open.values() {
            *counts.entry(entry.peer).or_default() += 1;
        }
        if counts.get(&newcomer).is_some_and(|count| *count >= limits.of_one) {
            return Some(newcomer);
        }
        let most = counts.into_iter().max_by_key(|(peer, count)| (*count, *peer)).map(|(peer, _)| peer);
        most.filter(|_| self.open.len() >= limits.all)
    }

    /// Ends the connection of a client that has been without a request for longest; one with a request only if there is no other.
    fn end_one_of(&mut self, peer: Peer, most_ending: usize) {
        let of_peer = self.open.iter().filter(|(_, entry)| entry.peer == peer);
        let idle_longest = of_peer.min_by_key(|(_, Entry { activity, .. })| {
            let is_busy = activity.in_flight.load(Ordering::Relaxed) > 0;
            (is_busy, activity.last.load(Ordering::Relaxed))
        });
        let Some(id) = idle_longest.map(|(id, _)| *id) else { return };
        let Some(Entry { orders: Orders { end, cut }, .. }) = self.open.remove(&id) else { return };
        end.cancel();
        self.ending.push_back((id, cut));
        if self.ending.len() > most_ending
            && let Some((_, cut)) = self.ending.pop_front()
        {
            cut.cancel();
        }
    }
}

impl Place {
    /// By which its requests are noted.
    pub(super) fn requests(&self) -> Requests {
        Requests { places: Arc::clone(&self.places), activity: Arc::clone(&self.activity) }
    }
}

impl Requests {
    /// Notes a request.
    pub(super) fn one(&self) -> InFlight {
        self.activity.in_flight.fetch_add(1, Ordering::Relaxed);
        self.places.happened(&self.activity);
        InFlight(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        if table.open.remove(&self.id).is_none() {
            table.ending.retain(|(id, _)| *id != self.id);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self(Requests { places, activity }) = self;
        activity.in_flight.fetch_sub(1, Ordering::Relaxed);
        places.happened(activity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { all: 4, of_one: 3, ending: 2 };

    fn at(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    struct Room(Arc<Places>, CancellationToken);

    impl Room {
        fn new() -> Self {
            Self(Places::new(LIMITS), CancellationToken::new())
        }

        fn take(&self, last: u8) -> Place {
            self.0.take(at(last), &self.1)
        }
    }

    fn ended<const N: usize>(places: [&Place; N]) -> [bool; N] {
        places.map(|place| place.orders.end.is_cancelled())
    }

    #[test]
    fn who_has_its_share_gives_up_its_own_idle_connection() {
        let room = Room::new();
        let other = room.take(2);
        let [first, second, third] = [(); 3].map(|()| room.take(1));
        drop(first.requests().one());
        let _working = second.requests().one();
        let fourth = room.take(1);
        // The third has been idle for longest: something happened on the first since.
        assert_eq!(ended([&other, &first, &second, &third, &fourth]), [false, false, false, true, false]);
        let fifth = room.take(1);
        assert_eq!(ended([&other, &first, &second, &fourth, &fifth]), [false, true, false, false, false]);
    }

    #[test]
    fn where_all_are_taken_the_one_with_most_gives_up_one() {
        let room = Room::new();
        let api_server = room.take(1);
        let many = [(); 3].map(|()| room.take(2));
        let newcomer = room.take(3);
        assert_eq!(ended([&api_server, &many[0], &many[1], &many[2], &newcomer]), [false, true, false, false, false]);
        // What has ended is free again.
        drop(newcomer);
        let again = room.take(1);
        assert_eq!(ended([&api_server, &many[1], &many[2], &again]), [false; 4]);
    }

    #[test]
    fn those_that_do_not_end_are_cut_off() {
        let room = Room::new();
        let all: Vec<_> = (0..6).map(|_| room.take(1)).collect();
        let cut: Vec<_> = all.iter().map(|place| place.orders.cut.is_cancelled()).collect();
        assert_eq!(
            cut,
            [true, false, false, false, false, false],
            "three gave up their place, and two may take their time"
        );
        drop(all);
        assert!(room.0.table().open.is_empty() && room.0.table().ending.is_empty());
    }

    #[test]
    fn a_machine_is_one_client_whatever_its_address() {
        let peer = |text: &str| text.parse::<IpAddr>().map(Peer::from).expect("an address");
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }

    #[test]
    fn all_end_with_the_server() {
        let room = Room::new();
        let place = room.take(1);
        room.1.cancel();
        assert_eq!(ended([&place]), [true]);
    }
}
