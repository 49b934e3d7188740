//! The simulator's smoke seeds, and proof that it finds what it must.

use std::sync::atomic::{AtomicU64, Ordering};

use thalweg_sim::{Mutant, run};

/// Planted bugs that must be found.
const FOUND_MIN: u64 = 25;

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

/// docs/MUTANTS.md tells which seed finds each planted bug; here it does. A few are too rare for the seeds that were tried: their
/// rows say so.
#[test]
fn every_planted_bug_is_found_by_the_seed_in_the_docs() {
    let table = include_str!("../../docs/MUTANTS.md");
    let found = AtomicU64::new(0);
    for_each(Mutant::ALL.len() as u64, |at| {
        let (name, mutant) = Mutant::ALL[at as usize];
        let row = table.lines().find_map(|l| l.strip_prefix(&format!("| {name} | ")));
        let cell = row.and_then(|r| r.split_once(" |")).map(|(cell, _)| cell);
        if cell.is_some_and(|c| c.starts_with("not within ")) {
            return;
        }
        found.fetch_add(1, Ordering::Relaxed);
        let seed = cell.and_then(|c| c.parse().ok());
        let seed: u64 =
            seed.unwrap_or_else(|| panic!("{name:?} has no row in docs/MUTANTS.md; run `cargo xtask mutants`"));
        let failure = run(seed, Some(mutant), false).failure;
        assert!(failure.is_some(), "seed {seed} does not find {name:?} any more; run `cargo xtask mutants`");
    });
    assert!(found.into_inner() >= FOUND_MIN, "too few planted bugs are found at all");
}
