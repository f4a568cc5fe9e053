//! The files of `deploy/`: they are what their schemas say, and the commands in them run together as
//! processes.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use nozzle_testkit::{
    replay::{Recording, ReplayOptions, ReplayServer},
    store::StoreServer,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    cluster::{Api, Worker},
    harness::{Db, Place, Said, python, workspace},
    servers::Server,
};

const SCRIPT: &str = include_str!("deploy.py");

/// A process of Nozzle that a file starts.
#[derive(Debug, Deserialize)]
struct Service {
    file: String,
    arguments: Vec<String>,
    /// What the file says in clear.
    environment: BTreeMap<String, String>,
}

impl Service {
    /// Its command on this machine: with the file's own configuration, but the addresses and the store of
    /// the test.
    fn command(&self, place: &Place, store: &StoreServer) -> Command {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = place.command(&arguments);
        let here = ["NOZZLE_CONFIG", "AWS_ENDPOINT_URL", "AWS_REGION"];
        command.envs(self.environment.iter().filter(|(name, _)| !here.contains(&name.as_str())));
        command
            .env("NOZZLE_CONFIG_DATA_DIR", store.url(&self.file))
            .env("NOZZLE_CONFIG_METADATA_DB__URL", place.postgres())
            .env("NOZZLE_CONFIG_METADATA_DB__AUTO_MIGRATE", "false");
        for address in ["FLIGHT_ADDR", "JSONL_ADDR", "ADMIN_API_ADDR"] {
            command.env(format!("NOZZLE_CONFIG_{address}"), "127.0.0.1:0");
        }
        command
    }

    fn does(&self, word: &str) -> bool {
        self.arguments[0] == word
    }

    fn node_id(&self) -> &str {
        let named = self.environment.get("NOZZLE_NODE_ID").or(self.arguments.get(2));
        named.unwrap_or_else(|| panic!("{self:?} has no name"))
    }
}

/// The content of `deploy/compose/`, with a node in place of the variable.
fn copy_folder(place: &Place, name: &str) {
    for entry in std::fs::read_dir(workspace().join("deploy/compose").join(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        place.write(&format!("{name}/{file}"), &std::fs::read_to_string(&path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_to_deploy_are_valid_and_what_they_start_works_together() {
    let services: Vec<Service> =
        serde_json::from_str(&python(SCRIPT, &[workspace().to_str().unwrap()])).unwrap();
    assert_eq!(services.len(), 12, "{services:?}");
    let store = tokio::task::spawn_blocking(StoreServer::seaweedfs).await.unwrap().unwrap();
    let options = ReplayOptions { chain_id: Some(1), ..ReplayOptions::default() };
    let node = ReplayServer::start(Recording::synthetic(200, 3, 2, 81), options).unwrap();

    for file in ["compose.yaml", "nozzle.yaml", "systemd"] {
        let mut place = Place::configured(Db::Postgres, "");
        let config = std::fs::read_to_string(workspace().join("deploy/compose/nozzle.toml")).unwrap();
        place.write("nozzle.toml", &config);
        copy_folder(&place, "providers");
        copy_folder(&place, "datasets");
        place.set_variables([store.variables(None), vec![("ETH_RPC_URL", node.url().to_owned())]].concat());
        let services: Vec<&Service> = services.iter().filter(|service| service.file == file).collect();
        let run = |word: &str| {
            for service in services.iter().filter(|service| service.does(word)) {
                let said = Said::of(service.command(&place, &store).output().unwrap());
                assert_eq!(said.code, Some(0), "{service:?}: {}", said.stderr);
            }
        };
        let server = services.iter().find(|service| service.does("server")).unwrap();
        let early = Said::of(server.command(&place, &store).stdin(Stdio::null()).output().unwrap());
        assert!(early.code == Some(1) && early.stderr.contains("nozzle migrate"), "{}", early.stderr);
        run("migrate");
        run("migrate");
        let server = Server::started(server.command(&place, &store), &[]);
        let workers: Vec<Worker> = services
            .iter()
            .filter(|service| service.does("worker"))
            .map(|service| Worker::started(&place, service.command(&place, &store), service.node_id()))
            .collect();
        assert!(!workers.is_empty(), "{file} has no worker");
        let api = Api::of(&server);
        api.get("/ready").await;
        let job = api.dump("eth_mainnet", json!({"end_block": 199})).await;
        api.until_job(job, "COMPLETED").await;
        let count = "SELECT count(*) AS n FROM eth_mainnet.blocks";
        assert_eq!(server.post(count), (200, "{\"n\":200}\n".to_owned()));
        // The serverless ones find nothing left to do.
        run("dump");
        assert_eq!(server.post(count), (200, "{\"n\":200}\n".to_owned()));
        workers.into_iter().for_each(Worker::stop);
        assert_eq!(server.stop(), 0);
        assert!(
            services
                .iter()
                .all(|service| ["migrate", "server", "worker", "dump"].iter().any(|word| service.does(word))),
            "{services:?}"
        );
    }
}
