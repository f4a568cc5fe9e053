//! Compiles the messages that are spoken with Firehose and Substreams endpoints.

use std::error::Error;

/// All that is spoken, below `proto`.
const PROTOS: [&str; 2] = ["sf/firehose/v2/firehose.proto", "sf/substreams/rpc/v2/service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // `Any` too, so that a block in it is a piece of the buffer that it came in, and no copy.
        .compile_well_known_types(true)
        .bytes(".")
        .include_file("pb.rs")
        .compile_fds(files)?;
    Ok(())
}
