//! What is logged of something that goes on and on: at once, and then at most once a minute.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Causes that came up lately, each with what there was to say of it the last time.
pub(crate) struct Repeats<K, T>(RefCell<HashMap<K, Said<T>>>);

/// When a cause was logged last.
struct Said<T> {
    at: Instant,
    /// How often it has come up since then.
    unsaid: u64,
    last: T,
}

impl<K, T> Default for Repeats<K, T> {
    fn default() -> Repeats<K, T> {
        Repeats(RefCell::default())
    }
}

impl<K: Eq + Hash + Clone, T> Repeats<K, T> {
    /// A cause comes up. If it is to be logged now, how often it has come up since it was logged last, this time
    /// included; `None` if it was logged less than a minute ago.
    pub(crate) fn note(&self, now: Instant, cause: K, last: T) -> Option<u64> {
        let mut said = self.0.borrow_mut();
        if let Some(known) = said.get_mut(&cause) {
            known.unsaid += 1;
            known.last = last;
            if now.duration_since(known.at) < EVERY {
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.unsaid));
        }
        if said.len() >= CAUSES_MAX {
            said.retain(|_, known| now.duration_since(known.at) < EVERY);
        }
        if said.len() >= CAUSES_MAX {
            // So many different ones within a minute are none that an operator reads one by one.
            return None;
        }
        said.insert(cause, Said { at: now, unsaid: 0, last });
        Some(1)
    }

    /// Logs by `say` what has come up but was not logged, once its minute is over: cause, how often, and the last of
    /// it. A cause that was quiet for a minute is forgotten: it is news again.
    pub(crate) fn say_late(&self, now: Instant, mut say: impl FnMut(&K, u64, &T)) {
        self.0.borrow_mut().retain(|cause, known| {
            if now.duration_since(known.at) < EVERY {
                return true;
            }
            let unsaid = std::mem::take(&mut known.unsaid);
            if unsaid > 0 {
                say(cause, unsaid, &known.last);
                known.at = now;
            }
            unsaid > 0
        });
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
        assert_eq!(repeats.note(at(0), "a", ()), Some(1));
        assert_eq!((repeats.note(at(1), "a", ()), repeats.note(at(59), "a", ())), (None, None));
        assert_eq!(repeats.note(at(59), "b", ()), Some(1), "another one has a minute of its own");
        assert_eq!(repeats.note(at(60), "a", ()), Some(3));
        assert_eq!(repeats.note(at(61), "a", ()), None);
        assert_eq!(repeats.note(at(121), "a", ()), Some(2));
    }

    #[test]
    fn what_was_not_logged_is_logged_late_and_what_is_quiet_is_news_again() {
        let (repeats, start, mut said) = (Repeats::default(), Instant::now(), 0);
        for second in 0..180 {
            let now = start + Duration::from_secs(second);
            for hundredth in 0..100 {
                said += repeats.note(now, "a", hundredth).unwrap_or(0);
            }
            let mut late = 0;
            repeats.say_late(now, |_, count, last| {
                assert_eq!(*last, 99);
                late += count;
            });
            said += late;
        }
        let mut rest = 0;
        repeats.say_late(start + Duration::from_secs(240), |_, count, _| rest += count);
        assert_eq!(said + rest, 18_000, "all are told of");
        repeats.say_late(start + Duration::from_secs(300), |_, _, _| panic!("nothing has come up"));
        assert_eq!(repeats.note(start + Duration::from_secs(301), "a", 0), Some(1));
    }

    #[test]
    fn causes_without_end_take_no_memory_without_end() {
        let (repeats, start) = (Repeats::default(), Instant::now());
        let due = (0..1_000).filter(|i| repeats.note(start, *i, ()).is_some()).count();
        assert_eq!((due, repeats.0.borrow().len()), (CAUSES_MAX, CAUSES_MAX));
        assert_eq!(repeats.note(start + EVERY, 1_001, ()), Some(1));
        assert_eq!(repeats.0.borrow().len(), 1);
    }
}
