//! `cargo xtask dist`: what a release is made of, in `target/packages`. Wheels and an sdist in `python`, npm packages
//! in `npm`, the `thalweg` command as an archive, and the checksums of all.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build;

/// How the pieces are built.
struct Release {
    profile: String,
    /// Rust's names of platforms, with `.2.28` behind them for a version of glibc. Empty: this machine's.
    zig_targets: Vec<String>,
    /// With the tools in it.
    python: PathBuf,
    folder: PathBuf,
}

/// One platform's libraries and command, as cargo leaves them.
struct Built {
    target: String,
    native: PathBuf,
    command: PathBuf,
}

pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let mut profile = "dist".to_owned();
    let mut zig_targets = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(&argument) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
        match argument {
            "--profile" => profile = (*value).to_owned(),
            "--zig" => zig_targets.push((*value).to_owned()),
            unknown => return Err(format!("cargo xtask dist knows --profile and --zig, not {unknown}")),
        }
    }
    let made = make(&profile, zig_targets)?;
    eprintln!("\nthe release is in {}", made.display());
    Ok(())
}

/// Makes everything anew; answers with the folder.
pub(crate) fn make(profile: &str, zig_targets: Vec<String>) -> Result<PathBuf, String> {
    // Not `dist`: that is cargo's, by the name of the profile.
    let folder = build::target().join("packages");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    for part in ["python", "npm"] {
        std::fs::create_dir_all(folder.join(part)).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    build::step("tools of the packages");
    let python = build::environment("dist-venv")?;
    build::pip_install(&python, &TOOLS)?;
    if !zig_targets.is_empty() {
        build::pip_install(&python, &ZIG_TOOLS)?;
    }
    let release = Release { profile: profile.to_owned(), zig_targets, python, folder };
    let mut built = Vec::new();
    if release.zig_targets.is_empty() {
        built.push(release.platform(None)?);
    }
    for target in &release.zig_targets {
        built.push(release.platform(Some(target))?);
    }
    build::step("sdist");
    let out = release.folder.join("python");
    build::run(release.maturin().args(["sdist", "--manifest-path", "sdk-python/Cargo.toml", "--out"]).arg(&out))?;
    build::step("npm packages");
    let mut pack = build::command("node");
    pack.arg("sdk-node/pack.mjs").arg(release.folder.join("npm"));
    for Built { target, native, command } in &built {
        pack.arg(target).arg(native).arg(command);
    }
    build::run(&mut pack)?;
    release.checksums()?;
    Ok(release.folder)
}

impl Release {
    /// Everything of one platform.
    fn platform(&self, zig: Option<&str>) -> Result<Built, String> {
        let target = match zig {
            // Without the version of glibc: cargo's folder and npm's packages do not know it.
            Some(zig) => zig.split_once('.').map_or(zig, |(target, _)| target).to_owned(),
            None => host()?,
        };
        if zig.is_some() {
            build::run(build::command("rustup").args(["target", "add", &target]))?;
        }
        build::step(&format!("{target}: the command, as a wheel"));
        self.wheel("cli", zig)?;
        let cargo_folder = match zig {
            Some(_) => build::target().join(&target).join(&self.profile),
            None => build::target().join(&self.profile),
        };
        // Copied at once: a later build of the workspace, with other features, takes its place.
        let command = self.folder.join(format!("thalweg-{}-{target}", version()));
        self.archive(&cargo_folder.join("thalweg"), &command)?;
        build::step(&format!("{target}: the Python client, as a wheel"));
        self.wheel("sdk-python", zig)?;
        build::step(&format!("{target}: the Node client"));
        let mut cargo = self.cargo();
        cargo.arg(if zig.is_some() { "zigbuild" } else { "build" });
        cargo.args(["--profile", &self.profile]);
        // In the tests' profile all of the workspace is there already, and the binding alone would be another build.
        match self.profile == "fast" {
            true => cargo.arg("--workspace"),
            false => cargo.args(["--package", "thalweg-node"]),
        };
        if let Some(zig) = zig {
            cargo.args(["--target", zig]);
        }
        build::run(&mut cargo)?;
        let library = if target.contains("apple") { "libthalweg_node.dylib" } else { "libthalweg_node.so" };
        Ok(Built { target, native: cargo_folder.join(library), command: command.join("thalweg") })
    }

    /// Builds a wheel, which names the oldest glibc that it runs on; one that runs on this machine only is an error.
    fn wheel(&self, package: &str, zig: Option<&str>) -> Result<(), String> {
        let out = self.folder.join("python");
        let wheels = |out: &Path| -> Vec<PathBuf> {
            let files = std::fs::read_dir(out).into_iter().flatten().flatten().map(|f| f.path());
            files.filter(|f| f.extension().is_some_and(|e| e == "whl")).collect()
        };
        let before = wheels(&out);
        let mut maturin = self.maturin();
        maturin.args(["build", "--profile", &self.profile, "--manifest-path"]);
        maturin.arg(format!("{package}/Cargo.toml")).arg("--out").arg(&out);
        if let Some(zig) = zig {
            maturin.args(["--zig", "--target", zig.split_once('.').map_or(zig, |(target, _)| target)]);
            if let Some((_, glibc)) = zig.split_once('.') {
                maturin.arg("--compatibility").arg(format!("manylinux_{}", glibc.replace('.', "_")));
            }
        }
        build::run(&mut maturin)?;
        for wheel in wheels(&out).iter().filter(|w| !before.contains(w)) {
            let name = wheel.to_string_lossy();
            if name.contains("-linux_") {
                return Err(format!(
                    "{name} runs on this machine only: it asks for libraries that other Linux systems lack"
                ));
            }
            if name.contains("manylinux") {
                build::run(self.tool("auditwheel").arg("show").arg(wheel))?;
            }
        }
        Ok(())
    }

    /// The command in a folder with its licence, and that folder as a `.tar.gz`.
    fn archive(&self, command: &Path, to: &Path) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{}: {e}", to.display());
        std::fs::create_dir_all(to).map_err(failed)?;
        std::fs::copy(command, to.join("thalweg")).map_err(failed)?;
        std::fs::copy(build::root().join("LICENSE"), to.join("LICENSE")).map_err(failed)?;
        std::fs::copy(build::root().join("cli/README.md"), to.join("README.md")).map_err(failed)?;
        let name = to.file_name().expect("it was given one");
        let mut tar = build::command("tar");
        tar.current_dir(&self.folder).arg("-czf").arg(format!("{}.tar.gz", name.to_string_lossy())).arg(name);
        build::run(&mut tar)
    }

    fn checksums(&self) -> Result<(), String> {
        let program = "import hashlib, pathlib, sys\n\
                       root = pathlib.Path(sys.argv[1])\n\
                       files = sorted(f for f in root.rglob('*') if f.suffix in ('.whl', '.gz', '.tgz'))\n\
                       sums = ''.join(f'{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(root)}\\n' for f \
                       in files)\n\
                       (root / 'SHA256SUMS').write_text(sums)\n\
                       print(sums, end='')";
        build::run(build::command(&self.python).args(["-c", program]).arg(&self.folder))
    }

    fn maturin(&self) -> Command {
        self.tool("maturin")
    }

    fn cargo(&self) -> Command {
        let mut cargo = build::cargo();
        cargo.env("PATH", self.path());
        cargo
    }

    /// A program of the environment, which finds the others there.
    fn tool(&self, name: &str) -> Command {
        let mut tool = build::command(self.python.with_file_name(name));
        tool.env("PATH", self.path()).env("CARGO_TARGET_DIR", build::target());
        tool
    }

    fn path(&self) -> std::ffi::OsString {
        let own = self.python.parent().expect("bin").to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&others))).expect("PATH was one before")
    }
}

/// Rust's name of this machine's platform.
fn host() -> Result<String, String> {
    let output = build::command("rustc").arg("-vV").output().map_err(|e| format!("rustc does not start: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say what platform this is".into())
}

/// The workspace's version, which this package has as well.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Built beside each other, so that each stays at the version that was tried.
const TOOLS: [&str; 2] = ["maturin>=1.16,<2", "auditwheel>=6.8,<7"];
/// A compiler and linker for other platforms and for older versions of glibc.
const ZIG_TOOLS: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild>=0.24,<0.25"];
