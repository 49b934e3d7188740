//! `cargo xtask bench`: throughput, latency, memory and plugin costs, beside raw quinn moving the same bytes in the
//! same run.
//!
//! Rates drift with the machine, so every row is also a ratio to raw quinn and CPU-seconds of both ends. How to read
//! the rows, and the results: bench/RESULTS.md.

mod cluster;
mod groups;
mod process;
mod raw;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "raw-server") {
        return finish(raw::serve());
    }
    let [thalweg, plugins, rest @ ..] = &arguments[..] else {
        eprintln!("thalweg-bench THALWEG PLUGINS [ROW …]; start it with `cargo xtask bench`");
        return ExitCode::from(2);
    };
    finish(rows::run(&PathBuf::from(thalweg), &PathBuf::from(plugins), rest))
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
