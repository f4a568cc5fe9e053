//! What goes wrong is said in a plain sentence with what to do, and nothing is lost.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
};

use nozzle_testkit::replay::{Recording, ReplayServer};

use crate::harness::{Db, Place, Said, synthetic, until};

fn node(blocks: u64, delay_ms: u64) -> ReplayServer {
    synthetic(Recording::synthetic(blocks, 3, 2, 21), delay_ms)
}

/// The run failed with exit code 1 and said all of `parts`; nothing panicked.
#[track_caller]
fn assert_fails(said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for part in parts {
        assert!(said.stderr.contains(part), "`{part}` is not in: {}", said.stderr);
    }
    assert!(said.stderr.starts_with("error: ") || said.stderr.contains("\nerror: "), "{}", said.stderr);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    assert!(said.stdout.is_empty(), "standard output is for answers: {}", said.stdout);
}

#[test]
fn wrong_arguments_exit_with_2() {
    let place = Place::empty();
    for args in [
        &["dump"][..],
        &["dumb"],
        &["dump", "--dataset", "a", "--end-block", "soon"],
        &["query"],
        &["dump", "--dataset", "Eth"],
        &["dump", "--dataset", "a,"],
    ] {
        assert_eq!(place.run(args).code, Some(2), "{args:?}");
    }
    assert!(place.run(&["dumb"]).stderr.contains("dump"), "the nearest command is named");
}

#[test]
fn no_node_at_the_url() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://user:secret-word@{free}/path-with-key");
    let place = Place::empty();
    let said = place.run(&["dump", "--rpc-url", &url]);
    assert_fails(&said, &["--rpc-url", &free.to_string(), "nothing listens"]);
    assert!(
        !said.stderr.contains("secret-word") && !said.stderr.contains("path-with-key"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_url_that_is_none_and_one_with_another_service_behind_it() {
    let place = Place::empty();
    assert_fails(&place.run(&["dump", "--rpc-url", "localhost"]), &["URL", "http://localhost:8545"]);
    let meant = "write `http://127.0.0.1:8546`";
    assert_fails(&place.run(&["dump", "--rpc-url", "127.0.0.1:8546"]), &["--rpc-url", meant]);
    let meant = "write `http://localhost:8546`";
    assert_fails(&place.run(&["dump", "--rpc-url", "localhost:8546"]), &["--rpc-url", meant]);
    let provider = "kind = \"evm-rpc\"\nnetwork = \"anvil\"\nurl = \"localhost:8546\"\n";
    place.write(".nozzle/providers/anvil.toml", provider);
    assert_fails(&place.run(&["dump", "--dataset", "anvil"]), &["anvil.toml", meant]);
    std::fs::remove_file(place.path(".nozzle/providers/anvil.toml")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let page = "<html>hello</html>";
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
            let mut stream = stream.unwrap();
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            write!(stream, "{head}{page}").ok();
        }
    });
    assert_fails(&place.run(&["dump", "--rpc-url", &url]), &["JSON"]);
}

