//! Whose handshake is next. So many are under way at once, fewer of one address, and the others wait for their turn for
//! as long as a handshake may take.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::limits::budget::Source;

/// See the module.
pub(crate) struct Turns<T> {
    active: usize,
    by_source: HashMap<Source, usize>,
    waiting: VecDeque<Waiting<T>>,
}

struct Waiting<T> {
    source: Source,
    since: Instant,
    what: T,
}

impl<T> Turns<T> {
    pub(crate) fn new() -> Turns<T> {
        Turns { active: 0, by_source: HashMap::new(), waiting: VecDeque::new() }
    }

    /// True where so many are here that a newcomer should prove its address first.
    pub(crate) fn is_crowded(&self) -> bool {
        self.active + self.waiting.len() >= UNPROVEN_MAX
    }

    /// Takes a place in the line, or gives back what finds none.
    pub(crate) fn push(&mut self, now: Instant, source: Source, what: T) -> Result<(), T> {
        // Of one address no more than may wait without keeping others out.
        let alike = || self.waiting.iter().filter(|w| w.source == source).count();
        if self.waiting.len() >= WAITING_MAX || alike() >= WAITING_MAX / 4 {
            return Err(what);
        }
        self.waiting.push_back(Waiting { source, since: now, what });
        Ok(())
    }

    /// The next one, if one may begin: of the address with the fewest under way, whoever has waited longest.
    /// [`end`](Self::end) ends its turn.
    pub(crate) fn next(&mut self) -> Option<(Source, T)> {
        if self.active >= HANDSHAKES_MAX {
            return None;
        }
        let active = |source: &Source| self.by_source.get(source).copied().unwrap_or(0);
        let line = self.waiting.iter().enumerate().map(|(at, w)| (active(&w.source), at));
        let (_, at) = line.filter(|(active, _)| *active < HANDSHAKES_PER_SOURCE_MAX).min()?;
        let Waiting { source, what, .. } = self.waiting.remove(at)?;
        self.active += 1;
        *self.by_source.entry(source).or_default() += 1;
        Some((source, what))
    }

    /// A handshake has ended, well or not.
    pub(crate) fn end(&mut self, source: Source) {
        self.active -= 1;
        let active = self.by_source.get_mut(&source).expect("its turn has begun");
        *active -= 1;
        if *active == 0 {
            self.by_source.remove(&source);
        }
    }

    /// One that has waited so long that nobody waits for its answer any more.
    pub(crate) fn next_late(&mut self, now: Instant) -> Option<(Source, T)> {
        let is_late = |w: &Waiting<T>| now.duration_since(w.since) > HANDSHAKE_TIME;
        let late = self.waiting.pop_front_if(|w| is_late(w))?;
        Some((late.source, late.what))
    }
}

/// How long a handshake may take, and how long one may wait for its turn.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(3);
/// Handshakes here, above which a newcomer proves its address first.
const UNPROVEN_MAX: usize = 64;
/// Handshakes that may be under way.
const HANDSHAKES_MAX: usize = 256;
/// Those of one address among them.
const HANDSHAKES_PER_SOURCE_MAX: usize = 128;
/// Handshakes that may wait.
const WAITING_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u8) -> Source {
        Source::of(std::net::IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn who_holds_many_handshakes_waits_behind_who_holds_few() {
        let now = Instant::now();
        let mut turns = Turns::new();
        for i in 0..WAITING_MAX / 4 {
            assert_eq!(turns.push(now, host(1), i), Ok(()));
        }
        assert!(turns.push(now, host(1), 0).is_err(), "one address may not take the whole line");
        assert!(turns.is_crowded());
        let begun = std::iter::from_fn(|| turns.next()).count();
        assert_eq!(begun, HANDSHAKES_PER_SOURCE_MAX);
        turns.push(now, host(2), 7).unwrap();
        assert_eq!(turns.next(), Some((host(2), 7)), "although others have waited longer");
        assert_eq!(turns.next(), None);
        turns.end(host(1));
        assert_eq!(turns.next(), Some((host(1), HANDSHAKES_PER_SOURCE_MAX)), "in their order");
    }

    #[test]
    fn who_has_waited_too_long_is_given_up_and_nobody_else() {
        let now = Instant::now();
        let mut turns = Turns::new();
        turns.push(now, host(1), 1).unwrap();
        turns.push(now + HANDSHAKE_TIME / 2, host(1), 2).unwrap();
        assert_eq!(turns.next_late(now + HANDSHAKE_TIME), None);
        let late = now + HANDSHAKE_TIME + Duration::from_millis(1);
        assert_eq!(turns.next_late(late), Some((host(1), 1)));
        assert_eq!(turns.next_late(late), None);
        assert_eq!(turns.next(), Some((host(1), 2)));
        turns.end(host(1));
        assert_eq!((turns.active, turns.by_source.len()), (0, 0));
    }
}
