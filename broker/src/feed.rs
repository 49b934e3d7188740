//! What streams watch, and what they were told last, shared by all that watch the same. What there is to be told is put
//! together by `service/watch.rs`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

/// What streams watch at the moment.
#[derive(Default)]
pub(crate) struct Feed {
    watched: RefCell<HashMap<Vec<String>, Weak<Watched>>>,
}

impl Feed {
    /// What is shared by all who watch these topics.
    pub(crate) fn join(&self, topics: Vec<String>) -> Rc<Watched> {
        let mut watched = self.watched.borrow_mut();
        if let Some(there) = watched.get(&topics).and_then(Weak::upgrade) {
            return there;
        }
        if watched.len() == watched.capacity() {
            // Before it grows: nobody watches most of what was watched once.
            watched.retain(|_, w| w.strong_count() > 0);
        }
        let new = Rc::new(Watched { topics: topics.clone(), known: Mutex::default() });
        watched.insert(topics, Rc::downgrade(&new));
        new
    }
}

/// SHA-256 of frames: two that are equal need not be compared.
pub(crate) type Sum = [u8; 32];

/// Topics that somebody watches.
pub(crate) struct Watched {
    pub(crate) topics: Vec<String>,
    /// Locked while it is put together: the others wait, and find it done.
    pub(crate) known: Mutex<Known>,
}

/// What there was to tell of them.
#[derive(Default)]
pub(crate) struct Known {
    /// At this version of the metadata, or a later one; `None` before anything was put together.
    pub(crate) version: Option<u64>,
    pub(crate) sum: Sum,
    /// The frames, for as long as somebody sends them.
    pub(crate) frames: Weak<Vec<Bytes>>,
    /// When they were put together last, and how long that took.
    pub(crate) made: Option<(Instant, Duration)>,
}
