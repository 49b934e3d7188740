//! `cargo xtask sim`: many seeds, or the history of one.

use std::process::ExitCode;
use std::time::Instant;

use thalweg_model::Bug;
use thalweg_sim::planted::{Finder, Row, rows};
use thalweg_sim::{FAULTS, Failover, failovers, run, run_with_faults};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default, |v| v.parse().unwrap_or(default))
    };
    if arguments.iter().any(|a| a == "--mutants") {
        let from = number("--from", 0);
        let text = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
        let (only, words) = (text("--only"), text("--words"));
        let seeds = from..from + number("--seeds", MUTANT_SEEDS);
        return mutants(only.map_or("", String::as_str), words.map_or("", String::as_str), seeds);
    }
    if arguments.iter().any(|a| a == "--failover") {
        return failover(number("--seeds", FAILOVER_SEEDS), number("--from", 0));
    }
    let (seeds, from) = (number("--seeds", 1), number("--from", 0));
    let history = arguments.iter().any(|a| a == "--history") || seeds == 1;
    let at = arguments.iter().position(|a| a == "--faults");
    let faults: Option<Vec<&str>> = at.map(|at| arguments.get(at + 1).map_or("", String::as_str).split(',').collect());
    if let Some(unknown) = faults.iter().flatten().find(|f| !f.is_empty() && !FAULTS.contains(f)) {
        eprintln!("error: there is no fault {unknown:?}; --faults takes some of {}", FAULTS.join(","));
        return ExitCode::from(2);
    }
    // Two builds that print the same do the same.
    let traces = arguments.iter().any(|a| a == "--traces");
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
        if traces {
            println!("seed {seed}: trace {:016x}, {} events", outcome.trace, outcome.events);
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

/// Kills leaders, ten in each of the seeds, and says for how long nobody led.
fn failover(seeds: u64, from: u64) -> ExitCode {
    let mut is_fast = true;
    for (how, what, limits_ms) in [
        (Failover::Silent, "nobody is told", Some((500, 1_000))),
        (Failover::Noticed, "the others are told at once", Some((250, 500))),
        (Failover::WhileCatchingUp, "while another one catches up, nobody is told", None),
    ] {
        let mut all = Vec::new();
        for seed in from..from + seeds {
            match failovers(seed, KILLS_PER_SEED, how) {
                Ok(some) => all.extend(some),
                Err(failure) => {
                    println!("{failure}");
                    return ExitCode::FAILURE;
                }
            }
        }
        all.sort_unstable();
        let at = |per_mille: usize| all[(all.len() - 1) * per_mille / 1_000];
        let (p50, p99, max) = (at(500), at(990), at(1_000));
        println!("{} leaders killed, {what}: p50 {p50} ms, p99 {p99} ms, max {max} ms", all.len());
        is_fast &= limits_ms.is_none_or(|(half, most)| p50 <= half && p99 <= most);
    }
    if is_fast { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the table of docs/MUTANTS.md anew, for bugs whose name has `only` in it: which of the seeds finds each, with
/// `wanted_words` in what it says. Those that a unit test finds keep their rows. Two threads: seeds are independent.
fn mutants(only: &str, wanted_words: &str, seeds: std::ops::Range<u64>) -> ExitCode {
    let known = rows();
    let by_file = |bug: Bug| known.iter().find(|r| r.bug == bug.name() && matches!(r.finder, Finder::File(_)));
    let wanted: Vec<Bug> = Bug::ALL.iter().copied().filter(|b| b.name().contains(only)).collect();
    std::panic::set_hook(Box::new(|_| {}));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let lines = std::sync::Mutex::new(vec![None; wanted.len()]);
    let work = || loop {
        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Some(bug) = wanted.get(at).copied() else { return };
        let name = bug.name();
        let line = match by_file(bug) {
            Some(Row { finder: Finder::File(file), words, .. }) => Some(format!("| {name} | `{file}` | {words} |")),
            _ => seeds.clone().find_map(|seed| {
                let failure = run(seed, Some(bug), false).failure.filter(|f| f.contains(wanted_words))?;
                Some(format!("| {name} | {seed} | {} |", words(&failure)))
            }),
        };
        eprintln!("{}", line.as_deref().unwrap_or(name));
        lines.lock().expect("no panic while it is held")[at] = line;
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    println!("| planted bug | found by | in these words |\n|---|---|---|");
    let mut all_found = true;
    for (bug, line) in wanted.iter().zip(lines.into_inner().expect("no panic while it was held")) {
        all_found &= line.is_some();
        println!(
            "{}",
            line.unwrap_or_else(|| format!("| {} | not within {} seeds | |", bug.name(), seeds.end - seeds.start))
        );
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a failure says in words: the longest part of its first line that names no number and no id.
fn words(failure: &str) -> &str {
    let line = failure.lines().next().unwrap_or_default();
    let parts = line.split(|c: char| c.is_ascii_digit() || "|[]{}()\"`".contains(c));
    parts.map(|part| part.trim_matches(|c: char| !c.is_alphabetic())).max_by_key(|part| part.len()).unwrap_or_default()
}

/// Clusters of which leaders are killed.
const FAILOVER_SEEDS: u64 = 50;
const KILLS_PER_SEED: usize = 10;
/// Seeds within which every planted bug must show.
const MUTANT_SEEDS: u64 = 5_000;
