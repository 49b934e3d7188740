//! `cargo xtask torture`: many faults, on real processes.

use std::process::ExitCode;
use std::time::Instant;

use thalweg_tests::torture;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default, |v| v.parse().unwrap_or(default))
    };
    let (cycles, seed) = (number("--cycles", 200), number("--seed", 1));
    let started = Instant::now();
    // A broken promise panics, and says which.
    let report = torture::run(cycles, seed, |line| println!("{line}"));
    println!(
        "{} cycles in {:.0} s, {}: {} acknowledged records, each there once and in order for every consumer; longest \
         wait \
         for a batch {:.1} s; {:?}",
        report.cycles,
        started.elapsed().as_secs_f64(),
        report.languages.join(", "),
        report.acked,
        report.longest_wait.as_secs_f64(),
        report.faults
    );
    ExitCode::SUCCESS
}
