//! What an older version has written is read, extended and merged by this one.

use std::{path::Path, process::Command};

use nozzle_testkit::{postgres, replay::Recording};

use crate::{
    check::{change, files, node},
    cluster::NETWORK,
    harness::{Db, NOT_MERGED, Place, python, synthetic},
};

/// What `scripts/fixture` has put in place of the folder that it worked in.
const FIXTURE_FOLDER: &str = "file:///fixture";

/// Lets the database find its files where they are now.
const MOVE: &str = r#"
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database:
    database.execute("UPDATE locations SET url = replace(url, ?, ?)", sys.argv[2:])
"#;

/// A place with what a release has written.
fn released(release: &Path, db: Db) -> Place {
    let place = Place::configured(db, NOT_MERGED);
    let (kind, here) = match db {
        Db::Sqlite => ("sqlite", "metadata.db"),
        Db::Postgres => ("postgres", "metadata.sql"),
    };
    let from = release.join(kind);
    let copied =
        Command::new("cp").arg("-r").arg(from.join("data")).arg(from.join(here)).arg(place.path("")).status();
    assert!(copied.unwrap().success());
    let folder = format!("file://{}", place.path("").display().to_string().trim_end_matches('/'));
    match db {
        Db::Sqlite => drop(python(MOVE, &[place.path(here).to_str().unwrap(), FIXTURE_FOLDER, &folder])),
        Db::Postgres => {
            let sql = std::fs::read_to_string(place.path(here)).unwrap();
            place.write(here, &sql.replace(FIXTURE_FOLDER, &folder));
            postgres::load(place.postgres(), &place.path(here)).unwrap();
        }
    }
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_release_has_written_is_opened_upgraded_and_goes_on() {
    let releases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/releases");
    let node = synthetic(Recording::synthetic(40, 2, 1, 7), 0);
    let mut opened = 0;
    for release in std::fs::read_dir(releases).unwrap() {
        let release = release.unwrap().path();
        for db in [Db::Sqlite, Db::Postgres] {
            let place = released(&release, db);
            place.define("eth", NETWORK, node.url());
            place.ok(&["migrate"]);
            assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 30, "{}", release.display());
            assert_eq!(place.number("SELECT count(DISTINCT tx_hash) FROM eth.transactions"), 58);
            place.ok(&["check", "--dataset", "eth", "--verify", "header"]);
            place.ok(&["dump", "--dataset", "eth", "-e", "39"]);
            assert!(place.ok(&["compact"]).stdout.contains("3 segments are 1 now"));
            place.ok(&["check", "--dataset", "eth", "--verify", "header"]);
            place.stored("eth").await.assert_sound(0, 39);
            assert_eq!(place.number("SELECT count(*) FROM eth.logs"), 78);
            opened += 1;
        }
    }
    assert!(opened >= 2);
}

/// Makes the database believe that the table `blocks` never had these columns.
const OLDER_SCHEMA: &str = r#"
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database:
    (schema,) = database.execute("SELECT schema FROM locations WHERE table_name = 'blocks'").fetchone()
    schema = json.loads(schema)
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in sys.argv[2:]]
    database.execute("UPDATE locations SET schema = ? WHERE table_name = 'blocks'", (json.dumps(schema),))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_an_older_version_did_not_write_are_null_checked_and_merged() {
    let node = node(13);
    let place = Place::configured(Db::Sqlite, NOT_MERGED);
    place.define("eth", "chain-1337", node.url());
    for end in ["19", "39"] {
        place.ok(&["dump", "--dataset", "eth", "-e", end]);
    }
    for file in files(&place, "blocks").await {
        change(&place, &file, "without: requests_hash base_fee_per_gas");
    }
    let database = place.path("metadata.db");
    python(OLDER_SCHEMA, &[database.to_str().unwrap(), "requests_hash", "base_fee_per_gas"]);
    assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 40);
    let said = place.run(&["query", "SELECT requests_hash FROM eth.blocks"]);
    assert!(said.code == Some(1) && said.stderr.contains("requests_hash"), "{}", said.stderr);

    place.ok(&["dump", "--dataset", "eth", "-e", "59"]);
    let is_right = |place: &Place| {
        let nulls =
            "SELECT count(*) FROM eth.blocks WHERE requests_hash IS NULL AND base_fee_per_gas IS NULL";
        assert_eq!(place.number("SELECT count(*) FROM eth.blocks"), 60);
        assert_eq!(place.number(nulls), 40);
        assert_eq!(place.number("SELECT count(base_fee_per_gas) FROM eth.blocks WHERE block_num >= 40"), 20);
        assert_eq!(place.query("SELECT * FROM eth.blocks ORDER BY block_num").len(), 60);
        // From a block on, so that it does not look for files that a restore has left aside.
        place.ok(&["check", "--dataset", "eth", "--verify", "links", "--start-block", "0"]);
    };
    is_right(&place);
    assert!(place.ok(&["compact"]).stdout.contains("3 segments are 1 now"));
    is_right(&place);
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(place.path(name)).ok();
    }
    place.ok(&["restore", "--dataset", "eth"]);
    is_right(&place);
}
