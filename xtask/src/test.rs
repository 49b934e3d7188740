//! `cargo xtask test`: every ring of tests, one closing line; `cargo xtask ready`: the inner ones.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::{build, dist};

/// Tests of all runners together.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Steps that failed, whatever they counted.
    broken: Vec<String>,
    /// Others run meanwhile: what its runners print is shown when they have ended.
    is_beside: bool,
}

pub(crate) fn run() -> Result<(), String> {
    let mut tally = Tally::default();
    build::step("plugins");
    let plugins = build::plugins()?;
    build::step("bindings");
    // Built first: the end-to-end tests start the real binary, and the README's quickstarts need both bindings.
    build::workspace()?;
    let python = build::python()?;
    build::node()?;
    // A release in all but the profile, which would build everything once more.
    let release = dist::make("fast", Vec::new())?;
    build::step("Rust: unit, property, conformance, simulator, end to end");
    let mut cargo = build::cargo();
    cargo.args(["test", "--profile", "fast", "--workspace", "--no-fail-fast"]);
    cargo.env("THALWEG_PLUGINS", &plugins).env("THALWEG_BIN", build::target().join("fast/thalweg"));
    cargo.env("THALWEG_PYTHON", &python).env("THALWEG_DIST", &release);
    tally.step("cargo test", &mut cargo, rust_line);
    build::step("Rust guest kit");
    let mut guests = build::cargo();
    guests.args(["test", "--manifest-path", "plugins/Cargo.toml", "--package", "thalweg-guest", "--target-dir"]);
    tally.step("guest kit", guests.arg(build::target().join("plugins")), rust_line);
    tally.python_and_node(&python, &plugins)?;
    tally.lints();
    tally.small_client();
    tally.dependencies();
    tally.close()
}

/// What takes about a minute when little has changed: for while one works.
pub(crate) fn ready() -> Result<(), String> {
    let mut tally = Tally::default();
    tally.lints();
    tally.dependencies();
    build::step("unit tests, architecture, tidy");
    let mut cargo = build::cargo();
    cargo.args(["test", "--quiet", "--profile", "fast", "--workspace", "--no-fail-fast"]);
    cargo.args(["--lib", "--test", "architecture", "--test", "circles", "--test", "tidy"]);
    tally.step("cargo test", &mut cargo, rust_line);
    tally.close()
}

