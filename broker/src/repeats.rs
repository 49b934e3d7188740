//! What is logged of something that goes on and on: once, and again after a minute.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The causes that were logged lately.
#[derive(Default)]
pub(crate) struct Repeats(RefCell<HashMap<String, Said>>);

/// When a cause was logged, and how often it has come up since.
struct Said {
    at: Instant,
    since: u64,
}

impl Repeats {
    /// How often this cause has come up since it was logged, if it should be logged now; `None` if that was less than a
    /// minute ago.
    pub(crate) fn is_due(&self, cause: &str, now: Instant) -> Option<u64> {
        let mut said = self.0.borrow_mut();
        if let Some(known) = said.get_mut(cause)
            && now.duration_since(known.at) < EVERY
        {
            known.since += 1;
            return None;
        }
        if said.len() >= CAUSES_MAX {
            said.retain(|_, known| now.duration_since(known.at) < EVERY);
        }
        if said.len() >= CAUSES_MAX && !said.contains_key(cause) {
            // So many different ones within a minute are none that an operator reads one by one.
            return None;
        }
        said.insert(cause.to_owned(), Said { at: now, since: 0 }).map_or(Some(0), |before| Some(before.since))
    }
}

/// How often the same is logged.
const EVERY: Duration = Duration::from_secs(60);
/// Causes that are remembered.
const CAUSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_logged_once_a_minute_with_how_often_it_came_up_between() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(repeats.is_due("a", at(0)), Some(0));
        assert_eq!((repeats.is_due("a", at(1)), repeats.is_due("a", at(59))), (None, None));
        assert_eq!(repeats.is_due("b", at(59)), Some(0), "another one has a minute of its own");
        assert_eq!(repeats.is_due("a", at(60)), Some(2));
        assert_eq!(repeats.is_due("a", at(61)), None);
        assert_eq!(repeats.is_due("a", at(121)), Some(1));
    }

    #[test]
    fn causes_without_end_take_no_memory_without_end() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let due = (0..1_000).filter(|i| repeats.is_due(&i.to_string(), start).is_some()).count();
        assert_eq!((due, repeats.0.borrow().len()), (CAUSES_MAX, CAUSES_MAX));
        assert_eq!(repeats.is_due("later", start + EVERY), Some(0));
        assert_eq!(repeats.0.borrow().len(), 1);
    }
}
