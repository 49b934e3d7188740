//! Compiles the messages without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=src/thalweg.proto");
    let files = protox::compile(["src/thalweg.proto"], ["src"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