impl Tally {
    /// The suites of both languages, beside each other: they wait more than they compute.
    fn python_and_node(&mut self, python: &Path, plugins: &Path) -> Result<(), String> {
        build::step("Python and Node, beside each other");
        build::pip_install(python, &["--requirement", "sdk-python/requirements-test.txt"])?;
        let node = build::root().join("sdk-node");
        build::npm_install(&node)?;
        let environment = |command: &mut Command| {
            command.env("THALWEG_PLUGINS", plugins).env("THALWEG_BIN", build::target().join("fast/thalweg"));
        };
        let python = || {
            let mut tally = Tally::default();
            let mut pytest = build::command(python);
            pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "sdk-python/tests"]);
            pytest.arg(format!("--timeout={}", TEST_TIMEOUT.as_secs()));
            environment(&mut pytest);
            tally.step("pytest", &mut pytest, pytest_line);
            let mut mypy = build::command(python);
            mypy.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(build::target().join("mypy"));
            tally.check("mypy --strict", mypy.args(["sdk-python/python/thalweg", "demo/worker.py"]));
            let mut pyright = build::command(python);
            pyright.args(["-m", "pyright", "--pythonpath"]).arg(python);
            pyright.args(["sdk-python/python/thalweg", "demo/worker.py", "docs/guides/python"]);
            tally.check("pyright", pyright.env("PYRIGHT_PYTHON_IGNORE_WARNINGS", "1"));
            tally
        };
        let node = || {
            let mut tally = Tally { is_beside: true, ..Tally::default() };
            let mut tests = build::command("npm");
            tests.current_dir(&node).args(["test", "--silent"]);
            environment(&mut tests);
            tally.step("node --test", &mut tests, node_line);
            tally.check("tsc --strict", build::command("npm").current_dir(&node).args(["run", "--silent", "types"]));
            tally
        };
        let both = std::thread::scope(|scope| {
            let beside = scope.spawn(node);
            [python(), beside.join().expect("a step does not panic")]
        });
        both.into_iter().for_each(|of_one| self.add(of_one));
        Ok(())
    }

    /// The client without its default features: its unit tests see what it says where a feature is missing. Behind the
    /// lints, which have checked most of what it is made of.
    fn small_client(&mut self) {
        build::step("a client without default features");
        let mut tests = build::cargo();
        tests.args(["test", "--profile", "fast", "--package", "thalweg-model", "--package", "thalweg", "--lib"]);
        self.step("a small client", tests.arg("--no-default-features"), rust_line);
        for (name, features) in [("without features", ""), ("without wasm", "codecs,platform-roots")] {
            let mut check = build::cargo();
            check.args(["check", "--quiet", "--profile", "fast", "--package", "thalweg", "--no-default-features"]);
            self.check(&format!("a client {name}"), check.args(["--features", features]));
        }
    }

    fn lints(&mut self) {
        build::step("format and lints");
        self.check("cargo fmt", build::cargo().args(["fmt", "--all", "--check"]));
        let mut clippy = build::cargo();
        clippy.args(["clippy", "--quiet", "--profile", "fast", "--workspace", "--lib", "--bins", "--tests"]);
        self.check("clippy", clippy.args(["--examples", "--", "--deny", "warnings"]));
    }

    /// What the project is made of, as deny.toml has it: licences, what is there in two versions, known faults.
    fn dependencies(&mut self) {
        build::step("dependencies");
        let deny = |arguments: &[&str]| {
            let mut deny = build::cargo();
            deny.arg("deny").args(arguments);
            deny
        };
        let succeeds = |arguments| deny(arguments).output().is_ok_and(|output| output.status.success());
        if !succeeds(&["--version"]) {
            return self.skip("cargo-deny is not installed; `cargo install cargo-deny --locked`");
        }
        // A row of deny.toml that the workspace has no use for is an error; guests need few of them.
        let made = [("Cargo.toml", "--deny"), ("plugins/Cargo.toml", "--allow")].map(|(manifest, unused)| {
            ["--manifest-path", manifest, "check", "--hide-inclusion-graph", unused, "warnings"]
        });
        for made in &made {
            self.check("cargo deny", deny(made).args(["bans", "licenses", "sources"]));
        }
        if !succeeds(&["fetch", "db"]) {
            return self.skip("the list of known faults cannot be fetched; `cargo deny fetch db` says why");
        }
        for made in &made {
            self.check("cargo deny", deny(made).arg("advisories"));
        }
    }

    /// The closing line of the whole, and what it comes to.
    fn close(self) -> Result<(), String> {
        for broken in &self.broken {
            eprintln!("failed: {broken}");
        }
        match self.skipped {
            0 => println!("\n{} passed, {} failed", self.passed, self.failed),
            skipped => println!("\n{} passed, {} failed, {skipped} skipped", self.passed, self.failed),
        }
        match self.broken.is_empty() && self.failed == 0 {
            true => Ok(()),
            false => Err("tests failed".into()),
        }
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.broken.extend(other.broken);
    }

    /// Runs a test runner, shows what it prints, and counts what `read` finds in its lines.
    fn step(&mut self, name: &str, command: &mut Command, read: fn(&str) -> (u64, u64, u64)) {
        let before = self.failed;
        let child = command.stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            return self.broken.push(format!("{name} does not start"));
        };
        let (lines, printed) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let until = Instant::now() + RUNNER_TIMEOUT;
        let mut said = String::new();
        loop {
            let line = match printed.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.failed += 1;
                    let limit = RUNNER_TIMEOUT.as_secs();
                    self.broken.push(format!("{name} has not ended within {limit} s: it was killed"));
                    kill_tree(&mut child);
                    break;
                }
            };
            match self.is_beside {
                true => said.extend([&line, "\n"]),
                false => println!("{line}"),
            }
            let (passed, failed, skipped) = read(&line);
            self.passed += passed;
            self.failed += failed;
            self.skipped += skipped;
        }
        print!("{said}");
        let success = child.wait().is_ok_and(|status| status.success());
        if !success {
            // A runner that failed without naming a test counts as one failure.
            self.failed += (self.failed == before) as u64;
            self.broken.push(name.to_owned());
        }
    }

    /// A check that cannot be made here.
    fn skip(&mut self, why: &str) {
        println!("skipped: {why}");
        self.skipped += 1;
    }

    /// Runs a check that either passes or fails as a whole.
    fn check(&mut self, name: &str, command: &mut Command) {
        match build::run(command) {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                self.broken.push(format!("{name}: {error}"));
            }
        }
    }
}

