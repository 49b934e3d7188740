//! The simulator's smoke seeds, and proof that it finds what it must.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use thalweg_model::Bug;
use thalweg_sim::planted::{Finder, rows};
use thalweg_sim::{Failover, failovers, run};

/// Runs `check` for every number below `count`, on two threads.
fn for_each(count: u64, check: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let work = || loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= count {
            return;
        }
        check(n);
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

#[test]
fn no_seed_breaks_a_promise() {
    // Fewer than there were: a seed takes some three times as long since every copy is read whole at its end.
    for_each(400, |seed| {
        let outcome = run(seed, None, false);
        assert_eq!(outcome.failure, None, "replay with: cargo xtask sim --from {seed}");
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for_each(100, |seed| {
        assert_eq!(run(seed, None, false).trace, run(seed, None, false).trace, "seed {seed}");
    });
}

/// `cargo xtask sim --failover` does the same more often. A leader is killed, and nobody is told.
#[test]
fn what_a_dead_broker_led_is_led_again_within_a_second() {
    let all = Mutex::new(Vec::new());
    for_each(8, |seed| {
        let took_ms = failovers(seed, 8, Failover::Silent).expect("nothing else happens");
        all.lock().expect("no panic while it is held").extend(took_ms);
    });
    let mut all = all.into_inner().expect("no panic while it was held");
    all.sort_unstable();
    assert!(all[all.len() / 2] <= 500 && *all.last().expect("some were killed") <= 1_000, "{all:?}");
}

/// docs/MUTANTS.md tells what finds each planted bug. A seed must find it again, here, and in these words; a file must
/// name it.
#[test]
fn every_planted_bug_is_found_by_what_the_docs_name() {
    let rows = rows();
    assert_eq!(rows.len(), Bug::ALL.len(), "docs/MUTANTS.md has rows of bugs that there are not");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for_each(Bug::ALL.len() as u64, |at| {
        let (bug, name) = (Bug::ALL[at as usize], Bug::ALL[at as usize].name());
        let row = rows.iter().find(|row| row.bug == name);
        let row = row.unwrap_or_else(|| panic!("{name:?} has no row in docs/MUTANTS.md; run `cargo xtask mutants`"));
        match row.finder {
            Finder::Seed(seed) => {
                let failure = run(seed, Some(bug), false).failure;
                let says = failure.as_ref().is_some_and(|f| f.contains(row.words));
                assert!(says, "seed {seed} finds {name:?} as {failure:?}, not as {:?}", row.words);
            }
            // It runs with the tests of its crate; what is checked here is that it is still there.
            Finder::File(file) => {
                let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
                let variant = format!("{bug:?}");
                let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                assert!(
                    text.contains("assert_finds") && text.split(|c| !is_word(c)).any(|w| w == variant),
                    "{file}: {variant}"
                );
            }
        }
    });
}
