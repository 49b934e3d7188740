//! From uploaded bytes to a component that may run: pre-scan, wrapping, no imports, and a bounded compilation.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest, Sha256};
use thiserror::Error;
use wasmparser::{ComponentExternalKind, Encoding, ExternalKind, Parser, Payload, Validator, WasmFeatures};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::contract::{Kind, WIT};
use crate::engine::base_config;

/// Why a module is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdmitError {
    /// Not WebAssembly.
    #[error("this is not a WebAssembly module: {0}")]
    NotWasm(String),
    /// Above the limit.
    #[error("the module is {found} bytes, the limit is {limit} (docs/LIMITS.md)")]
    TooLarge {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Neither `filter` nor `partition`, or both.
    #[error("the module exports {found}; a filter exports `init` and `filter`, a partitioner `init` and `partition`")]
    Exports {
        /// What it exports.
        found: String,
    },
    /// It asks for something from outside.
    #[error("the module imports {0:?}; a plugin imports nothing: no clock, files, network or random numbers")]
    Import(String),
    /// It cannot be made a component of the contract.
    #[error("the module does not fit the contract thalweg:plugin@0.1.0: {0}")]
    Contract(String),
    /// It does not compile within bounds.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// The system has no process, or no file, for the compiler at the moment. It says nothing of the module.
    #[error("the compiler process could not be started: {0}; try again, or raise the limit of open files")]
    NotStarted(String),
}

/// A module that fits the contract; compiling it within bounds is the next step.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The component that is kept and compiled.
    pub component: Vec<u8>,
    /// SHA-256 of it: its name in the cluster.
    pub digest: [u8; 32],
    /// SHA-256 of what was uploaded.
    pub source_digest: [u8; 32],
    /// What the plugin does, by its exports.
    pub kind: Kind,
}

/// Checks an uploaded module, wrapping a core module as a component. Compiles nothing.
pub fn admit(source: &[u8], bytes_max: usize) -> Result<Admitted, AdmitError> {
    if source.len() > bytes_max {
        return Err(AdmitError::TooLarge { found: source.len(), limit: bytes_max });
    }
    let not_wasm = |e: wasmparser::BinaryReaderError| AdmitError::NotWasm(e.to_string());
    let scan = scan(source).map_err(not_wasm)?;
    // The proposals that the engine has switched off are refused here already, by name.
    let features = WasmFeatures::WASM2 | WasmFeatures::COMPONENT_MODEL | WasmFeatures::EXTENDED_CONST;
    Validator::new_with_features(features).validate_all(source).map_err(not_wasm)?;
    if scan.functions > FUNCTIONS_MAX {
        let reason = format!("{} functions, the limit is {FUNCTIONS_MAX}", scan.functions);
        return Err(AdmitError::Compile(reason));
    }
    let has = |name: &str| scan.exports.iter().any(|e| e == name);
    let kind = match (has("init"), has("partition"), has("filter")) {
        (true, true, false) => Kind::Partitioner,
        (true, false, true) => Kind::Filter,
        _ => {
            let names: Vec<_> = scan.exports.iter().map(|e| format!("`{e}`")).collect();
            let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(AdmitError::Exports { found });
        }
    };
    if let Some(import) = scan.imports.first() {
        return Err(AdmitError::Import(import.clone()));
    }
    let component = match scan.is_component {
        true => source.to_vec(),
        false => wrap(source, kind).map_err(|e| AdmitError::Contract(format!("{e:#}")))?,
    };
    Ok(Admitted { digest: sha256(&component), source_digest: sha256(source), component, kind })
}

/// SHA-256: of a component the name under which the cluster knows it. Whoever is handed a module compares before
/// compiling it.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn wrap(module: &[u8], kind: Kind) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut resolve = Resolve::default();
    let package = resolve.push_source("plugin.wit", WIT)?;
    let world = resolve.select_world(&[package], Some(kind.name()))?;
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(ComponentEncoder::default().module(&module)?.validate(true).encode()?)
}

struct Scan {
    is_component: bool,
    imports: Vec<String>,
    exports: Vec<String>,
    functions: u32,
}

