//! `nozzle doctor`: whether database, stores and providers can do what they must, tried out, and what to
//! change.

mod endpoints;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use nozzle_metadata::{CommitSeq, MetadataError, MetadataStore};
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, multipart::MultipartStore,
    path::Path as ObjectPath,
};

use crate::{
    config::Config,
    context::metadata_config,
    report::{self, one_line},
    stores::{self, Place, Stores},
};

/// A clock may be off by so much before it is worth a word: leases end after five seconds of silence.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

/// For how long a request that fails is tried again: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was tried at one place.
struct Examined {
    /// What it is for, and where it is.
    what: String,
    /// What works.
    works: Vec<String>,
    /// What is worth a word, but keeps nobody from working.
    notes: Vec<String>,
    /// What does not work, each with what to change.
    faults: Vec<String>,
}

impl Examined {
    fn new(what: String) -> Self {
        Self { what, works: vec![], notes: vec![], faults: vec![] }
    }

    fn text(&self) -> String {
        let verdict = if self.faults.is_empty() { "ok" } else { "FAILED" };
        let mut text = format!("{verdict:<7} {}\n", self.what);
        if !self.works.is_empty() {
            text += &format!("        works: {}\n", self.works.join(", "));
        }
        for note in &self.notes {
            text += &format!("        note: {note}\n");
        }
        for fault in &self.faults {
            text += &format!("        {fault}\n");
        }
        text
    }

    fn clock(&mut self, whose: &str, theirs: DateTime<Utc>, tolerance: TimeDelta) {
        let ahead = theirs - Utc::now();
        if ahead.abs() <= tolerance {
            self.works.push("clock".to_owned());
            return;
        }
        let (seconds, direction) =
            (ahead.num_seconds().abs(), if ahead > TimeDelta::zero() { "ahead of" } else { "behind" });
        self.notes.push(format!(
            "{whose} clock is {seconds} s {direction} this machine's: set both by NTP, or requests are refused and ages are wrong"
        ));
    }
}

/// Tries out the database and the places of the configuration, and the providers' endpoints. Fails where one
/// of them does.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let (database, metadata) = database(&config).await;
    let mut examined = vec![database];
    let stores = stores::stores(None, PATIENCE);
    let places = [
        ("data_dir", &config.data_dir, true),
        ("providers_dir", &config.providers_dir, false),
        ("dataset_defs_dir", &config.dataset_defs_dir, false),
    ];
    for (key, place, holds_data) in places {
        examined.push(self::place(key, place, holds_data, &config.base, &stores).await);
    }
    examined.extend(endpoints::examine(&config, metadata.as_deref(), &stores).await);
    report::answer(&examined.iter().map(Examined::text).collect::<String>())?;
    let is_well = examined.iter().all(|examined| examined.faults.is_empty());
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn database(config: &Config) -> (Examined, Option<Arc<dyn MetadataStore>>) {
    if let Some(file) = config.metadata_file().filter(|file| !file.exists()) {
        let mut examined = Examined::new(format!("metadata database {}", file.display()));
        examined.notes.push("it is not there yet; the first `nozzle dump` makes it".to_owned());
        return (examined, None);
    }
    // Examining changes nothing, the schema neither.
    let open = nozzle_metadata::MetadataConfig { auto_migrate: false, ..metadata_config(config) };
    match nozzle_metadata::open(&open).await {
        Ok(store) => {
            let mut examined = Examined::new(format!("metadata database {}", store.describe()));
            examined.works.push("reachable".to_owned());
            if let Err(error) = use_database(store.as_ref(), &mut examined).await {
                examined.faults.push(one_line(&error.into()));
            }
            (examined, Some(store))
        }
        Err(error) => {
            let mut examined = Examined::new("metadata database".to_owned());
            let advice = match &error {
                MetadataError::Schema(_) => "",
                _ => "; check metadata_db.url, and that the server runs and lets this user in",
            };
            examined.faults.push(format!("{}{advice}", one_line(&error.into())));
            (examined, None)
        }
    }
}

async fn use_database(store: &dyn MetadataStore, examined: &mut Examined) -> Result<(), MetadataError> {
    store.snapshot().await?;
    examined.works.push("read".to_owned());
    examined.clock("the database's", store.clock().await?, CLOCK_TOLERANCE);
    // Writes nothing, but needs the right to.
    match store.skip_sequence(CommitSeq(-1)).await {
        Ok(()) => examined.works.push("write".to_owned()),
        Err(error) => examined.notes.push(format!(
            "it can only be read: queries work, dumps do not ({}); grant this user INSERT, UPDATE and DELETE to write",
            one_line(&error.into())
        )),
    }
    Ok(())
}