#[test]
fn another_chain_behind_the_provider() {
    let node = node(10, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth_mainnet", "mainnet", node.url());
    let said = place.run(&["dump", "--dataset", "eth_mainnet"]);
    assert_fails(&said, &["another chain", "`mainnet`", "chain id 1", "Check its URL"]);
}

#[test]
fn another_chain_is_recognised_by_the_final_block_where_no_hashes_are_stored() {
    let place = Place::configured(Db::Sqlite, "");
    let first = node(300, 0);
    first.set_finalized(None);
    place.define("eth", "chain-1337", first.url());
    place.write(
        "datasets/eth.json",
        r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337","schema":{"logs":["address"]}}"#,
    );
    place.ok(&["dump", "--dataset", "eth"]);
    let count = || place.number("SELECT count(*) FROM eth.logs");
    let before = count();
    let other = synthetic(Recording::synthetic(310, 3, 2, 22), 0);
    other.set_finalized(None);
    let said = place.run(&["dump", "--dataset", "eth", "--rpc-url", other.url()]);
    assert_fails(&said, &["another chain", "--fresh"]);
    assert_eq!(count(), before);
}

#[test]
fn another_chain_of_the_same_network_throws_nothing_away() {
    let place = Place::configured(Db::Sqlite, "");
    let first = node(50, 0);
    place.define("eth", "chain-1337", first.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let other = synthetic(Recording::synthetic(60, 3, 2, 22), 0);
    let said = place.run(&["dump", "--dataset", "eth", "--rpc-url", other.url()]);
    assert_fails(&said, &["another chain", "--fresh"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 50);
    place.ok(&["dump", "--dataset", "eth", "--rpc-url", other.url(), "--fresh"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_foreign_chain_throws_nothing_away_either() {
    let place = Place::configured(Db::Sqlite, "");
    let first = node(50, 0);
    place.define("eth", "chain-1337", first.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let network = "chain-1337".parse().unwrap();
    let finality = place.metadata().await.finality(&network).await.unwrap();
    for blocks in [1, 6] {
        let other = synthetic(Recording::synthetic(blocks, 3, 2, 22), 0);
        let said = place.run(&["dump", "--dataset", "eth", "--rpc-url", other.url()]);
        assert_fails(&said, &["another chain", "--fresh"]);
        assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 50);
        assert_eq!(
            place.metadata().await.finality(&network).await.unwrap(),
            finality,
            "it is not believed either"
        );
    }
}

#[test]
fn one_dataset_that_fails_does_not_keep_the_others_from_their_turn() {
    let node = node(20, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.define("away", "chain-7", "http://127.0.0.1:1");
    let said = place.run(&["dump", "--dataset", "away,eth"]);
    assert_fails(&said, &["`away`"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 20);
}

#[test]
fn a_definition_of_somebodys_own_is_never_overwritten() {
    let node = node(20, 0);
    let place = Place::empty();
    let own = r#"{"name":"chain_1337","kind":"evm-rpc","network":"chain-1337","start_block":10,"strat":1}"#;
    place.write(".nozzle/datasets/chain_1337.json", own);
    assert_fails(&place.run(&["dump", "--rpc-url", node.url()]), &["chain_1337.json", "strat"]);
    assert_eq!(std::fs::read_to_string(place.path(".nozzle/datasets/chain_1337.json")).unwrap(), own);
}

#[test]
fn secrets_are_not_repeated_by_errors() {
    let place = Place::empty();
    let refusals = [
        ("nozzle.toml", "[metadata_db]\nurl = \"postgres://u:secret-word@h/d"),
        ("nozzle.toml", "[metadata_db]\npool_size = \"postgres://u:secret-word@h/d\""),
        ("providers/p.toml", "kind = \"evm-rpc\"\nnetwork = \"n\"\nurl = \"https://h/secret-word"),
        (
            "providers/p.toml",
            "kind = \"evm-rpc\"\nnetwork = \"n\"\nurl = \"https://h\"\ntimeout_secs = \"secret-word\"",
        ),
    ];
    for (file, text) in refusals {
        place.write("nozzle.toml", "");
        place.write(file, text);
        let said = place.run(&["dump", "--dataset", "x"]);
        assert_fails(&said, &[file]);
        assert!(!said.stderr.contains("secret-word"), "{}", said.stderr);
    }
}

#[test]
fn a_provider_whose_file_is_gone_is_no_longer_used() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.write(
        "providers/aaa.toml",
        "kind = \"evm-rpc\"\nnetwork = \"chain-1337\"\nurl = \"http://127.0.0.1:1\"\n",
    );
    assert!(place.ok(&["dump", "--dataset", "eth"]).stderr.contains("`aaa`"), "it is tried first");
    std::fs::remove_file(place.path("providers/aaa.toml")).unwrap();
    assert!(!place.ok(&["dump", "--dataset", "eth"]).stderr.contains("`aaa`"));
}

#[test]
fn what_holds_secrets_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let node = node(5, 0);
    let place = Place::empty();
    place.ok(&["dump", "--rpc-url", node.url()]);
    for file in [".nozzle/metadata.db", ".nozzle/providers/chain-1337.toml"] {
        let mode = std::fs::metadata(place.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error_and_a_full_one_is() {
    let node = node(20, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let manifest = "generate-manifest --kind evm-rpc --network mainnet --name x";
    for command in ["dataset list", "dataset show eth", "files --dataset eth", "query 'SELECT 1'", manifest] {
        let program = env!("CARGO_BIN_EXE_nozzle");
        let run = |tail: &str| {
            let script = format!("{program} {command} {tail}");
            let mut command = Command::new("bash");
            Said::of(
                command.args(["-o", "pipefail", "-c", &script]).current_dir(place.path("")).output().unwrap(),
            )
        };
        // The pipe's reader is gone before anything is written.
        let closed = run("> >(exec 0<&-; sleep 0.2)");
        assert_eq!(closed.code, Some(0), "{command}: {}", closed.stderr);
        assert_fails(&run("> /dev/full"), &["No space left on device"]);
    }
}

#[test]
fn a_dataset_that_does_not_exist_is_named_with_the_nearest_one() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth_mainnet", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth_mainnet"]);
    assert_fails(
        &place.run(&["dump", "--dataset", "eth_manet"]),
        &["`eth_manet`", "did you mean `eth_mainnet`?"],
    );
    assert_fails(&place.run(&["files", "--dataset", "eth_manet"]), &["did you mean `eth_mainnet`?"]);
    assert_fails(
        &place.run(&["files", "--dataset", "eth_mainnet", "--table", "lgos"]),
        &["did you mean `logs`?"],
    );
    assert_fails(&place.run(&["dataset", "show", "polygon"]), &["there is no dataset `polygon`"]);
}

#[test]
fn a_place_that_cannot_be_written() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.write("a-file", "not a folder");
    let said = place.run(&["dump", "--dataset", "eth", "--location", "a-file/data"]);
    assert_fails(&said, &["a-file/data cannot be written", "--location"]);
    assert_fails(
        &place.run(&["dump", "--dataset", "eth", "--location", "/proc/nozzle"]),
        &["cannot be written"],
    );
    assert_fails(&place.run(&["dump", "--dataset", "eth", "--location", "s3://bucket/x"]), &["s3://"]);
    assert_eq!(std::fs::read_to_string(place.path("a-file")).unwrap(), "not a folder");
    place.ok(&["dump", "--dataset", "eth"]);
    // Here nothing can be made at all.
    let output = Command::new(env!("CARGO_BIN_EXE_nozzle"))
        .args(["dump", "--rpc-url", node.url()])
        .current_dir("/proc")
        .output()
        .unwrap();
    assert_fails(&Said::of(output), &["/proc/.nozzle", "cannot be made", "metadata_db.url"]);
}

#[test]
fn a_full_disk_stops_the_dump_and_room_lets_it_go_on() {
    let node = node(3_000, 0);
    let place =
        Place::configured(Db::Sqlite, "data_dir = \"small\"\nwriter = { segment_flush_interval_secs = 0.1 }");
    place.define("eth", "chain-1337", node.url());
    std::fs::create_dir(place.path("small")).unwrap();
    // A small disk of its own, which is gone with the namespace.
    let script = r#"
        mount -t tmpfs -o size=1m tmpfs small || exit 77
        "$0" dump --dataset eth; echo "first: $?"
        mount -o remount,size=500m small || exit 77
        "$0" dump --dataset eth; echo "second: $?"
        "$0" query 'SELECT count(*) AS n, count(DISTINCT block_num) AS d FROM eth.blocks' --format jsonl
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_nozzle")])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a mount namespace of one's own is needed: {err}");
    assert!(out.contains("first: 1"), "{out}{err}");
    assert!(
        err.contains("No space left on device") && err.contains("check that the disk has space"),
        "{err}"
    );
    assert!(out.contains("second: 0") && out.contains(r#"{"n":3000,"d":3000}"#), "{out}{err}");
}

#[test]
fn a_damaged_metadata_file_is_said_and_left_as_it_is() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    let garbage = "this is not a database, it is a letter. ".repeat(100);
    place.write("metadata.db", &garbage);
    for args in [&["dump", "--dataset", "eth"][..], &["query", "SELECT 1"], &["migrate"]] {
        assert_fails(&place.run(args), &["metadata.db", "damaged"]);
    }
    assert_eq!(std::fs::read_to_string(place.path("metadata.db")).unwrap(), garbage);
}

#[test]
fn bad_sql_says_what_is_wrong_with_it() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    assert_fails(&place.run(&["query", "SELECT 1"]), &["nothing has been extracted here yet", "nozzle dump"]);
    place.ok(&["dump", "--dataset", "eth"]);
    let query = |sql: &str| place.run(&["query", sql]);
    assert_fails(&query("SELEC 1"), &["not valid SQL"]);
    assert_fails(&query(""), &["no statement"]);
    assert_fails(&query("SELECT 1; SELECT 2"), &["one statement at a time"]);
    assert_fails(&query("SELECT hsah FROM eth.blocks"), &["hsah", "hash"]);
    assert_fails(&query("SELECT * FROM eht.blocks"), &["there is no dataset `eht`", "did you mean `eth`?"]);
    assert_fails(&query("SELECT * FROM eth.block"), &["no table `block`", "did you mean `blocks`?"]);
    assert_fails(&query("SELECT * FROM blocks"), &["dataset.blocks"]);
    for write in [
        "DROP TABLE eth.blocks",
        "INSERT INTO eth.blocks VALUES (1)",
        "CREATE TABLE eth.x AS SELECT 1",
        "COPY eth.blocks TO 'out.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
    ] {
        assert_fails(&query(write), &["cannot be planned", "only statements that read"]);
    }
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_is_refused_and_told_who_is_first() {
    for db in [Db::Sqlite, Db::Postgres] {
        let node = node(1_500, 60);
        let place = Place::configured(db, "writer = { segment_flush_interval_secs = 0.2 }");
        place.define("eth", "chain-1337", node.url());
        let mut first = place.start(&["dump", "--dataset", "eth"]);
        let store = place.metadata_when_there().await;
        until("the first commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
        let second = place.run(&["dump", "--dataset", "eth"]);
        assert_fails(
            &second,
            &["being written by", &format!("process {}", first.id()), "wait for it to end"],
        );
        let said = first.wait();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        place.stored("eth").await.assert_sound(0, 1_499);
        assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 1_500);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_killed_is_waited_out() {
    let node = node(1_000, 40);
    let place = Place::configured(Db::Sqlite, "writer = { segment_flush_interval_secs = 0.1 }");
    place.define("eth", "chain-1337", node.url());
    let mut first = place.start(&["dump", "--dataset", "eth"]);
    let store = place.metadata_when_there().await;
    until("the first commit", async || (store.sequence().await.ok()?.0 > 0).then_some(())).await;
    assert!(first.is_running());
    let holder = format!("process {}", first.id());
    first.kill();
    let said = place.ok(&["dump", "--dataset", "eth"]);
    assert!(said.stderr.contains("has gone silent") && said.stderr.contains(&holder), "{}", said.stderr);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 1_000);
}

#[test]
fn a_bad_configuration_names_the_key_that_was_meant() {
    let place = Place::empty();
    place.write("nozzle.toml", "data_dri = \"x\"");
    assert_fails(
        &place.run(&["dump", "--dataset", "x"]),
        &["`data_dri`", "did you mean `data_dir`?", "nozzle.toml"],
    );
    assert_fails(&place.run(&["--config", "absent.toml", "migrate"]), &["absent.toml does not exist"]);
    let mut command = place.command(&["migrate"]);
    std::fs::remove_file(place.path("nozzle.toml")).unwrap();
    let output = command.env("NOZZLE_CONFIG_METADATA_DB__URI", "x").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("metadata_db.uri"));
}

#[test]
fn bad_definitions_name_the_file_and_the_reason() {
    let node = node(5, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    let manifest = |rest: &str| format!(r#"{{"name":"bad","kind":"evm-rpc","network":"chain-1337"{rest}}}"#);
    for (text, parts) in [
        (manifest(r#","strat_block":1"#), ["bad.json", "strat_block"]),
        (manifest(r#","schema":{"lgos":"*"}"#), ["no table `lgos`", "blocks"]),
        (manifest(r#","schema":{"logs":["adress"]}"#), ["no column `adress`", "address"]),
        (manifest("").replace("evm-rpc", "firehose"), ["no firehose provider", "chain-1337"]),
        (manifest("").replace("\"bad\"", "\"worse\""), ["bad.json", "worse"]),
        ("{".into(), ["bad.json", "not valid"]),
    ] {
        place.write("datasets/bad.json", &text);
        assert_fails(&place.run(&["dump", "--dataset", "bad"]), &parts);
        // Nobody else is kept from working.
        place.ok(&["dump", "--dataset", "eth"]);
    }
    std::fs::remove_file(place.path("datasets/bad.json")).unwrap();
    place.write(
        "datasets/eth.json",
        r#"{"name":"eth","kind":"evm-rpc","network":"chain-1337","start_block":1}"#,
    );
    assert_fails(&place.run(&["dump", "--dataset", "eth"]), &["eth", "version"]);
}

#[test]
fn a_folder_that_was_moved_is_not_split() {
    let node = node(20, 0);
    let place = Place::empty();
    std::fs::create_dir(place.path("before")).unwrap();
    let program = env!("CARGO_BIN_EXE_nozzle");
    let run = |folder: &str, args: &[&str]| {
        Said::of(Command::new(program).args(args).current_dir(place.path(folder)).output().unwrap())
    };
    let dump = ["dump", "--rpc-url", node.url(), "--dataset", "eth"];
    assert_eq!(run("before", &[dump.as_slice(), &["-e", "9"]].concat()).code, Some(0));
    std::fs::rename(place.path("before"), place.path("after")).unwrap();
    assert_fails(&run("after", &dump), &["nothing is there any more", "nozzle restore --dataset eth"]);
    assert!(!place.path("before").exists());
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path("after/.nozzle").join(name)).ok();
    }
    assert_eq!(run("after", &["restore", "--dataset", "eth"]).code, Some(0));
    assert_eq!(run("after", &dump).code, Some(0));
    let said = run("after", &["query", "SELECT count(*) AS n FROM eth.blocks", "--format", "jsonl"]);
    assert_eq!(said.stdout, "{\"n\":20}\n");
}

#[test]
fn dumps_that_begin_together_do_not_trip_over_each_others_files() {
    let node = node(30, 0);
    for _ in 0..3 {
        let place = Place::empty();
        let dumps = [0, 1].map(|_| place.start(&["dump", "--rpc-url", node.url()]));
        for said in dumps.map(crate::harness::Running::wait) {
            assert!(!said.stderr.contains("File exists"), "{}", said.stderr);
            // The other may have all blocks in hand, which is said with its name.
            assert!(said.code == Some(0) || said.stderr.contains("dump"), "{}", said.stderr);
        }
        assert_eq!(place.number("SELECT count(*) FROM chain_1337.blocks"), 30);
    }
}

#[test]
fn a_file_that_is_gone_is_named_with_what_finds_it() {
    let node = node(10, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let files = place.ok(&["files", "--dataset", "eth", "--table", "logs"]).stdout;
    std::fs::remove_file(files.trim()).unwrap();
    assert_fails(&place.run(&["query", "SELECT * FROM eth.logs"]), &["is gone", "nozzle check"]);
}

#[test]
fn who_follows_waits_for_a_node_that_is_away_from_the_start() {
    let node = node(10, 0);
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    drop(node);
    let log = place.path("log");
    let mut follower = place.start_with_log(&["dump", "--dataset", "eth", "--follow"], &log);
    let begun = std::time::Instant::now();
    let said = || std::fs::read_to_string(&log).unwrap();
    // It says so once the source by itself has given up.
    while !said().contains("trying again in") {
        assert!(follower.is_running(), "it has given up: {}", said());
        assert!(begun.elapsed().as_secs() < 60, "{}", said());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    follower.signal("INT");
    assert_eq!(follower.wait().code, Some(0), "{}", said());
}

#[test]
fn a_switch_in_the_environment_is_true_or_false() {
    let place = Place::empty();
    let run = |value: &str| {
        let mut command = place.command(&["dump", "--dataset", "nothing"]);
        Said::of(command.env("DUMP_FRESH", value).output().unwrap())
    };
    for junk in ["maybe", "nope"] {
        assert_eq!(run(junk).code, Some(2), "{junk}");
    }
    for fine in ["", "false", "TRUE", "1"] {
        assert_eq!(run(fine).code, Some(1), "{fine}");
    }
}

#[test]
fn a_query_that_is_interrupted_leaves_no_half_of_a_file() {
    let place = Place::configured(Db::Sqlite, "");
    let node = node(5, 0);
    place.define("eth", "chain-1337", node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let sql = "SELECT value FROM generate_series(1, 1000000000)";
    let partial = || {
        let entries = std::fs::read_dir(place.path("")).unwrap().map(Result::unwrap);
        let own = entries.filter(|entry| entry.file_name().to_string_lossy().contains("out.csv"));
        own.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len())).collect::<Vec<_>>()
    };
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut query = place.start(&["query", sql, "-o", "out.csv"]);
        let begun = std::time::Instant::now();
        // With rows in it, it is also watched.
        while partial().iter().sum::<u64>() < 1 << 20 {
            assert!(begun.elapsed().as_secs() < 60, "nothing was written");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        query.signal(signal);
        assert_eq!((query.wait().code, partial()), (Some(code), vec![]));
    }
}
