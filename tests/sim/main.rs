//! `cargo xtask sim`: many seeds, or the history of one.

use std::process::ExitCode;
use std::time::Instant;

use thalweg_tests::sim::{Mutant, run};

/// Seeds within which every planted bug must show.
const MUTANT_SEEDS: u64 = 5_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default, |v| v.parse().unwrap_or(default))
    };
    if arguments.iter().any(|a| a == "--mutants") {
        return mutants();
    }
    let (seeds, from) = (number("--seeds", 1), number("--from", 0));
    let history = arguments.iter().any(|a| a == "--history") || seeds == 1;
    let started = Instant::now();
    let (mut events, mut acked, mut crashes) = (0, 0, 0u64);
    for seed in from..from + seeds {
        let outcome = run(seed, None, history);
        outcome.history.iter().for_each(|line| println!("{line}"));
        if let Some(failure) = outcome.failure {
            println!("seed {seed}: {failure}\nreplay with: cargo xtask sim --from {seed}");
            return ExitCode::FAILURE;
        }
        events += outcome.events;
        acked += outcome.acked;
        crashes += outcome.crashes as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {from}: no failure; {events} events, {acked} acknowledged records, {crashes} crashes in {seconds:.1} s"
    );
    ExitCode::SUCCESS
}

/// Shows which seed finds each planted bug.
fn mutants() -> ExitCode {
    let mut all_found = true;
    println!("| planted bug | seed | oracle |\n|---|---|---|");
    for (name, mutant) in Mutant::ALL {
        let found = (0..MUTANT_SEEDS).find_map(|seed| run(seed, Some(mutant), false).failure.map(|f| (seed, f)));
        match &found {
            Some((seed, failure)) => println!("| {name} | {seed} | {failure} |"),
            None => println!("| {name} | NOT FOUND in {MUTANT_SEEDS} seeds | |"),
        }
        all_found &= found.is_some();
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
