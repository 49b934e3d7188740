//! The simulator's smoke seeds, and proof that it finds what it must.

use thalweg_tests::sim::{Mutant, run};

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 0..600 {
        let outcome = run(seed, None, false);
        assert_eq!(outcome.failure, None, "replay with: cargo xtask sim --from {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..100 {
        assert_eq!(run(seed, None, false).trace, run(seed, None, false).trace, "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    for (name, mutant) in Mutant::ALL {
        let found = (0..5_000).find(|seed| run(*seed, Some(mutant), false).failure.is_some());
        assert!(found.is_some(), "{name} was not found in 5,000 seeds");
    }
}
