//! The Admin API, the product's own commands to it, and the development server.

use std::{
    collections::BTreeSet,
    fs::File,
    process::{Command, Stdio},
};

use nozzle_testkit::replay::{Recording, ReplayOptions, ReplayServer};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cluster::{Api, Cluster, NETWORK},
    harness::{Db, PATIENCE, Place, python, python_program, synthetic, until, until_stored, workspace},
    servers::Server,
};

/// A chain that says it is Ethereum's, so that the documents' names fit.
fn mainnet(blocks: u64) -> ReplayServer {
    let options = ReplayOptions { chain_id: Some(1), ..ReplayOptions::default() };
    ReplayServer::start(Recording::synthetic(blocks, 3, 2, 71), options).unwrap()
}

const MANIFEST: &str = r#"{"name":"eth_mainnet","kind":"evm-rpc","network":"mainnet"}"#;

/// Runs the commands of documents as they stand, but for the ports and the ids.
struct Shell<'a> {
    place: &'a Place,
}

impl<'a> Shell<'a> {
    /// curl finds the servers behind the ports that documents name.
    fn new(place: &'a Place, server: &Server) -> Self {
        let to = |port: u16, url: &str| {
            format!("connect-to = \"localhost:{port}:{}\"\n", url.strip_prefix("http://").unwrap())
        };
        let config = to(1603, server.jsonl()) + &to(1610, server.admin());
        place.write(".curlrc", &format!("silent\nshow-error\n{config}"));
        Self { place }
    }

    fn run(&self, script: &str) -> Vec<u8> {
        let done = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.place.path(""))
            .env("CURL_HOME", self.place.path(""))
            .output()
            .unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    /// Runs the command of a document, with other ids, and reads its answer.
    fn documented(&self, document: &str, command: &str, ids: &[(&str, i64)]) -> Value {
        let bytes = self.documented_bytes(document, command, ids);
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("{command}: {error}: {}", String::from_utf8_lossy(&bytes)))
    }

    fn documented_bytes(&self, document: &str, command: &str, ids: &[(&str, i64)]) -> Vec<u8> {
        let text = std::fs::read_to_string(workspace().join(document)).unwrap();
        assert!(text.contains(&format!("\n{command}\n")), "{document} does not have `{command}`");
        let with_ids = ids
            .iter()
            .fold(command.to_owned(), |command, (example, id)| command.replace(example, &id.to_string()));
        assert!(ids.is_empty() || with_ids != command);
        self.run(&with_ids)
    }
}