async fn place(key: &str, place: &str, holds_data: bool, base: &Path, stores: &Stores) -> Examined {
    let url = match Place::parse(place, base) {
        Ok(Place::Remote(url)) => url,
        Ok(Place::Local(path)) => return local(key, &path),
        Err(error) => {
            let mut examined = Examined::new(format!("{key} {}", stores::shown(place)));
            examined.faults.push(one_line(&error));
            return examined;
        }
    };
    let mut examined = Examined::new(format!("{key} {url}"));
    let opened = stores.resolve(&url).and_then(|(store, path)| Ok((store, path, stores.parts(&url)?)));
    match opened {
        Ok((store, folder, parts)) => {
            let parts = parts.filter(|_| holds_data);
            remote(store.as_ref(), &folder, parts.as_deref(), &mut examined).await;
        }
        Err(error) => examined.faults.push(one_line(&error.into())),
    }
    examined
}

fn local(key: &str, path: &Path) -> Examined {
    let mut examined = Examined::new(format!("{key} {}", path.display()));
    let nearest = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    if nearest != path {
        examined.notes.push("it is not there yet; it is made when it is needed".to_owned());
    }
    let probe = nearest.join(stores::probe_name());
    match std::fs::write(&probe, b"nozzle").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => examined.works.push("write".to_owned()),
        Err(error) if std::fs::read_dir(nearest).is_ok() => examined.notes.push(format!(
            "{} can only be read: queries work, dumps do not ({error}); give this user the right to write, or free space",
            nearest.display()
        )),
        Err(error) => examined
            .faults
            .push(format!("{} cannot be read: {error}; give this user the right to", nearest.display())),
    }
    examined
}

async fn remote(
    store: &dyn ObjectStore,
    folder: &ObjectPath,
    parts: Option<&dyn MultipartStore>,
    examined: &mut Examined,
) {
    if let Err(error) = store.list_with_delimiter(Some(folder)).await {
        examined.faults.push(format!(
            "it cannot be listed: {}; {}",
            with_causes(&error),
            what_to_change(&error)
        ));
        return;
    }
    examined.works.push("list".to_owned());
    let probe = folder.clone().join(stores::probe_name());
    if let Err(error) = store.put(&probe, b"nozzle".as_slice().into()).await {
        let (why, advice) = (with_causes(&error), what_to_change(&error));
        // Who may not write is told so; whatever else fails may fail for whoever reads too.
        match error {
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => examined
                .notes
                .push(format!("it can only be read: queries work, dumps do not ({why}); {advice}")),
            _ => examined.faults.push(format!("it cannot be written: {why}; {advice}")),
        }
        return;
    }
    examined.works.push("write".to_owned());
    match store.get(&probe).await {
        Ok(found) => {
            examined.works.push("read".to_owned());
            // Stores tell whole seconds.
            examined.clock("the store's", found.meta.last_modified, CLOCK_TOLERANCE + TimeDelta::seconds(1));
        }
        Err(error) => examined.faults.push(format!(
            "what was written cannot be read: {}; {}",
            with_causes(&error),
            what_to_change(&error)
        )),
    }
    match store.put_opts(&probe, b"again".as_slice().into(), PutMode::Create.into()).await {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
            examined.works.push("conditional write".to_owned());
        }
        Err(error) => examined.notes.push(format!(
            "conditional writes fail ({}): two machines that define the same dataset at once could overwrite each other's manifest; data files are not concerned",
            with_causes(&error)
        )),
        Ok(_) => examined.notes.push(
            "conditional writes are not heeded: two machines that define the same dataset at once could overwrite each other's manifest; data files are not concerned"
                .to_owned(),
        ),
    }
    if let Some(parts) = parts {
        match upload_in_parts(parts, &probe).await {
            Ok(()) => examined.works.push("upload in parts".to_owned()),
            Err(error) => examined.faults.push(format!(
                "large files cannot be written: {}; allow multipart uploads and ending them",
                with_causes(&error)
            )),
        }
    }
    match store.delete(&probe).await {
        Ok(()) => examined.works.push("delete".to_owned()),
        Err(error) => examined.faults.push(format!(
            "nothing can be deleted: {}; {}",
            with_causes(&error),
            what_to_change(&error)
        )),
    }
}

/// Begins an upload and ends it: nothing of it appears.
async fn upload_in_parts(store: &dyn MultipartStore, probe: &ObjectPath) -> object_store::Result<()> {
    let id = store.create_multipart(probe).await?;
    let sent = store.put_part(probe, &id, 0, b"nozzle".as_slice().into()).await;
    store.abort_multipart(probe, &id).await?;
    sent.map(drop)
}

fn with_causes(error: &StoreError) -> String {
    let text = nozzle_query::with_causes(error.to_string(), error);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn what_to_change(error: &StoreError) -> &'static str {
    let text = with_causes(error);
    let says = |parts: [&str; 2]| parts.iter().any(|part| text.contains(part));
    match error {
        _ if says(["NoSuchBucket", "ContainerNotFound"]) => "make the bucket, or check its name and region",
        // Where there are no credentials, those of the machine are asked for.
        _ if says(["169.254.169.254", "metadata.google.internal"]) => {
            "no credentials were found; set them in the environment (docs/stores.md)"
        }
        StoreError::Unauthenticated { .. } => "check the credentials in the environment",
        StoreError::PermissionDenied { .. } => "grant these credentials the right to it",
        StoreError::NotFound { .. } => "make the bucket, or check its name and region",
        _ => "check the endpoint, the region and the network",
    }
}
