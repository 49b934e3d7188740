//! `cargo xtask soak`: half an hour of everything, and nothing may grow.

use std::process::ExitCode;
use std::time::Duration;

use thalweg_tests::soak;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)).map_or(default, |v| v.parse().unwrap_or(default))
    };
    let (minutes, seed) = (number("--minutes", 30), number("--seed", 1));
    // A broken promise panics, and says which.
    let report = soak::run(Duration::from_secs(60 * minutes), seed, |line| println!("{line}"));
    println!("{report}");
    match report.grown.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
