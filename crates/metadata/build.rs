//! `sqlx::migrate!` reads the migrations when the crate is compiled: a new file is a new build.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
