//! Who may be connected at once: so many clients, so many of one address, and a few places that only administrators
//! get. Other brokers take none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use thalweg_api::{ApiError, ErrorCode};

use crate::config::ClientSettings;
use crate::door::Principal;
use crate::limits::budget::Source;
use crate::limits::refusals::Cause;

/// See the module.
pub(crate) struct Places {
    settings: ClientSettings,
    taken: Cell<usize>,
    by_source: RefCell<HashMap<Source, usize>>,
}

/// The place of one connection, for as long as this lives.
pub(crate) struct Place {
    places: Rc<Places>,
    source: Source,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken that may be.
    Broker {
        /// How many.
        limit: usize,
    },
    /// All of one address are taken.
    Address {
        /// How many.
        limit: usize,
        /// The address.
        source: Source,
    },
}

impl Full {
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Full::Broker { .. } => Cause::Connections,
            Full::Address { .. } => Cause::Address,
        }
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> ApiError {
        let message = match full {
            Full::Broker { limit } => format!(
                "{limit} clients are connected to this broker, and no more may be: close some, share one client among \
                 many producers and consumers, or have the broker's operator raise connections_max"
            ),
            Full::Address { limit, source } => format!(
                "{limit} clients are connected to this broker from {source}, and no more of one address may be: close \
                 some, share one client among many producers and consumers, or have the broker's operator raise \
                 connections_per_address_max"
            ),
        };
        ApiError::new(ErrorCode::TooMany, message)
    }
}

impl Places {
    pub(crate) fn new(settings: ClientSettings) -> Rc<Places> {
        Rc::new(Places { settings, taken: Cell::default(), by_source: RefCell::default() })
    }

    /// A place for a client. One with a certificate may come from any crowd.
    pub(crate) fn take(self: &Rc<Places>, source: Source, principal: Principal) -> Result<Place, Full> {
        let ClientSettings { connections_max, connections_per_address_max, .. } = self.settings;
        let kept = if principal == Principal::Anyone { connections_max.div_ceil(RESERVE_SHARE) } else { 0 };
        let limit = connections_max.saturating_sub(kept);
        if self.taken.get() >= limit {
            return Err(Full::Broker { limit });
        }
        let mut by_source = self.by_source.borrow_mut();
        let known = by_source.get(&source).copied().unwrap_or(0);
        if known >= connections_per_address_max && principal != Principal::Certified {
            return Err(Full::Address { limit: connections_per_address_max, source });
        }
        by_source.insert(source, known + 1);
        self.taken.set(self.taken.get() + 1);
        Ok(Place { places: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.set(self.places.taken.get() - 1);
        let mut by_source = self.places.by_source.borrow_mut();
        let known = by_source.get_mut(&self.source).expect("it was counted");
        *known -= 1;
        if *known == 0 {
            by_source.remove(&self.source);
        }
    }
}

/// This part of the places is kept for administrators: clients on this machine, or with a certificate.
const RESERVE_SHARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Source {
        Source::of(std::net::IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn strangers_leave_a_few_places_and_one_address_leaves_some_to_others() {
        let settings = ClientSettings { connections_max: 160, connections_per_address_max: 40, memory_bytes: 0 };
        let places = Places::new(settings);
        let take = |last, principal| places.take(host(last), principal);
        let mut crowd: Vec<Place> = (0..40).map(|_| take(1, Principal::Anyone).ok().unwrap()).collect();
        let refused = take(1, Principal::Anyone).err();
        assert_eq!(refused, Some(Full::Address { limit: 40, source: host(1) }));
        let administrator = take(1, Principal::Certified).ok();
        assert!(administrator.is_some(), "a certificate is more than an address");
        crowd.extend((0..110).map(|i| take(2 + i % 3, Principal::Anyone).ok().unwrap()).take(109));
        assert_eq!(take(9, Principal::Anyone).err(), Some(Full::Broker { limit: 150 }));
        crowd.extend((0..10).map(|_| take(9, Principal::Near).ok().unwrap()));
        assert_eq!(take(9, Principal::Certified).err(), Some(Full::Broker { limit: 160 }));
        drop((crowd, administrator));
        assert_eq!((places.taken.get(), places.by_source.borrow().len()), (0, 0));
    }
}