/// Each `curl` line of the product's page on modes, in an order in which there is something to answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_curl_lines_of_the_documents_do_what_they_say() {
    const ADMIN: &str = "docs/admin.md";
    const QUERIES: &str = "docs/queries.md";
    let node = mainnet(60);
    let mut cluster = Cluster::start(&["worker-01"], &[]);
    let provider = json!({"name": "node", "kind": "evm-rpc", "network": "mainnet", "url": node.url()});
    assert_eq!(cluster.api.send(Method::POST, "/providers", &provider).await.0, 201);
    cluster.place.write("dataset_definition.json", MANIFEST);
    let shell = Shell::new(&cluster.place, &cluster.server);
    let register = "curl -X POST http://localhost:1610/datasets \\\n  -H \"Content-Type: application/json\" \\\n  \
                    -d @dataset_definition.json";
    let registered = shell.documented(ADMIN, register, &[]);
    assert_eq!((&registered["name"], &registered["kind"]), (&json!("eth_mainnet"), &json!("evm-rpc")));
    let listed = shell.documented(ADMIN, "curl http://localhost:1610/datasets", &[]);
    assert_eq!(listed["datasets"][0]["name"], "eth_mainnet");
    assert_eq!(shell.documented(ADMIN, "curl http://localhost:1610/jobs", &[]), json!({"jobs": []}));

    let start = "curl -X POST http://localhost:1610/datasets/eth_mainnet/dump \\\n  \
                 -H \"Content-Type: application/json\" \\\n  -d '{\n    \"end_block\": 20000000\n  }'";
    let job = shell.documented(ADMIN, start, &[])["job_id"].as_i64().unwrap();
    until_stored(cluster.metadata().await.as_ref(), "eth_mainnet", 59).await;
    let shown = shell.documented(ADMIN, "curl http://localhost:1610/jobs/42", &[("42", job)]);
    assert_eq!((&shown["id"], &shown["status"]), (&json!(job), &json!("RUNNING")), "{shown}");
    assert_eq!(shown["node_id"], "worker-01");
    assert_eq!(shown["descriptor"]["end_block"], 20_000_000);
    let table = &shown["progress"]["tables"]["logs"];
    assert_eq!((&table["current_block"], &table["rows"]), (&json!(59), &json!(59 * 6)), "{shown}");
    let listed = shell.documented(ADMIN, "curl http://localhost:1610/jobs", &[]);
    assert_eq!(listed["jobs"][0]["id"], job);

    let details = shell.documented(ADMIN, "curl http://localhost:1610/datasets/eth_mainnet", &[]);
    let blocks =
        details["tables"].as_array().unwrap().iter().find(|table| table["name"] == "blocks").unwrap();
    assert_eq!((&blocks["watermark"], &blocks["ranges"]), (&json!(59), &json!([[0, 59]])), "{details}");
    let locations = shell.documented(ADMIN, "curl http://localhost:1610/locations", &[]);
    let location = &locations["locations"][0];
    assert_eq!((&location["dataset"], &location["active"]), (&json!("eth_mainnet"), &json!(true)));
    let id = location["id"].as_i64().unwrap();
    let location = shell.documented(ADMIN, "curl http://localhost:1610/locations/7", &[("7", id)]);
    assert_eq!(location["writer"]["node_id"], "worker-01", "{location}");
    let files = shell.documented(ADMIN, "curl http://localhost:1610/locations/7/files", &[("7", id)]);
    let of_location = files["files"].as_array().unwrap();
    assert!(!of_location.is_empty());
    let files = shell.documented(ADMIN, "curl http://localhost:1610/files?dataset=eth_mainnet", &[]);
    assert!(files["files"].as_array().unwrap().len() > of_location.len());
    let file = of_location[0]["id"].as_i64().unwrap();
    let file = shell.documented(ADMIN, "curl http://localhost:1610/files/512", &[("512", file)]);
    let path = file["url"].as_str().unwrap().strip_prefix("file://").unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().len(), file["object_size"].as_u64().unwrap());

    let simple =
        "curl -X POST http://localhost:1603 \\\n  --data \"SELECT * FROM eth_mainnet.blocks LIMIT 10\"";
    let lines = shell.documented_bytes(QUERIES, simple, &[]);
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 10);
    let streaming = "curl -X POST http://localhost:1603 \\\n  -H \"Accept-Encoding: gzip\" \\\n  \
                     --data \"SELECT * FROM eth_mainnet.logs WHERE _block_num > 19000000\"";
    shell.documented_bytes(QUERIES, streaming, &[]);
    // The same above a block that is there: now there are rows to be packed.
    let packed = shell.run(&streaming.replace("19000000", "9"));
    assert!(packed.starts_with(&[0x1f, 0x8b]), "it is not packed");

    let stop = shell.documented(ADMIN, "curl -X PUT http://localhost:1610/jobs/42/stop", &[("42", job)]);
    assert!(["STOP_REQUESTED", "STOPPING", "STOPPED"].contains(&stop["status"].as_str().unwrap()), "{stop}");
    cluster.api.until_job(job, "STOPPED").await;
    let deleted =
        shell.documented_bytes(ADMIN, "curl -X DELETE http://localhost:1610/jobs/42", &[("42", job)]);
    assert!(deleted.is_empty());
    assert_eq!(cluster.api.refused(Method::GET, &format!("/jobs/{job}"), &Value::Null).await.0, 404);
    assert!(cluster.workers[0].is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_server_extracts_and_answers_in_one_process_and_its_worker_is_started_again() {
    const MODES: &str = "docs/modes.md";
    let node = mainnet(60);
    let place = Place::empty();
    place.write(".nozzle/datasets/eth_mainnet.json", MANIFEST);
    let provider = format!("kind = \"evm-rpc\"\nnetwork = \"mainnet\"\nurl = \"{}\"\n", node.url());
    place.write(".nozzle/providers/mainnet.toml", &provider);
    let mut command = Server::command(&place, &["--dev"]);
    let log = place.path("server.log");
    command.stderr(File::create(&log).unwrap());
    let server = Server::started(command, &["--dev"]);
    let said = || std::fs::read_to_string(&log).unwrap();
    until("the warning", async || said().contains("for development").then_some(())).await;
    let (api, shell) = (Api::of(&server), Shell::new(&place, &server));

    let start = "curl -X POST http://localhost:1610/datasets/eth_mainnet/dump \\\n  \
                 -H \"Content-Type: application/json\" \\\n  -d '{\n    \"end_block\": 1000000\n  }'";
    let job = shell.documented(MODES, start, &[])["job_id"].as_i64().unwrap();
    let count = "curl -X POST http://localhost:1603 \\\n  --data \"SELECT COUNT(*) FROM eth_mainnet.blocks\"";
    until("the blocks to be there", async || {
        // Before the first commit there is no table.
        let answer = shell.documented(MODES, count, &[]);
        (answer.as_object()?.values().next()? == 60).then_some(())
    })
    .await;
    assert_eq!(api.job(job).await["node_id"], "worker");
    assert_eq!(api.get("/workers").await["workers"][0]["node_id"], "worker");

    // Another process takes the name, as if this one had been silent.
    let take = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=30) as database:\n    \
                database.execute('UPDATE workers SET fence = fence + 1, ended_at = heartbeat_at')";
    python(take, &[place.path(".nozzle/metadata.db").to_str().unwrap()]);
    until("the worker to be started again", async || said().contains("is started again").then_some(())).await;
    api.send(Method::PUT, &format!("/jobs/{job}/stop"), &Value::Null).await;
    api.until_job(job, "STOPPED").await;
    let next = api.dump("eth_mainnet", json!({"end_block": 59})).await;
    api.until_job(next, "COMPLETED").await;

    // A job that fails says why, with all causes.
    let foreign = json!({"name": "foreign", "kind": "evm-rpc", "network": "gnosis"});
    let provider = json!({"name": "foreign", "kind": "evm-rpc", "network": "gnosis", "url": node.url()});
    assert_eq!(api.send(Method::POST, "/providers", &provider).await.0, 201);
    assert_eq!(api.send(Method::POST, "/datasets", &foreign).await.0, 201);
    let job = api.dump("foreign", json!({})).await;
    let why = api.until_job(job, "FAILED").await["error"].as_str().unwrap().to_owned();
    until("the reason to be logged", async || said().contains(&why).then_some(())).await;
    assert_eq!(said().matches("for development").count(), 1, "{}", said());
    // Compact: no line begins with a date.
    assert!(said().lines().all(|line| !line.starts_with("20")), "{}", said());
    assert_eq!(server.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_on_sqlite_names_the_one_that_does_jobs() {
    let place = Place::configured(Db::Sqlite, "");
    place.define("eth", NETWORK, "http://127.0.0.1:1");
    let server = Server::start(&place, &["--admin-server"]);
    let (status, answer) = Api::of(&server).send(Method::POST, "/datasets/eth/dump", &json!({})).await;
    assert_eq!((status, &answer["error_code"]), (409, &json!("NO_WORKER")));
    assert!(answer["error_message"].as_str().unwrap().contains("--dev"), "{answer}");
}

/// A place with a server, and a dataset of 60 blocks.
async fn served(db: Db) -> (Place, Server, Api) {
    let node = synthetic(Recording::synthetic(60, 3, 2, 41), 0);
    let place = Place::configured(db, "");
    place.define("eth", NETWORK, node.url());
    place.ok(&["dump", "--dataset", "eth"]);
    let server = Server::start(&place, &[]);
    let api = Api::of(&server);
    (place, server, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_admin_api_have_their_codes_on_both_databases() {
    for db in [Db::Sqlite, Db::Postgres] {
        let (_place, _server, api) = served(db).await;
        let manifest = |changes: Value| {
            let mut manifest = json!({"name": "eth", "kind": "evm-rpc", "network": NETWORK});
            manifest.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            manifest
        };
        let large = json!("x".repeat(2 << 20));
        for (method, path, body, status, code) in [
            ("GET", "/nothing", json!(null), 404, "NOT_FOUND"),
            ("PATCH", "/datasets", json!(null), 405, "METHOD_NOT_ALLOWED"),
            ("GET", "/datasets?limit=0", json!(null), 400, "INVALID_REQUEST"),
            ("GET", "/jobs?limit=1001", json!(null), 400, "INVALID_REQUEST"),
            ("GET", "/jobs?limit=many", json!(null), 400, "INVALID_REQUEST"),
            ("GET", "/jobs?status=asleep", json!(null), 400, "INVALID_REQUEST"),
            ("DELETE", "/jobs?status=running", json!(null), 400, "INVALID_REQUEST"),
            ("DELETE", "/jobs", json!(null), 400, "INVALID_REQUEST"),
            ("POST", "/datasets", json!([1]), 400, "INVALID_PAYLOAD_FORMAT"),
            ("POST", "/datasets", json!({}), 400, "INVALID_MANIFEST"),
            ("POST", "/datasets", manifest(json!({"tables": 1})), 400, "INVALID_MANIFEST"),
            (
                "POST",
                "/datasets",
                manifest(json!({"kind": "carrier-pigeon"})),
                400,
                "UNSUPPORTED_DATASET_KIND",
            ),
            (
                "POST",
                "/datasets",
                manifest(json!({"schema": {"nothing": []}})),
                400,
                "MANIFEST_VALIDATION_ERROR",
            ),
            ("POST", "/datasets", manifest(json!({"start_block": 5})), 409, "DATASET_ALREADY_EXISTS"),
            ("POST", "/datasets", large, 413, "PAYLOAD_TOO_LARGE"),
            ("GET", "/datasets/none", json!(null), 404, "DATASET_NOT_FOUND"),
            ("GET", "/datasets/Not%20A%20Name", json!(null), 400, "INVALID_SELECTOR"),
            ("GET", "/datasets/eth/versions/one", json!(null), 400, "INVALID_SELECTOR"),
            ("GET", "/datasets/eth/versions/9.9.9", json!(null), 404, "DATASET_NOT_FOUND"),
            ("DELETE", "/datasets/none", json!(null), 404, "DATASET_NOT_FOUND"),
            ("POST", "/datasets/none/dump", json!({}), 404, "DATASET_NOT_FOUND"),
            ("POST", "/datasets/eth/dump", json!({"end_block": "soon"}), 400, "INVALID_PAYLOAD_FORMAT"),
            ("POST", "/datasets/eth/dump", json!({"end": 1}), 400, "INVALID_PAYLOAD_FORMAT"),
            ("POST", "/datasets/eth/dump", json!({"n_jobs": 0}), 400, "INVALID_REQUEST"),
            ("GET", "/jobs/one", json!(null), 400, "INVALID_JOB_ID"),
            ("GET", "/jobs/4242", json!(null), 404, "JOB_NOT_FOUND"),
            ("PUT", "/jobs/4242/stop", json!(null), 404, "JOB_NOT_FOUND"),
            ("DELETE", "/jobs/4242", json!(null), 404, "JOB_NOT_FOUND"),
            ("GET", "/workers/none", json!(null), 404, "WORKER_NOT_FOUND"),
            ("GET", "/locations/x", json!(null), 400, "INVALID_LOCATION_ID"),
            ("GET", "/locations/4242", json!(null), 404, "LOCATION_NOT_FOUND"),
            ("GET", "/locations/4242/files", json!(null), 404, "LOCATION_NOT_FOUND"),
            ("DELETE", "/locations/1", json!(null), 409, "ACTIVE_LOCATION_CONFLICT"),
            ("GET", "/files?dataset=none", json!(null), 404, "DATASET_NOT_FOUND"),
            ("GET", "/files?dataset=eth&table=none", json!(null), 404, "TABLE_NOT_FOUND"),
            ("GET", "/files", json!(null), 400, "INVALID_REQUEST"),
            ("GET", "/files/x", json!(null), 400, "INVALID_FILE_ID"),
            ("GET", "/files/424242", json!(null), 404, "FILE_NOT_FOUND"),
            ("GET", "/providers/none", json!(null), 404, "PROVIDER_NOT_FOUND"),
            ("DELETE", "/providers/chain-1337", json!(null), 409, "PROVIDER_CONFLICT"),
            ("POST", "/providers", json!({"name": "p"}), 400, "INVALID_PROVIDER"),
            ("POST", "/schema", json!({"sql_query": "SELEC 1"}), 400, "SQL_PARSE_ERROR"),
            ("POST", "/schema", json!({"sql_query": "SELECT x FROM eth.blocks"}), 400, "INVALID_PLAN"),
            ("POST", "/schema", json!({"query": "SELECT 1"}), 400, "INVALID_PAYLOAD_FORMAT"),
        ] {
            let got = api.refused(method.parse().unwrap(), path, &body).await;
            assert_eq!(got, (status, code.to_owned()), "{method} {path} on {db:?}");
        }
        let wrapped = json!({"name": "eth", "version": "0.0.0", "manifest": manifest(json!({})).to_string()});
        assert_eq!(api.send(Method::POST, "/datasets", &wrapped).await.0, 200, "the same again is no error");
        let schema =
            api.send(Method::POST, "/schema", &json!({"sql_query": "SELECT hash FROM eth.blocks"})).await;
        let field = json!({"name": "hash", "type": {"FixedSizeBinary": 32}, "nullable": false});
        assert_eq!(schema.1, json!({"schema": {"arrow": {"fields": [field]}}, "networks": [NETWORK]}));
        assert_eq!(api.send(Method::DELETE, "/locations/1?force=true", &Value::Null).await.0, 204);
        assert_eq!(api.get("/datasets/eth").await["tables"][0]["active_location"], Value::Null);
        assert_eq!(api.send(Method::DELETE, "/datasets/eth", &Value::Null).await.0, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_that_leave_nothing_out() {
    let (_place, _server, api) = served(Db::Postgres).await;
    for n in 0..5 {
        let name = format!("more_{n}");
        api.register(&name).await;
        api.dump(&name, json!({})).await;
        api.add_provider(&name, "http://127.0.0.1:1").await;
    }
    for (path, list, cursor, key, expected) in [
        ("/datasets", "datasets", "last_dataset", "name", 6),
        ("/jobs", "jobs", "last_job_id", "id", 5),
        ("/providers", "providers", "last_provider", "name", 6),
        ("/locations", "locations", "last_location_id", "id", 4),
        ("/files?dataset=eth", "files", "last_file_id", "id", 3),
    ] {
        let (mut seen, mut pages, mut after) = (BTreeSet::new(), 0, String::new());
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let page = api.get(&format!("{path}{separator}limit=2{after}")).await;
            let items = page[list].as_array().unwrap();
            assert!(items.len() <= 2, "{page}");
            assert!(items.iter().all(|item| seen.insert(item[key].to_string())), "twice: {page}");
            pages += 1;
            let Some(next) = page.get("next_cursor") else { break };
            after = format!("&{cursor}={}", next.as_str().map_or(next.to_string(), str::to_owned));
        }
        assert_eq!((seen.len(), pages), (expected, usize::div_ceil(expected, 2)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_in_and_never_come_out() {
    const SECRET: &str = "hunter2hunter2";
    let place = Place::configured(Db::Sqlite, "");
    let provider = format!(
        "kind = \"evm-rpc\"\nnetwork = \"mainnet\"\nurl = \"http://user:{SECRET}@127.0.0.1:1/v1/{SECRET}?key={SECRET}\"\n\
         auth_token = \"{SECRET}\"\n"
    );
    place.write("providers/mainnet.toml", &provider);
    let mut command = Server::command(&place, &["--dev"]);
    let log = place.path("server.log");
    command.stderr(File::create(&log).unwrap()).env("RUST_LOG", "debug").env("NODE_KEY", SECRET);
    let server = Server::started(command, &["--dev"]);
    let api = Api::of(&server);
    let clear = json!({"name": "clear", "kind": "evm-rpc", "network": "mainnet", "url": "http://127.0.0.1:1",
                       "auth_token": SECRET});
    let (status, answer) = api.send(Method::POST, "/providers", &clear).await;
    assert_eq!(status, 400, "{answer}");
    let mut said = answer.to_string();
    let hidden = json!({"name": "hidden", "kind": "evm-rpc", "network": "mainnet",
                        "url": "http://127.0.0.1:1/${NODE_KEY}", "auth_token": "${NODE_KEY}"});
    assert_eq!(api.send(Method::POST, "/providers", &hidden).await.0, 201);
    assert_eq!(api.send(Method::POST, "/datasets", &serde_json::from_str(MANIFEST).unwrap()).await.0, 201);
    let job = api.dump("eth_mainnet", json!({})).await;
    until("the job's trouble", async || api.job(job).await.get("error").cloned()).await;
    for path in ["/providers", "/providers/mainnet", "/providers/hidden", "/jobs", "/metrics", "/datasets"] {
        said += &api.get(path).await.to_string();
    }
    assert!(said.contains("127.0.0.1") && said.contains("NODE_KEY"), "{said}");
    assert!(!said.contains(SECRET), "{said}");
    assert_eq!(server.stop(), 0);
    assert!(!std::fs::read_to_string(&log).unwrap().contains(SECRET), "the log has a secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_what_their_role_includes() {
    let tokens = "[auth]\ntokens = [{ name = \"ana\", token = \"${ANA}\", role = \"query\" }, \
                  { name = \"ops\", token = \"secret-of-ops\", role = \"admin\" }]";
    let mut place = Place::configured(Db::Sqlite, tokens);
    place.set_variables(vec![("ANA", "secret-of-ana".into())]);
    let server = Server::start(&place, &[]);
    let api = || Api::of(&server);
    let list = async |api: Api| api.send(Method::GET, "/jobs", &Value::Null).await.0;
    assert_eq!(list(api()).await, 401);
    assert_eq!(list(api().with_token("secret-of-an")).await, 401);
    assert_eq!(list(api().with_token("secret-of-ana")).await, 403);
    assert_eq!(list(api().with_token("secret-of-ops")).await, 200);
    for open in ["/health", "/ready", "/openapi.json", "/docs"] {
        assert_eq!(api().send(Method::GET, open, &Value::Null).await.0, 200, "{open}");
    }
    let query = |header: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "POST",
            "--data",
            "SELECT 1",
            server.jsonl(),
        ]);
        if !header.is_empty() {
            curl.args(["-H", &format!("Authorization: Bearer {header}")]);
        }
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    assert_eq!([query(""), query("secret-of-ana"), query("secret-of-ops")], ["401", "200", "200"]);
}

/// What the API says of itself is what it does, whatever it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn fuzzing_from_the_api_s_own_document_finds_nothing() {
    let examples = std::env::var("NOZZLE_FUZZ_EXAMPLES").unwrap_or_else(|_| "15".into());
    let node = synthetic(Recording::synthetic(60, 3, 2, 41), 0);
    let cluster = Cluster::start(&["worker-01"], &[]);
    cluster.api.add_provider("node", node.url()).await;
    cluster.api.register("eth").await;
    let job = cluster.api.dump("eth", json!({"end_block": 59})).await;
    cluster.api.until_job(job, "COMPLETED").await;
    let program = python_program();
    let mut command = Command::new(program.parent().unwrap().join("schemathesis"));
    command
        .args(["run", &format!("{}/openapi.json", cluster.server.admin()), "--max-examples", &examples])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--continue-on-failure", "--no-color", "--workers", "1", "--request-timeout", "20"])
        .current_dir(cluster.place.path(""))
        .stdin(Stdio::null());
    if let Ok(seed) = std::env::var("NOZZLE_SEED") {
        command.args(["--seed", &seed]);
    }
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("31 tested") || said.contains("Selected: 31/31"), "not every route was tried");
    tokio::time::timeout(PATIENCE, cluster.api.get("/health")).await.unwrap();
}
