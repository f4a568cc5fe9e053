//! Compiles the messages that the test endpoints speak, from the files that the clients have.

use std::{error::Error, path::PathBuf};

const PROTOS: [&str; 2] = ["sf/firehose/v2/firehose.proto", "sf/ethereum/type/v2/type.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../sources/proto");
    let files = protox::compile(PROTOS, ["../sources/proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .compile_well_known_types(true)
        .include_file("pb.rs")
        .compile_fds(files)?;
    // Blocks as they are decoded fastest, for measures.
    let folder = PathBuf::from(std::env::var("OUT_DIR")?).join("bytes");
    std::fs::create_dir_all(&folder)?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_well_known_types(true)
        .bytes(".")
        .out_dir(folder)
        .include_file("pb.rs")
        .compile_fds(protox::compile(&PROTOS[1..], ["../sources/proto"])?)?;
    Ok(())
}
