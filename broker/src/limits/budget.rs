//! The memory that connections hold: one budget for the broker, one account for each connection, and charges that give
//! back what they hold when they are dropped.
//!
//! ```text
//!  Budget    bytes of all accounts; when they come to more than the limit, the dearest client is ended
//!  └ Account    bytes of one connection; beyond its limit the stream that asks is refused
//!    └ Charge      what one partial frame, reply, or read-ahead holds
//! ```
//! What is charged, and what a refused stream is told, is left to who charges. Everything here is of one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::{Rc, Weak};

use thalweg_api::{ApiError, ErrorCode};
use tokio::sync::Notify;

/// Bytes that all connections together may hold.
pub(crate) struct Budget {
    limit: usize,
    held: Cell<usize>,
    accounts: RefCell<BTreeMap<u64, Weak<Account>>>,
    next: Cell<u64>,
}

/// Where connections come from that are one's in all likelihood: an IPv4 address, or the 64 bits of an IPv6 address
/// that a site gives out (RFC 4291, section 2.5.4). A single machine has 2^64 addresses behind those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(IpAddr);

impl Source {
    pub(crate) fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => {
                Source(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))))
            }
            ip => Source(ip),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What one connection holds.
pub(crate) struct Account {
    budget: Rc<Budget>,
    number: u64,
    source: Source,
    /// `None` for a broker of the cluster, whose streams are bounded by what brokers say to each other: it is neither
    /// refused anything nor ended.
    limit: Option<usize>,
    held: Cell<usize>,
    /// Bytes that are about to be held. They count for this connection alone: of many that ask for a MiB each most get
    /// less, and nobody is to go for that.
    reserved: Cell<usize>,
    /// What it holds is not counted any more: its connection was closed, and its tasks are about to go.
    is_ended: Cell<bool>,
    /// Ends the connection.
    end: Box<dyn Fn()>,
    /// Told when something was given back.
    room: Notify,
}

/// Bytes of an account that somebody holds; given back when this is dropped.
pub(crate) struct Charge {
    account: Rc<Account>,
    bytes: usize,
    /// What it may come to when it is known.
    reserved: usize,
}

/// Why something is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// The connection would hold more than it may.
    Connection {
        /// The bytes that it may.
        limit: usize,
    },
    /// All connections hold as much as they may, this one the most, and it was ended.
    Broker,
}