/// Kills a process, and every process that it or one of those has begun.
fn kill_tree(child: &mut Child) {
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().map(|output| output.stdout);
    let listed = String::from_utf8(listed.unwrap_or_default()).unwrap_or_default();
    let pairs: Vec<(u32, u32)> = listed
        .lines()
        .filter_map(|line| {
            let mut ids = line.split_whitespace().map_while(|id| id.parse().ok());
            ids.next().zip(ids.next())
        })
        .collect();
    let mut tree = vec![child.id()];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(pairs.iter().filter(|&&(_, of)| of == parent).map(|&(id, _)| id));
        next += 1;
    }
    let ids = tree.iter().map(u32::to_string);
    let _ = Command::new("kill").arg("-KILL").args(ids).status();
}

/// The number before `word` in a line.
fn before(line: &str, word: &str) -> u64 {
    let mut words = line.split([' ', ',', ';', '=']).filter(|w| !w.is_empty());
    let mut last = 0;
    for w in &mut words {
        if w == word {
            return last;
        }
        last = w.parse().unwrap_or(0);
    }
    0
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`
fn rust_line(line: &str) -> (u64, u64, u64) {
    match line.starts_with("test result:") {
        true => (before(line, "passed"), before(line, "failed"), before(line, "ignored")),
        false => (0, 0, 0),
    }
}

/// `3 passed, 1 failed, 2 skipped in 0.5s`
fn pytest_line(line: &str) -> (u64, u64, u64) {
    let line = line.trim_matches('=').trim();
    let counts = |line: &str| ["passed", "failed", "skipped"].iter().any(|word| line.contains(&format!(" {word}")));
    match line.contains(" in ") && counts(line) {
        true => (before(line, "passed"), before(line, "failed"), before(line, "skipped")),
        false => (0, 0, 0),
    }
}

/// `# pass 3`, `# fail 1` and `# skipped 2`, or with `ℹ` in front.
fn node_line(line: &str) -> (u64, u64, u64) {
    let number = |word: &str| {
        let rest = line.trim_start_matches(['#', 'ℹ', ' ']).strip_prefix(word)?;
        rest.trim().parse().ok()
    };
    (number("pass ").unwrap_or(0), number("fail ").unwrap_or(0), number("skipped ").unwrap_or(0))
}

/// How long a runner may take: about five times what it does on two cores. A test that hangs is then a failure that is
/// named, with all other results, and not the end of the time that the whole has.
const RUNNER_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// How long one test of Python's may take; the same for a file of Node's stands in its package.json.
const TEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runners_lines_are_read() {
        assert_eq!(rust_line("test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured"), (3, 1, 2));
        assert_eq!(pytest_line("1 failed, 12 passed, 3 skipped in 3.21s"), (12, 1, 3));
        assert_eq!(pytest_line("===== 12 passed in 3.21s ====="), (12, 0, 0));
        assert_eq!(node_line("# pass 9"), (9, 0, 0));
        assert_eq!(node_line("ℹ fail 2"), (0, 2, 0));
        assert_eq!(node_line("# skipped 1"), (0, 0, 1));
        assert_eq!(rust_line("running 3 tests"), (0, 0, 0));
    }
}
