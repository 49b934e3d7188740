//! Finds out what this machine has that some tests need, so that they are ignored, and counted as such, where it lacks.
//!
//! `cfg(sdks)`: the Python and the Node SDK are built. `cfg(packages)`: so is a release. `cfg(mounts)`: a small file
//! system may be mounted. `cfg(outside)`: the machine has an address beside loopback.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(sdks)");
    println!("cargo:rustc-check-cfg=cfg(packages)");
    println!("cargo:rustc-check-cfg=cfg(mounts)");
    println!("cargo:rustc-check-cfg=cfg(outside)");
    println!("cargo:rerun-if-env-changed=THALWEG_PYTHON");
    println!("cargo:rerun-if-env-changed=THALWEG_DIST");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../sdk-node/thalweg.node");
    let has_python = std::env::var_os("THALWEG_PYTHON").is_some_and(|python| PathBuf::from(python).exists());
    if has_python && PathBuf::from("../sdk-node/thalweg.node").exists() {
        println!("cargo:rustc-cfg=sdks");
    }
    if has_python && std::env::var_os("THALWEG_DIST").is_some() {
        println!("cargo:rustc-cfg=packages");
    }
    if has_outside() {
        println!("cargo:rustc-cfg=outside");
    }
    if mounts() {
        println!("cargo:rustc-cfg=mounts");
    }
}

/// Has the machine an address beside loopback? Nothing is sent.
fn has_outside() -> bool {
    let socket =
        UdpSocket::bind(("0.0.0.0", 0)).and_then(|s| s.connect(("192.0.2.1", 9)).and_then(|()| s.local_addr()));
    socket.is_ok_and(|address| !address.ip().is_loopback())
}

fn mounts() -> bool {
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names it")).join("mount");
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let made = std::fs::create_dir_all(&folder).is_ok()
        && succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&folder));
    made && succeeds(Command::new("umount").arg(&folder))
}
