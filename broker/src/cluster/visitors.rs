//! The brokers that are connected to this one. Whether one may be is left to the core, but for this: a number is
//! connected from one data directory at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use thalweg_broker_core::Peer;
use thalweg_model::{BrokerId, DirectoryId};

/// Directory and number of the connections that each broker has made to this one.
#[derive(Default)]
pub(crate) struct Visitors(RefCell<HashMap<BrokerId, (DirectoryId, usize)>>);

/// A broker that is connected to this one, for as long as the connection lives.
pub(crate) struct Visitor {
    visitors: Rc<Visitors>,
    pub(crate) peer: Peer,
}

impl Visitor {
    /// `None` while the same number is connected from another directory.
    pub(crate) fn enter(visitors: &Rc<Visitors>, peer: Peer) -> Option<Visitor> {
        let mut all = visitors.0.borrow_mut();
        let (known, connections) = all.entry(peer.id).or_insert((peer.directory, 0));
        (*known == peer.directory).then(|| {
            *connections += 1;
            Visitor { visitors: visitors.clone(), peer }
        })
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let mut all = self.visitors.0.borrow_mut();
        if let Some((_, connections)) = all.get_mut(&self.peer.id) {
            *connections -= 1;
            if *connections == 0 {
                all.remove(&self.peer.id);
            }
        }
    }
}