impl From<Spent> for ApiError {
    fn from(spent: Spent) -> ApiError {
        let message = match spent {
            Spent::Connection { limit } => format!(
                "this connection's unfinished requests and unread answers come to more than {limit} bytes: read the \
                 answers, send fewer requests at once, or have the broker's operator raise memory_bytes"
            ),
            Spent::Broker => "the broker's memory for connections is spent, and this connection holds the most of \
                              it: send fewer requests at once, or have the broker's operator raise memory_bytes"
                .to_owned(),
        };
        ApiError::new(ErrorCode::TooMany, message)
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(limit: usize) -> Rc<Budget> {
        let (held, accounts, next) = Default::default();
        Rc::new(Budget { limit, held, accounts, next })
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// An account for a client's connection, which `end` ends.
    pub(crate) fn client(self: &Rc<Budget>, source: Source, end: impl Fn() + 'static) -> Rc<Account> {
        self.account(source, Some(self.limit / CONNECTION_SHARE), Box::new(end))
    }

    /// An account for a connection of another broker of the cluster.
    pub(crate) fn peer(self: &Rc<Budget>, source: Source) -> Rc<Account> {
        self.account(source, None, Box::new(|| {}))
    }

    fn account(self: &Rc<Budget>, source: Source, limit: Option<usize>, end: Box<dyn Fn()>) -> Rc<Account> {
        let number = self.next.get();
        self.next.set(number + 1);
        let (held, reserved, is_ended, room) = Default::default();
        let account = Account { budget: self.clone(), number, source, limit, held, reserved, is_ended, end, room };
        let account = Rc::new(account);
        self.accounts.borrow_mut().insert(number, Rc::downgrade(&account));
        account
    }

    /// Ends connections until the others hold no more than they may: of the source that holds the most, the one that
    /// holds the most. Who spreads what it asks for over many connections is no cheaper for it.
    fn settle(&self) {
        while self.held.get() > self.limit {
            let accounts: Vec<Rc<Account>> = self.accounts.borrow().values().filter_map(Weak::upgrade).collect();
            let clients = || accounts.iter().filter(|a| a.limit.is_some() && !a.is_ended.get());
            let mut sources: HashMap<Source, usize> = HashMap::new();
            for account in clients() {
                *sources.entry(account.source).or_default() += account.held.get();
            }
            let Some(dearest) = clients().max_by_key(|a| (sources[&a.source], a.source, a.held.get())) else { return };
            dearest.is_ended.set(true);
            self.held.set(self.held.get() - dearest.held.get());
            (dearest.end)();
            dearest.room.notify_waiters();
        }
    }
}

impl Account {
    /// A charge that holds nothing yet.
    pub(crate) fn charge(self: &Rc<Account>) -> Charge {
        Charge { account: self.clone(), bytes: 0, reserved: 0 }
    }

    /// A charge of so many bytes.
    ///
    /// # Errors
    /// They are not to be had.
    pub(crate) fn take(self: &Rc<Account>, bytes: usize) -> Result<Charge, Spent> {
        let mut charge = self.charge();
        charge.set(bytes)?;
        Ok(charge)
    }

    /// A charge that holds nothing yet, once so many bytes are free in half of what this connection may hold: the other
    /// half is for what cannot wait. They are kept for it until [`note`](Charge::note) tells how many they are.
    ///
    /// # Errors
    /// The connection was ended.
    pub(crate) async fn reserve(self: &Rc<Account>, bytes: usize) -> Result<Charge, Spent> {
        loop {
            // What is given back between the look and the waiting wakes it as well.
            let room = self.room.notified();
            match self.check(self.held.get() + self.reserved.get() + bytes, 2) {
                Ok(()) => {
                    self.reserved.set(self.reserved.get() + bytes);
                    return Ok(Charge { account: self.clone(), bytes: 0, reserved: bytes });
                }
                Err(Spent::Connection { .. }) => room.await,
                Err(spent) => return Err(spent),
            }
        }
    }

    /// Whether this connection may hold so many bytes, of this part of its room.
    fn check(&self, bytes: usize, part: usize) -> Result<(), Spent> {
        match self.limit {
            _ if self.is_ended.get() => Err(Spent::Broker),
            Some(limit) if bytes > limit / part => Err(Spent::Connection { limit }),
            _ => Ok(()),
        }
    }

    fn grow(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        if !self.is_ended.get() {
            self.budget.held.set(self.budget.held.get() + bytes);
            self.budget.settle();
        }
    }

    fn shrink(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        if !self.is_ended.get() {
            self.budget.held.set(self.budget.held.get() - bytes);
        }
        self.room.notify_waiters();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        assert_eq!(self.held.get(), 0, "a charge keeps its account");
        self.budget.accounts.borrow_mut().remove(&self.number);
    }
}

impl Charge {
    /// Holds so many bytes from here on.
    ///
    /// # Errors
    /// They are not to be had; then it holds what it held.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Spent> {
        if bytes <= self.bytes {
            self.lower(bytes);
            return Ok(());
        }
        self.account.check(self.account.held.get() + bytes - self.bytes, 1)?;
        self.account.grow(bytes - self.bytes);
        self.bytes = bytes;
        // To make room, it may have been ended itself.
        if self.account.is_ended.get() { Err(Spent::Broker) } else { Ok(()) }
    }

    /// The same for what is there already, and has to be counted whether or not there is room.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.account.reserved.set(self.account.reserved.get() - std::mem::take(&mut self.reserved));
        if bytes > self.bytes {
            self.account.grow(bytes - self.bytes);
            self.bytes = bytes;
        }
        self.lower(bytes);
        self.account.room.notify_waiters();
    }

    fn lower(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.account.shrink(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.note(0);
    }
}

/// One connection may hold this part of the broker's budget.
const CONNECTION_SHARE: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: usize = 8_000;

    /// A client at 10.0.0.`host`, and whether it was ended.
    fn client(budget: &Rc<Budget>, host: u8) -> (Rc<Account>, Rc<Cell<bool>>) {
        let ended = Rc::new(Cell::new(false));
        let mark = ended.clone();
        (budget.client(Source::of(IpAddr::from([10, 0, 0, host])), move || mark.set(true)), ended)
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::new(LIMIT);
        let (account, _) = client(&budget, 1);
        let mut charge = account.take(300).unwrap();
        let other = account.take(200).unwrap();
        assert_eq!(budget.held(), 500);
        charge.set(700).unwrap();
        charge.set(100).unwrap();
        assert_eq!(budget.held(), 300);
        drop((charge, other));
        assert_eq!(budget.held(), 0);
        drop(account);
        assert!(budget.accounts.borrow().is_empty());
    }

