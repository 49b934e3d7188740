//! `cargo demo` and `cargo xtask …`: builds what the job needs and starts it. Nothing but the standard library, so that
//! it starts on a bare machine.

mod build;
mod dist;
mod test;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["demo", ref rest @ ..] => demo(rest),
        ["test"] => test::run(),
        ["ready"] => test::ready(),
        ["plugins"] => build::plugins().map(drop),
        ["python"] => build::python().map(|p| println!("{}", p.display())),
        ["node"] => build::node().map(drop),
        ["dist", ref rest @ ..] => dist::run(rest),
        ["bench", "clients", ref rest @ ..] => bench_clients(rest),
        ["bench", ref rest @ ..] => bench(rest),
        ["sim", ref rest @ ..] => sim(rest),
        ["mutants", ref rest @ ..] => sim(&[&["--mutants"], rest].concat()),
        ["torture", ref rest @ ..] => torture(rest),
        ["soak", ref rest @ ..] => soak(rest),
        _ => {
            eprintln!(
                "cargo demo [--keep]      the main job, end to end\n\
                 cargo xtask test         all tests\n\
                 cargo xtask ready        format, lints, unit tests and the house's rules: for while you work\n\
                 cargo xtask sim [--seeds N] [--from S] [--faults LIST] [--history]\n\
                 \x20                        the simulator, over N seeds from S on\n\
                 cargo xtask sim --failover [--seeds N]\n\
                 \x20                        how long nobody leads after a leader's death, ten in each of N clusters\n\
                 cargo xtask torture [--cycles N] [--seed S]\n\
                 \x20                        real brokers and SDKs under kills, stops and a bad network\n\
                 cargo xtask soak [--minutes N] [--seed S]\n\
                 \x20                        a steady load on real brokers: memory, descriptors and disk stay level\n\
                 cargo xtask mutants [--only NAME] [--seeds N] [--from S]\n\
                 \x20                        shows which seed finds each planted bug\n\
                 cargo xtask bench [ROW]  measures, beside raw quinn\n\
                 cargo xtask bench clients [--json] [--repeats N] [ROW]\n\
                 \x20                        what a call costs in Python and Node, beside the clients of Kafka\n\
                 cargo xtask dist [--zig TARGET]...\n\
                 \x20                        a release in target/packages: wheels, npm packages, the command as an \
                 archive; with\n\
                 \x20                        --zig for other platforms and an older glibc, as in \
                 aarch64-unknown-linux-gnu.2.28\n\
                 cargo xtask plugins      builds the example plugins\n\
                 cargo xtask python       installs the Python SDK into target/venv\n\
                 cargo xtask node         builds the Node SDK's native library"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &[&str]) -> Result<(), String> {
    if let Some(unknown) = arguments.iter().find(|a| **a != "--keep") {
        return Err(format!("cargo demo knows --keep, not {unknown}"));
    }
    build::step("1/4 broker, CLI and demo");
    build::workspace()?;
    build::step("2/4 plugins");
    let plugins = build::plugins()?;
    build::step("3/4 Python SDK (pip) and Node SDK (npm)");
    let python = build::python()?;
    let node = build::node()?;
    build::step("4/4 data");
    let flights = build::flights(&python)?;
    let demo = build::root().join("demo");
    build::npm_install(&demo)?;
    let mut command = build::command(build::target().join("fast/thalweg-demo"));
    command.arg("--thalweg").arg(build::target().join("fast/thalweg"));
    command.arg("--python").arg(python).arg("--node").arg(node).arg("--demo").arg(demo);
    command.arg("--flights").arg(flights).arg("--plugins").arg(plugins);
    command.args(arguments);
    build::run(&mut command)
}

fn bench(arguments: &[&str]) -> Result<(), String> {
    build::workspace()?;
    let plugins = build::plugins()?;
    let mut command = build::command(build::target().join("fast/thalweg-bench"));
    command.arg(build::target().join("fast/thalweg")).arg(plugins).args(arguments);
    build::run(&mut command)
}

fn bench_clients(arguments: &[&str]) -> Result<(), String> {
    build::workspace()?;
    let python = build::python()?;
    let node = build::node()?;
    let folder = build::root().join("bench/clients");
    build::pip_install(&python, &["--requirement".as_ref(), folder.join("requirements.txt").as_os_str()])?;
    build::npm_install(&folder)?;
    let mut command = build::command(python);
    command.arg(folder.join("clients.py")).arg("--thalweg").arg(build::target().join("fast/thalweg"));
    build::run(command.arg("--node").arg(node).args(arguments))
}

fn torture(arguments: &[&str]) -> Result<(), String> {
    build::workspace()?;
    let python = build::python()?;
    build::node()?;
    let mut command = build::command(build::target().join("fast/torture"));
    command.env("THALWEG_PYTHON", python).env("THALWEG_BIN", build::target().join("fast/thalweg"));
    build::run(command.args(arguments))
}

fn soak(arguments: &[&str]) -> Result<(), String> {
    build::workspace()?;
    let mut command = build::command(build::target().join("fast/soak"));
    build::run(command.env("THALWEG_BIN", build::target().join("fast/thalweg")).args(arguments))
}

fn sim(arguments: &[&str]) -> Result<(), String> {
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--profile", "fast", "--package", "thalweg-sim", "--example", "sim", "--"]);
    build::run(command.args(arguments))
}
