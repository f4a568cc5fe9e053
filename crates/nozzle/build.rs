//! Links the settings of the allocator into the program, where it is glibc's.

fn main() {
    println!("cargo::rerun-if-changed=src/malloc.c");
    let is_glibc = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu")
        && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if is_glibc {
        // As an object: of a library nothing would be linked, for nothing is called.
        for object in cc::Build::new().file("src/malloc.c").compile_intermediates() {
            println!("cargo::rustc-link-arg-bins={}", object.display());
        }
    }
}
