//! What a release is made of, installed as a user does it on a machine without a compiler, and the quickstarts with
//! that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Dev, blocks, dev_of, first_lines, prepare};

/// The folder that `cargo xtask dist` made.
fn dist() -> PathBuf {
    PathBuf::from(std::env::var_os("THALWEG_DIST").expect("it was set when this was built"))
}

/// A machine with Python and Node: a PATH with nothing else in it, above all no cargo and no compiler.
struct Machine {
    home: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["sh", "env", "node", "npm", "npx", "tar", "gzip"] {
            symlink(found(name), bin.join(name)).unwrap();
        }
        Machine { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A program with this machine's PATH, in its home.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = match program.as_ref().is_absolute() {
            true => program.as_ref().to_owned(),
            false => self.path("bin").join(program),
        };
        let mut command = Command::new(program);
        command.current_dir(self.home.path()).env("PATH", self.path("bin"));
        command.env("HOME", self.home.path()).env("XDG_STATE_HOME", self.home.path());
        for name in ["CARGO", "RUSTC", "CC", "THALWEG_BIN", "VIRTUAL_ENV", "PYTHONPATH", "NODE_PATH"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        let output = command.args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

/// A program in this process's PATH.
fn found(name: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// The file of a folder whose name starts and ends so.
fn file(folder: &Path, start: &str, end: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten();
    let fits = |name: &str| name.starts_with(start) && name.ends_with(end);
    let found = files.map(|f| f.path()).find(|f| fits(&f.file_name().unwrap().to_string_lossy()));
    found.unwrap_or_else(|| panic!("no {start}…{end} in {}", folder.display()))
}

/// The quickstart of a language, for the broker of a test, with the topic and the plugin that it uses.
fn quickstart(language: &str, dev: &Dev, home: &Path) -> String {
    prepare(dev, home);
    blocks(language).remove(0).replace("thalweg://localhost:9460", &dev.address)
}

fn both_lines_are_the_flight(command: Command) {
    let said = first_lines(command, 2);
    assert!(said.iter().all(|line| line.contains("UA")), "{said:?}");
}

#[test]
#[cfg_attr(not(packages), ignore = "needs a release: `cargo xtask test` makes one")]
fn the_archive_is_a_command_that_runs() {
    let machine = Machine::new();
    let archive = file(&dist(), "thalweg-", ".tar.gz");
    std::fs::create_dir(machine.path("opt")).unwrap();
    machine.run("tar", &["-xzf", archive.to_str().unwrap(), "--strip-components", "1", "-C", "opt"]);
    let program = machine.path("opt/thalweg");
    assert_eq!(machine.run(&program, &["--version"]), format!("thalweg {}", env!("CARGO_PKG_VERSION")));
    assert!(machine.path("opt/LICENSE").exists());
    let dev = dev_of(machine.command(&program), program.clone(), machine.home.path());
    let mut list = machine.command(&program);
    let said = list.args(["topic", "list", "--output", "json"]).env("THALWEG_BROKER", &dev.address).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
#[cfg_attr(not(packages), ignore = "needs a release: `cargo xtask test` makes one")]
fn the_wheels_install_without_a_compiler_and_run_the_quickstart() {
    let machine = Machine::new();
    let base = std::env::var_os("THALWEG_PYTHON").expect("it was set when this was built");
    machine.run(PathBuf::from(base), &["-m", "venv", "venv"]);
    let python = machine.path("venv/bin/python");
    let wheels = dist().join("python");
    let wheels = wheels.to_str().unwrap();
    // Only wheels: what stands beside them is the sdist, which needs a compiler.
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--only-binary", ":all:"];
    machine.run(&python, &[&pip[..], &["--find-links", wheels, "thalweg[cli]"]].concat());

    let program = machine.path("venv/bin/thalweg");
    assert_eq!(machine.run(&program, &["--version"]), format!("thalweg {}", env!("CARGO_PKG_VERSION")));
    let found = machine.run(&python, &["-c", "import thalweg.testing as t; print(t.find_binary())"]);
    assert_eq!(PathBuf::from(found), program);

    let dev = dev_of(machine.command(&program), program.clone(), machine.home.path());
    let body: String = quickstart("python", &dev, machine.home.path()).lines().map(|l| format!("    {l}\n")).collect();
    machine.write("quickstart.py", &format!("import asyncio, thalweg\nasync def main():\n{body}asyncio.run(main())\n"));
    let mut command = machine.command(&python);
    command.args(["-u", "quickstart.py"]);
    both_lines_are_the_flight(command);
}

#[test]
#[cfg_attr(not(packages), ignore = "needs a release: `cargo xtask test` makes one")]
fn the_npm_packages_install_without_a_compiler_and_run_the_quickstart() {
    let machine = Machine::new();
    machine.write("package.json", r#"{ "private": true }"#);
    let install = ["install", "--no-audit", "--no-fund", "--loglevel", "error"];
    machine.run("npm", &[&install[..], &["jest@30", "esbuild@0.25", "webpack@5"]].concat());
    let registry = registry(&dist().join("npm"));
    machine.run("npm", &[&install[..], &["thalweg", "--registry", &registry]].concat());

    let version = machine.run("npx", &["thalweg", "--version"]);
    assert_eq!(version, format!("thalweg {}", env!("CARGO_PKG_VERSION")));
    let program = PathBuf::from(machine.run("node", &["-p", "require('thalweg/testing').findBinary()"]));
    assert!(program.starts_with(machine.path("node_modules/@thalweg")), "{program:?}");
    let mut npx = machine.command("npx");
    npx.arg("thalweg");
    let dev = dev_of(npx, program, machine.home.path());

    let block = quickstart("js", &dev, machine.home.path());
    let wrapped: String = block.lines().map(|line| format!("  {line}\n")).collect();
    let in_function = format!(";(async () => {{\n{wrapped}}})()\n");
    machine.write("app.mjs", &format!("import {{ connect }} from 'thalweg'\n{block}"));
    machine.write("app.cjs", &format!("const {{ connect }} = require('thalweg')\n{in_function}"));
    // Bundles leave `thalweg` out, as everything that is compiled.
    machine.write("bundled.mjs", &format!("import {{ connect }} from 'thalweg'\n{in_function}"));
    let esbuild = ["esbuild", "bundled.mjs", "--bundle", "--platform=node", "--external:thalweg", "--log-level=error"];
    machine.run("npx", &[&esbuild[..], &["--outfile=esbuilt.cjs"]].concat());
    machine.write("webpack.cjs", WEBPACK);
    machine.run("node", &["webpack.cjs"]);
    for app in ["app.mjs", "app.cjs", "esbuilt.cjs", "webpacked.cjs"] {
        let mut command = machine.command("node");
        command.arg(app);
        both_lines_are_the_flight(command);
    }
    machine.write("kit.test.js", JEST);
    machine.run("npx", &["jest"]);

    // Whoever ends npx ends the broker.
    let port: u16 = dev.address.rsplit(':').next().unwrap().parse().unwrap();
    drop(dev);
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::UdpSocket::bind(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the broker outlives npx");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A registry on this machine that has a folder's packages; answers with its address. It lives as long as the tests.
fn registry(folder: &Path) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for package in std::fs::read_dir(folder).unwrap().flatten().map(|file| file.path()) {
        let mut tar = Command::new("tar");
        let manifest = tar.arg("-xzOf").arg(&package).arg("package/package.json").output().unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest.stdout).unwrap();
        let (name, version) =
            (manifest["name"].as_str().unwrap().to_owned(), manifest["version"].as_str().unwrap().to_owned());
        let file = format!("/-/{}", package.file_name().unwrap().to_string_lossy());
        manifest["dist"] = json!({ "tarball": format!("{address}{file}") });
        let document = json!({ "name": name, "dist-tags": { "latest": version }, "versions": { version: manifest } });
        answers.insert(format!("/{}", name.replace('/', "%2f")), document.to_string().into_bytes());
        answers.insert(file, std::fs::read(&package).unwrap());
    }
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &answers)));
    address
}

fn answer(stream: TcpStream, answers: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, body) = answers.get(path).map_or(("404 Not Found", &[][..]), |body| ("200 OK", &body[..]));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body));
}

const JEST: &str = "
const { startBroker } = require('thalweg/testing')

test('a record comes back, in a realm of its own', async () => {
  const broker = await startBroker()
  const client = await broker.connect()
  const producer = client.producer('orders')
  await producer.send(new Uint8Array([104, 105]), { key: 'k' })
  const seen = []
  for await (const record of client.consumer('orders', { start: 'earliest', untilEnd: true })) seen.push(record.text())
  expect(seen).toEqual(['hi'])
  await client.close()
  await broker.close()
}, 60_000)
";

const WEBPACK: &str = "
const webpack = require('webpack')
const externals = { thalweg: 'commonjs thalweg' }
const config = { mode: 'production', target: 'node', entry: './bundled.mjs', externals }
webpack({ ...config, context: __dirname, output: { path: __dirname, filename: 'webpacked.cjs' } }, (error, stats) => {
  if (error || stats.hasErrors()) throw error ?? new Error(stats.toString())
})
";
