//! The README is tried as a reader would: each command is run, and what it prints must be what the README shows.
//!
//! `…` in shown output stands for anything until the end of the block. The broker runs on a free port instead of 9460.

mod packages;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use thalweg_tests::process::thalweg;

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = README.split(fence.as_str()).skip(1);
    parts.map(|p| p.split_once("```").expect("a fence is closed").0.to_owned()).collect()
}

/// Commands of a console block, each with the output that is shown for it.
fn commands(block: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => found.push((command.to_owned(), Vec::new())),
            None => found.last_mut().expect("a block starts with a command").1.push(line.to_owned()),
        }
    }
    found
}

struct Dev {
    child: Child,
    /// The `thalweg` command that it is.
    program: PathBuf,
    address: String,
    said: Vec<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// `thalweg dev` without a directory, at free ports.
fn dev(home: &Path) -> Dev {
    dev_of(Command::new(thalweg()), thalweg(), home)
}

/// The same, started by `command`, which becomes or starts `program`.
fn dev_of(mut command: Command, program: PathBuf, home: &Path) -> Dev {
    let mut child = command
        .args(["dev", "--port", "0", "--http-port", "0"])
        .env("XDG_STATE_HOME", home)
        .env("THALWEG_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.starts_with("Ctrl-C")).collect();
    let address = said.first().expect("it says where it is").rsplit(' ').next().unwrap().to_owned();
    Dev { child, program, address, said }
}

/// Runs a shell command of the README against the broker.
fn run(command: &str, dev: &Dev, home: &Path) -> String {
    let program = dev.program.display().to_string();
    let plugins = std::env::var("THALWEG_PLUGINS")
        .unwrap_or_else(|_| format!("{ROOT}/target/plugins/wasm32-unknown-unknown/release"));
    let command =
        command.replace("cargo thalweg", &program).replace("target/plugins/wasm32-unknown-unknown/release", &plugins);
    let output = Command::new("sh")
        .args(["-c", &command])
        .current_dir(ROOT)
        .env("XDG_STATE_HOME", home)
        .env("THALWEG_BROKER", &dev.address)
        .env("HOME", home)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    said
}

#[test]
fn every_command_prints_what_the_readme_shows() {
    let home = tempfile::tempdir().unwrap();
    let dev = dev(home.path());
    let mut ran = 0;
    for (command, shown) in blocks("console").iter().flat_map(|b| commands(b)) {
        let said = match command.as_str() {
            "cargo thalweg dev" => dev.said.join("\n"),
            command => run(command, &dev, home.path()),
        };
        ran += 1;
        let mut said = said.lines();
        for line in shown {
            if line == "…" {
                break;
            }
            let there = said.next().unwrap_or_else(|| panic!("{command} prints nothing where {line:?} is shown"));
            // Ports and temporary names are this run's own.
            let plain = |text: &str| {
                let text = text.replace(dev.address.rsplit(':').next().unwrap(), "9460");
                let words = text.split(' ').map(|w| match w {
                    w if w.starts_with("http://127.0.0.1:") => "http://127.0.0.1:9461/metrics",
                    w if w.contains("/thalweg-dev-") => "/tmp/thalweg-dev-XXXXXX",
                    w => w,
                });
                let line = words.collect::<Vec<_>>().join(" ").replace(&*home.path().to_string_lossy(), "/home/you");
                line.trim_end().to_owned()
            };
            assert_eq!(plain(there), plain(&line), "{command}");
        }
    }
    assert!(ran >= 10, "the README shows {ran} commands only");
}

/// The topic and the plugin that the quickstarts use.
fn prepare(dev: &Dev, home: &Path) {
    let with_plugins =
        blocks("console").into_iter().find(|b| b.contains("plugin upload")).expect("shown in the README");
    for (command, _) in commands(&with_plugins) {
        run(&command, dev, home);
    }
}

/// Runs a quickstart, which reads for ever, until it has printed `wanted` lines.
fn first_lines(mut command: Command, wanted: usize) -> Vec<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take(wanted).collect();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(said.len(), wanted, "{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn the_rust_quickstart_is_the_example_and_runs() {
    let block = blocks("rust").remove(0).replace("\"thalweg://localhost:9460\"", "&address");
    let plain = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    assert!(plain(RUST_EXAMPLE).contains(plain(&block).trim()), "README and example differ");
    assert!(block.lines().count() <= 12);
    let home = tempfile::tempdir().unwrap();
    let dev = dev(home.path());
    prepare(&dev, home.path());
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/quickstart");
    let mut command = Command::new(folder);
    command.arg(&dev.address).env("XDG_STATE_HOME", home.path());
    let said = first_lines(command, 3);
    assert!(said[0].starts_with("partition ") && said[1].contains("\"UA\"") && said[1] == said[2], "{said:?}");
}

/// Wraps a quickstart of a language with `async` into a program, and runs it on the broker of this test.
fn script(language: &str, wrap: impl Fn(&str) -> (Command, String)) {
    let block = blocks(language).remove(0);
    assert!(block.lines().count() <= 12, "{language}: {} lines", block.lines().count());
    let home = tempfile::tempdir().unwrap();
    let dev = dev(home.path());
    prepare(&dev, home.path());
    let (mut command, program) = wrap(&block.replace("thalweg://localhost:9460", &dev.address));
    let file = home.path().join(format!("quickstart.{}", if language == "python" { "py" } else { "mjs" }));
    std::fs::write(&file, program).unwrap();
    command.arg(&file).env("XDG_STATE_HOME", home.path());
    let said = first_lines(command, 2);
    assert!(said.iter().all(|l| l.contains("UA")), "{said:?}");
}

const README: &str = include_str!("../../README.md");
const RUST_EXAMPLE: &str = include_str!("../../sdk-rust/examples/quickstart.rs");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[test]
#[cfg_attr(not(sdks), ignore = "needs the Python and the Node SDK: `cargo xtask test` builds them")]
fn the_python_quickstart_runs() {
    let python = std::env::var_os("THALWEG_PYTHON").expect("it was set when this was built");
    script("python", |block| {
        let body: String = block.lines().map(|l| format!("    {l}\n")).collect();
        let program = format!("import asyncio, thalweg\nasync def main():\n{body}asyncio.run(main())\n");
        let mut command = Command::new(&python);
        command.arg("-u");
        (command, program)
    });
}

#[test]
#[cfg_attr(not(sdks), ignore = "needs the Python and the Node SDK: `cargo xtask test` builds them")]
fn the_node_quickstart_runs() {
    script("js", |block| {
        let program = format!("import {{ connect }} from '{ROOT}/sdk-node/lib/index.js'\n{block}");
        (Command::new("node"), program)
    });
}
