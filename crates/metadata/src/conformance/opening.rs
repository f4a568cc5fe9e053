//! Rules of opening and migrating.

use std::fs;

use super::Database;
use crate::*;

/// Every migration, oldest first.
const MIGRATIONS: [&str; 6] =
    ["0001 initial", "0002 uploads", "0003 jobs", "0004 compaction", "0006 sources", "0007 cursors"];

pub(super) async fn migrating_again_does_nothing(database: Database) {
    let config = database.config();
    assert_eq!(migrate(&config).await.unwrap().applied, MIGRATIONS);
    assert_eq!(migrate(&config).await.unwrap().applied, Vec::<String>::new());
    let store = open(&MetadataConfig { auto_migrate: false, ..config }).await.unwrap();
    assert_eq!(store.sequence().await.unwrap(), CommitSeq(0));
    let (described, single) = (store.describe(), store.is_single_machine());
    assert_eq!(single, matches!(database, Database::Sqlite(_)));
    assert!(described.ends_with("metadata.db") || described.starts_with("postgres://"), "{described}");
}

pub(super) async fn migrating_at_once_succeeds_for_everyone(database: Database) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let config = database.config();
        tasks.spawn(async move { migrate(&config).await.unwrap().applied.len() });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<usize>(), MIGRATIONS.len());
}

pub(super) async fn opening_at_once_succeeds_for_everyone(database: Database) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let config = database.config();
        tasks.spawn(async move { open(&config).await.unwrap().sequence().await.unwrap() });
    }
    assert!(tasks.join_all().await.iter().all(|sequence| *sequence == CommitSeq(0)));
}

pub(super) async fn a_newer_database_is_refused(database: Database) {
    let config = database.config();
    migrate(&config).await.unwrap();
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9000, 'of the future', success, checksum, 0 FROM _sqlx_migrations LIMIT 1",
        )
        .await;
    for refused in [migrate(&config).await.map(|_| ()), open(&config).await.map(|_| ())] {
        let Err(MetadataError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("newer than this program"), "{why}");
    }
}

pub(super) async fn a_migration_that_is_another_one_is_refused(database: Database) {
    let config = database.config();
    migrate(&config).await.unwrap();
    database.execute(&format!("UPDATE _sqlx_migrations SET checksum = {}", database.zero_hash())).await;
    for refused in [migrate(&config).await.map(|_| ()), open(&config).await.map(|_| ())] {
        let Err(MetadataError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("not made by this program"), "{why}");
    }
}