/// Reads the sections of the outermost module or component; counts functions at every depth.
fn scan(source: &[u8]) -> Result<Scan, wasmparser::BinaryReaderError> {
    let mut scan = Scan { is_component: false, imports: Vec::new(), exports: Vec::new(), functions: 0 };
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(source) {
        match payload? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 {
                    scan.is_component = encoding == Encoding::Component;
                }
            }
            Payload::End(_) => depth -= 1,
            Payload::FunctionSection(section) => scan.functions = scan.functions.saturating_add(section.count()),
            Payload::ImportSection(section) if depth == 1 => {
                for import in section.into_imports() {
                    let import = import?;
                    scan.imports.push(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    scan.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        scan.exports.push(export.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Func {
                        scan.exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(scan)
}

/// Starts the compiler; waits a while for what the system lacks at the moment.
fn start(program: &[OsString]) -> Result<Child, AdmitError> {
    let (name, arguments) = program.split_first().expect("a command line has a program");
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let lacks = |e: &std::io::Error| {
        let code = e.raw_os_error();
        [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM].iter().any(|c| code == Some(c.raw_os_error()))
    };
    let started = Instant::now();
    loop {
        match command.spawn() {
            Ok(child) => return Ok(child),
            Err(e) if lacks(&e) && started.elapsed() < START_WALL => std::thread::sleep(START_AGAIN),
            Err(e) if lacks(&e) => return Err(AdmitError::NotStarted(e.to_string())),
            Err(e) => return Err(AdmitError::Compile(format!("the compiler process did not start: {e}"))),
        }
    }
}

/// Compiles `component` in a child process that cannot take more than its share, and throws the result away.
///
/// `program` is a command line that ends in [`compile_child`]. Blocks for up to 45 s.
pub fn compile_in_child(program: &[OsString], component: &[u8]) -> Result<(), AdmitError> {
    let failed = |what: String| AdmitError::Compile(what);
    let mut child = start(program)?;
    let mut stdin = child.stdin.take().expect("piped");
    let bytes = component.to_vec();
    // A child that dies early breaks the pipe; its exit tells why.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() > COMPILE_WALL => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("it took longer than {} s", COMPILE_WALL.as_secs())));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => return Err(failed(format!("the compiler process was lost: {e}"))),
        }
    };
    let _ = writer.join();
    let mut said = String::new();
    let _ = child.stdout.take().expect("piped").take(64 << 10).read_to_string(&mut said);
    match status.success() {
        true => Ok(()),
        false if said.is_empty() => Err(failed(format!(
            "the compiler was stopped ({status}): more than {COMPILE_CPU_S} s of CPU or {} MiB of memory",
            COMPILE_MEMORY_BYTES >> 20
        ))),
        false => Err(failed(said)),
    }
}

/// The child's side: limits itself, compiles standard input, and says on standard output what is wrong with it.
/// Returns the process's exit code.
pub fn compile_child() -> i32 {
    let limit = |max: u64| Rlimit { current: Some(max), maximum: Some(max) };
    let limited = setrlimit(Resource::Cpu, limit(COMPILE_CPU_S)).is_ok()
        && setrlimit(Resource::As, limit(COMPILE_MEMORY_BYTES)).is_ok()
        && setrlimit(Resource::Core, limit(0)).is_ok();
    let mut component = Vec::new();
    if !limited || std::io::stdin().read_to_end(&mut component).is_err() {
        println!("the compiler process could not limit itself or read the module");
        return 2;
    }
    let compiled = wasmtime::Engine::new(&base_config()).and_then(|e| e.precompile_component(&component));
    match compiled {
        Ok(_) => 0,
        Err(e) => {
            println!("{e:#}");
            1
        }
    }
}

/// Most functions of a module: compilation time grows with them (100,000 tiny ones took 6 s).
const FUNCTIONS_MAX: u32 = 50_000;
/// How long the compiler's process may take to be started.
const START_WALL: Duration = Duration::from_secs(5);
/// When it is tried again.
const START_AGAIN: Duration = Duration::from_millis(10);
const COMPILE_CPU_S: u64 = 20;
const COMPILE_WALL: Duration = Duration::from_secs(40);
const COMPILE_MEMORY_BYTES: u64 = 2 << 30;
