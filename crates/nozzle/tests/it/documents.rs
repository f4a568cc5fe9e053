//! The documents say what is: their commands run, their links lead somewhere.

use std::{path::Path, process::Command};

use nozzle_testkit::{
    anvil::{Anvil, AnvilOptions},
    chain::ChainBuilder,
};

use crate::harness::{Place, python_program, workspace};

/// The fenced `bash` blocks of a document that directly follow the line `<!-- tested -->`.
fn tested_blocks(text: &str) -> Vec<String> {
    let mut blocks = vec![];
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("<!-- tested -->\n```bash\n") {
        let (block, after) = after.split_once("\n```").unwrap();
        blocks.push(block.to_owned());
        rest = after;
    }
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_documents_run_as_they_stand() {
    let anvil = Anvil::start(AnvilOptions::default()).await.unwrap();
    ChainBuilder::new(&anvil, 9).await.unwrap().extend(150).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_nozzle")).parent().unwrap();
    let python = python_program();
    let python = python.parent().unwrap();
    let path = format!("{}:{}:{}", program.display(), python.display(), std::env::var("PATH").unwrap());
    let mut run = 0;
    for document in ["README.md", "docs/modes.md", "docs/queries.md", "docs/functions.md", "docs/datasets.md"]
    {
        let text = std::fs::read_to_string(workspace().join(document)).unwrap();
        let place = Place::empty();
        for block in tested_blocks(&text) {
            let script = block.replace("http://localhost:8545", anvil.url());
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &script])
                .current_dir(place.path(""))
                .env("PATH", &path)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{document}:\n{block}\nfailed: {said}");
            run += 1;
        }
    }
    assert!(run >= 6, "only {run} blocks of the documents are marked as tested");
}

/// Runs the demo and gives what it printed.
fn demo(place: &Place, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("bash");
    let programs = Path::new(env!("CARGO_BIN_EXE_nozzle")).parent().unwrap();
    command.arg(workspace().join("scripts/demo")).arg("80");
    command.env("NOZZLE_DEMO_PLACE", place.path("demo")).env("NOZZLE_DEMO_BIN", programs);
    command.env("NOZZLE_DEMO_FREE_PORTS", "1").env("NOZZLE_TEST_PYTHON", python_program());
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for part in [
        "blocks/s",
        "How much is there?",
        "transfers",
        "creations",
        "The latest blocks",
        "└",
        "JSON Lines listens",
        "{\"_block_num\":",
        "SELECT * FROM eth_mainnet.blocks LIMIT 10",
        "[10 rows x 24 columns]",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    said
}

#[test]
fn the_demo_shows_a_live_chain_and_ends_what_it_started() {
    let place = Place::empty();
    let said = demo(&place, &[]);
    assert!(said.contains("starting anvil"), "{said}");
    let url = said.split("--rpc-url http://").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(std::net::TcpStream::connect(url).is_err(), "the node still listens at {url}");
}

#[test]
fn the_demo_without_npm_shows_a_recorded_chain_and_says_so() {
    let place = Place::empty();
    // A PATH with all programs but npm.
    let programs = place.path("programs");
    std::fs::create_dir(&programs).unwrap();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name() != "npm" {
                std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).ok();
            }
        }
    }
    let said = demo(&place, &[("PATH", programs.to_str().unwrap()), ("NOZZLE_ANVIL", "")]);
    assert!(said.contains("npm is missing") && said.contains("recorded chain"), "{said}");
}

#[test]
fn links_within_the_documents_lead_somewhere() {
    let root = workspace();
    let listed = Command::new("git").args(["ls-files", "*.md"]).current_dir(&root).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() >= 10, "{listed}");
    for document in listed.lines() {
        let path = root.join(document);
        let text = std::fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            assert!(path.parent().unwrap().join(file).exists(), "{document} links to {target}");
        }
    }
}