    #[test]
    fn a_connection_beyond_its_share_is_refused_and_not_ended() {
        let budget = Budget::new(LIMIT);
        let (account, ended) = client(&budget, 1);
        let mut charge = account.take(900).unwrap();
        assert_eq!(account.take(101).map(drop), Err(Spent::Connection { limit: 1_000 }));
        assert_eq!(charge.set(1_001), Err(Spent::Connection { limit: 1_000 }));
        assert_eq!((budget.held(), ended.get()), (900, false), "what it held it holds");
        account.take(100).unwrap();
        charge.note(2_000);
        assert_eq!(budget.held(), 2_000, "what is there counts, room or not");
    }

    #[test]
    fn the_dearest_is_ended_first_and_everybody_else_goes_on() {
        let budget = Budget::new(LIMIT);
        let clients: Vec<_> = (1..=9).map(|host| client(&budget, host)).collect();
        let mut charges: Vec<_> = clients.iter().map(|(a, _)| a.take(800).unwrap()).collect();
        charges[4].set(1_000).unwrap();
        let (honest, is_ended) = client(&budget, 10);
        let charge = honest.take(900).unwrap();
        assert!(!is_ended.get());
        let ended: Vec<_> = clients.iter().map(|(_, ended)| ended.get()).collect();
        assert_eq!(ended.iter().filter(|e| **e).count(), 1, "{ended:?}");
        assert!(ended[4], "{ended:?}");
        assert_eq!(budget.held(), 7_300, "what the ended one holds is about to go");
        assert_eq!(charges[4].set(1_000), Ok(()), "it may hold what it holds");
        assert_eq!(clients[4].0.take(1).map(drop), Err(Spent::Broker), "and nothing more");
        drop((charge, charges));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn many_connections_of_one_source_count_together() {
        let budget = Budget::new(LIMIT);
        let (honest, is_ended) = client(&budget, 1);
        let _charge = honest.take(1_000).unwrap();
        // None of them holds as much as the honest one.
        let crowd: Vec<_> = (0..16).map(|_| client(&budget, 2)).collect();
        let charges: Vec<_> = crowd.iter().map(|(a, _)| a.take(500)).collect();
        assert!(!is_ended.get());
        assert!(crowd.iter().filter(|(_, ended)| ended.get()).count() >= 2);
        drop(charges);
    }

    #[test]
    fn who_asks_may_be_the_one_that_is_ended() {
        let budget = Budget::new(LIMIT);
        let all: Vec<_> = (1..=8).map(|host| client(&budget, host)).collect();
        let charges: Vec<_> = all.iter().map(|(a, _)| a.take(900).unwrap()).collect();
        // Two connections make .8 the dearest source, and this one holds more than the other.
        let (last, is_ended) = client(&budget, 8);
        assert_eq!(last.take(950).map(drop), Err(Spent::Broker));
        assert!(is_ended.get() && !all[7].1.get());
        assert_eq!(budget.held(), 7_200);
        drop(charges);
    }

    #[test]
    fn another_broker_is_counted_and_never_ended() {
        let budget = Budget::new(LIMIT);
        let (account, ended) = client(&budget, 1);
        let _small = account.take(10).unwrap();
        let peer = budget.peer(Source::of(IpAddr::from([10, 0, 0, 9])));
        let mut charge = peer.take(LIMIT).unwrap();
        assert!(ended.get(), "the client is the dearest that may be ended");
        charge.set(2 * LIMIT).unwrap();
        assert_eq!(budget.held(), 2 * LIMIT);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_when_some_is_given_back() {
        let budget = Budget::new(LIMIT);
        let (account, _) = client(&budget, 1);
        let charge = account.take(800).unwrap();
        let waiting = account.reserve(300);
        let other = account.reserve(300);
        let giving = async {
            tokio::task::yield_now().await;
            drop(charge);
        };
        let (reserved, ()) = tokio::join!(waiting, giving);
        let mut reserved = reserved.unwrap();
        assert_eq!((budget.held(), account.reserved.get()), (0, 300), "the broker counts what is there");
        let mut other = std::pin::pin!(other);
        let no_time = Duration::from_millis(1);
        assert!(tokio::time::timeout(no_time, &mut other).await.is_err(), "no more than half is given out so");
        account.take(1_000).unwrap();
        reserved.note(100);
        assert_eq!((budget.held(), account.reserved.get()), (100, 0));
        let other = other.await.unwrap();
        drop((reserved, other));
        assert_eq!((budget.held(), account.reserved.get()), (0, 0));
    }

    #[test]
    fn a_site_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
    }
}
