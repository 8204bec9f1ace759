//! Leaves the tables for unwinding out of a release: it ends with a panic (`panic = "abort"`), so nobody reads them, and
//! they are an eighth of the binary. Those of the standard library are made already, hence at linking.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("PROFILE").is_some_and(|profile| profile == "release") {
        let script = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where")).join("no-unwind-tables.ld");
        // With INSERT it adds to the linker's own script instead of taking its place; ld and lld agree on that.
        fs::write(
            &script,
            "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame_hdr) *(.gcc_except_table*) } } INSERT AFTER .rodata;\n",
        )?;
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
        // A static binary applies its own relocations: it need not fear an old C library that cannot read the short form.
        if env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|all| all.split(',').any(|one| one == "crt-static")) {
            println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
    Ok(())
}