pub(super) async fn an_old_schema_is_refused_unless_it_may_be_migrated(database: Database) {
    let config = MetadataConfig { auto_migrate: false, ..database.config() };
    let refused = open(&config).await.map(|_| ());
    let Err(MetadataError::Schema(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("run `nozzle migrate`"), "{why}");
    if let Database::Sqlite(folder) = &database {
        assert!(!folder.path().join("made").exists(), "refusing made a file");
        // An empty file is as old as can be.
        fs::create_dir(folder.path().join("made")).unwrap();
        fs::write(folder.path().join("made/metadata.db"), "").unwrap();
        assert!(matches!(open(&config).await, Err(MetadataError::Schema(_))));
    }
    open(&MetadataConfig { auto_migrate: true, ..config.clone() }).await.unwrap();
    open(&config).await.unwrap();
}

mod urls {
    use std::time::{Duration, Instant};

    use super::{super::world::assert_refused, *};

    fn config(url: &str) -> MetadataConfig {
        MetadataConfig { url: url.into(), listen_url: None, pool_size: 2, auto_migrate: true }
    }

    fn sqlite(path: &std::path::Path) -> MetadataConfig {
        config(&format!("sqlite://{}", path.display()))
    }

    /// An error with its causes, as a person sees it.
    fn whole(error: &MetadataError) -> String {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        text
    }

    #[tokio::test]
    async fn other_schemes_are_refused() {
        for url in ["mysql://user:secret@host/db", "metadata.db", ""] {
            let Err(error) = open(&config(url)).await else { panic!("{url} was opened") };
            let text = whole(&error);
            assert!(text.contains("sqlite://") && text.contains("postgres://"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        assert_refused(open(&config("sqlite::memory:")).await, "name a file");
        assert_refused(open(&config("sqlite://")).await, "names no file");
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_database_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.db");
        fs::write(&path, "this is a letter, not a database. ".repeat(100)).unwrap();
        for refused in [open(&sqlite(&path)).await.map(|_| ()), migrate(&sqlite(&path)).await.map(|_| ())] {
            let Err(MetadataError::Corrupt { database, what }) = refused else { panic!("{refused:?}") };
            assert_eq!(database, path.display().to_string());
            assert!(what.contains("nozzle restore"), "{what}");
        }
        assert!(fs::read(&path).unwrap().starts_with(b"this is a letter"));
    }

    #[tokio::test]
    async fn a_damaged_file_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.db");
        migrate(&sqlite(&path)).await.unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[100..4000].fill(0xee);
        fs::write(&path, bytes).unwrap();
        let refused = open(&sqlite(&path)).await;
        assert!(matches!(refused, Err(MetadataError::Corrupt { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn the_database_of_another_program_is_refused() {
        let database = Database::sqlite();
        fs::create_dir(database_folder(&database)).unwrap();
        fs::write(database_folder(&database).join("metadata.db"), "").unwrap();
        database.execute("CREATE TABLE recipes (name TEXT)").await;
        let refused = open(&database.config()).await.map(|_| ());
        let Err(MetadataError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("another program"), "{why}");
    }

    fn database_folder(database: &Database) -> std::path::PathBuf {
        match database {
            Database::Sqlite(folder) => folder.path().join("made"),
            Database::Postgres(_) => unreachable!("only asked of SQLite"),
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let below_a_file = open(&sqlite(&folder.path().join("file/metadata.db"))).await;
        assert_refused(below_a_file, "metadata");
        assert_refused(open(&sqlite(folder.path())).await, "is not a file");
    }

    #[tokio::test]
    async fn a_store_that_is_only_read_sees_commits_and_refuses_writes() {
        let database = Database::sqlite();
        let writable = database.config();
        let read_only = MetadataConfig { url: format!("{}?mode=ro", writable.url), ..writable.clone() };
        assert!(matches!(open(&read_only).await, Err(MetadataError::Schema(_))));
        assert_refused(migrate(&read_only).await, "cannot be written to");

        let writer = open(&writable).await.unwrap();
        let reader = open(&read_only).await.unwrap();
        let mut commits = reader.commits();
        let new = super::super::world::new_dataset("chain", "1.0.0", "{}");
        let refused = reader.register_dataset(&new).await;
        assert!(matches!(refused, Err(MetadataError::ReadOnly { .. })), "{refused:?}");
        let id = writer.register_dataset(&new).await.unwrap().id();
        assert_eq!(reader.datasets().await.unwrap().len(), 1);
        let revision = super::super::world::new_revision(id, RevisionState::Building);
        writer.create_revision(&revision).await.unwrap();
        let sequence = writer.activate_revision(revision.id).await.unwrap();
        let told = commits.wait_for(|told| *told == sequence);
        tokio::time::timeout(Duration::from_secs(1), told).await.expect("told soon").unwrap();
        drop(writer);
        assert_eq!(reader.sequence().await.unwrap(), sequence);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable_and_no_password_shown() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        drop(taken);
        let started = Instant::now();
        let config = config(&format!("postgres://user:secret@127.0.0.1:{port}/db"));
        for refused in [open(&config).await.map(|_| ()), migrate(&config).await.map(|_| ())] {
            let Err(error @ MetadataError::Unavailable { .. }) = refused else { panic!("{refused:?}") };
            let text = format!("{} {error:?}", whole(&error));
            assert!(text.contains(&format!("postgres://user@127.0.0.1:{port}/db")), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        assert!(!format!("{config:?}").contains("secret"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_says_so() {
        let database = Database::postgres();
        let url = format!("{}_no_such", database.config().url);
        let refused = open(&config(&url)).await.map(|_| ());
        let Err(error @ MetadataError::Failed { .. }) = refused else { panic!("{refused:?}") };
        assert!(whole(&error).contains("does not exist"), "{}", whole(&error));
    }

    #[tokio::test]
    async fn a_transaction_that_was_abandoned_holds_nobody_up_for_long() {
        use sqlx::{Connection, Executor};
        let world = super::super::world::World::new(Database::postgres()).await;
        let mut gone = sqlx::PgConnection::connect(&world.database.config().url).await.unwrap();
        for statement in [crate::postgres::BEGIN, "SELECT id FROM revisions FOR UPDATE"] {
            gone.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))).await.unwrap();
        }
        let started = Instant::now();
        world.claim_one(super::super::world::range(0, 9)).await;
        let waited = started.elapsed();
        assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(9), "{waited:?}");
    }

    #[tokio::test]
    async fn a_malformed_url_is_refused_without_its_password() {
        for url in ["postgres://user:secret@host:port/db", "postgres://user:secret@[::1/db"] {
            let Err(error) = open(&config(url)).await else { panic!("{url} was opened") };
            let text = format!("{} {error:?}", whole(&error));
            assert!(text.contains("malformed") && !text.contains("secret"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_server_that_went_away_is_unavailable_and_comes_back() {
        let cluster = nozzle_testkit::postgres::Postgres::start().unwrap();
        let store = open(&config(&cluster.create_database().unwrap())).await.unwrap();
        let new = super::super::world::new_dataset("chain", "1.0.0", "{}");
        let id = store.register_dataset(&new).await.unwrap().id();
        let revision = super::super::world::new_revision(id, RevisionState::Building);
        store.create_revision(&revision).await.unwrap();
        let mut commits = store.commits();
        cluster.restart_immediate().unwrap();
        // What was answered is still there, and the store finds the server again.
        assert_eq!(store.datasets().await.unwrap().len(), 1);
        let other = open(&config(&cluster_url(&store, &cluster))).await.unwrap();
        let sequence = other.activate_revision(revision.id).await.unwrap();
        let told = commits.wait_for(|told| *told == sequence);
        tokio::time::timeout(Duration::from_secs(8), told).await.expect("told again").unwrap();
    }

    fn cluster_url(
        store: &std::sync::Arc<dyn MetadataStore>,
        cluster: &nozzle_testkit::postgres::Postgres,
    ) -> String {
        let described = store.describe();
        cluster.url(described.rsplit('/').next().unwrap())
    }
}
