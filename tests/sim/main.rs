//! `cargo xtask sim`: many seeds, or the history of one.

use std::process::ExitCode;
use std::time::Instant;

use thalweg_sim::{FAULTS, Mutant, run, run_with_faults};

/// Seeds within which every planted bug must show.
const MUTANT_SEEDS: u64 = 5_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default, |v| v.parse().unwrap_or(default))
    };
    if arguments.iter().any(|a| a == "--mutants") {
        let only = arguments.iter().position(|a| a == "--only").and_then(|at| arguments.get(at + 1));
        let from = number("--from", 0);
        return mutants(only.map_or("", String::as_str), from..from + number("--seeds", MUTANT_SEEDS));
    }
    let (seeds, from) = (number("--seeds", 1), number("--from", 0));
    let history = arguments.iter().any(|a| a == "--history") || seeds == 1;
    let at = arguments.iter().position(|a| a == "--faults");
    let faults: Option<Vec<&str>> = at.map(|at| arguments.get(at + 1).map_or("", String::as_str).split(',').collect());
    if let Some(unknown) = faults.iter().flatten().find(|f| !f.is_empty() && !FAULTS.contains(f)) {
        eprintln!("error: there is no fault {unknown:?}; --faults takes some of {}", FAULTS.join(","));
        return ExitCode::from(2);
    }
    let started = Instant::now();
    let (mut events, mut acked, mut crashes, mut rebuilt) = (0, 0, 0u64, 0u64);
    for seed in from..from + seeds {
        let outcome = match &faults {
            None => run(seed, None, history),
            Some(faults) => run_with_faults(seed, faults, history),
        };
        outcome.history.iter().for_each(|line| println!("{line}"));
        if let Some(failure) = outcome.failure {
            println!("seed {seed}: {failure}\nreplay with: cargo xtask sim --from {seed}");
            return ExitCode::FAILURE;
        }
        events += outcome.events;
        acked += outcome.acked;
        crashes += outcome.crashes as u64;
        rebuilt += outcome.rebuilt as u64;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds from {from}: no failure; {events} events, {acked} acknowledged records, {crashes} crashes, \
         {rebuilt} replicas rebuilt in {seconds:.1} s"
    );
    ExitCode::SUCCESS
}

/// Shows which of the seeds finds each planted bug whose name has `only` in it. Two threads: seeds are independent.
fn mutants(only: &str, seeds: std::ops::Range<u64>) -> ExitCode {
    let wanted: Vec<_> = Mutant::ALL.iter().filter(|(name, _)| name.contains(only)).collect();
    std::panic::set_hook(Box::new(|_| {}));
    println!("| planted bug | seed | oracle |\n|---|---|---|");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let rows = std::sync::Mutex::new(vec![None; wanted.len()]);
    let work = || loop {
        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Some((name, mutant)) = wanted.get(at) else { return };
        let found = seeds.clone().find_map(|seed| run(seed, Some(*mutant), false).failure.map(|f| (seed, f)));
        eprintln!("{name}: {:?}", found.as_ref().map(|(seed, _)| seed));
        rows.lock().expect("no panic while it is held")[at] = Some(found);
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let rows = rows.into_inner().expect("no panic while it was held");
    let mut all_found = true;
    for ((name, _), found) in wanted.iter().zip(rows) {
        match found.expect("every bug was looked for") {
            Some((seed, failure)) => println!("| {name} | {seed} | {} |", failure.lines().next().unwrap_or_default()),
            None => {
                all_found = false;
                println!("| {name} | not within {} seeds | |", seeds.end - seeds.start);
            }
        }
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
