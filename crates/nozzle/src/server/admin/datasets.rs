//! `/datasets`: what is defined, and dumping it.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nozzle_core::{BlockRange, DatasetName, DatasetRef, DatasetVersion, manifest::Manifest, range};
use nozzle_metadata::{
    Coverage, Dataset, DatasetId, Job, JobFilter, JobId, JobStatus, MetadataError, NewJob, RevisionState,
    Scan, Scheduled,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    error::{AdminError, Code},
    request::{InPath, Limit, Params, Payload, page},
};
use crate::{definitions, jobs::JobRequest, kinds};

/// A dataset in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetEntry {
    name: String,
    version: String,
    /// Raw datasets have none.
    owner: Option<String>,
}

/// A page of datasets.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetList {
    datasets: Vec<DatasetEntry>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// The cursor of a list of datasets.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterDataset {
    /// The `next_cursor` of the page before.
    last_dataset: Option<String>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A dataset with what is stored of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetDetails {
    name: String,
    version: String,
    kind: String,
    network: Option<String>,
    tables: Vec<TableDetails>,
}

/// A table with what is stored of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableDetails {
    name: String,
    /// The URL of the folder that is read; null where nothing is.
    active_location: Option<String>,
    network: Option<String>,
    /// The last block of the linked run from the first one; null where there is none.
    watermark: Option<u64>,
    /// The stored blocks: first and last of each run.
    #[schema(value_type = Vec<Vec<u64>>)]
    ranges: Vec<[u64; 2]>,
    rows: u64,
    bytes: u64,
}

/// The versions of a dataset.
#[derive(Debug, Serialize, ToSchema)]
pub struct Versions {
    versions: Vec<String>,
}

/// The job that does what was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Started {
    job_id: i64,
}

/// A manifest to register: a bare one, or one with its name and version beside it, as an object or as text.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "read by hand; this is its description")]
pub struct NewDatasetBody {
    /// The name; where it is absent, the manifest's.
    name: Option<String>,
    /// The version; where it is absent, the manifest's.
    version: Option<String>,
    /// The manifest.
    manifest: Value,
}

fn selector(text: &str) -> Result<DatasetRef, AdminError> {
    text.parse().map_err(|error| AdminError::new(Code::InvalidSelector, format!("{error}")))
}

fn versioned(name: &str, version: &str) -> Result<DatasetRef, AdminError> {
    let name: DatasetName =
        name.parse().map_err(|error| AdminError::new(Code::InvalidSelector, format!("{error}")))?;
    let version: DatasetVersion =
        version.parse().map_err(|error| AdminError::new(Code::InvalidSelector, format!("{error}")))?;
    Ok(DatasetRef { name, version: Some(version) })
}

fn not_found(reference: &DatasetRef) -> AdminError {
    AdminError::new(
        Code::DatasetNotFound,
        format!("there is no dataset `{reference}`; GET /datasets lists those that there are"),
    )
}

impl Admin {
    /// A registered dataset, or one that a file defines.
    pub async fn dataset(&self, reference: &DatasetRef) -> Result<Dataset, AdminError> {
        let metadata = self.context.metadata.as_ref();
        if let Some(dataset) = metadata.dataset(reference).await? {
            return Ok(dataset);
        }
        // It may have been put into the folder since the server started.
        match definitions::import(&self.context.definitions_folder()?, metadata).await {
            Ok(rejected) => match rejected.into_iter().find(|rejected| rejected.defines(reference)) {
                Some(bad) => Err(match bad.error.downcast::<MetadataError>() {
                    Ok(error) => error.into(),
                    Err(error) => AdminError::new(Code::InvalidManifest, format!("{error:#}")),
                }),
                None => metadata.dataset(reference).await?.ok_or_else(|| not_found(reference)),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn details(&self, dataset: &Dataset) -> Result<DatasetDetails, AdminError> {
        let metadata = self.context.metadata.as_ref();
        let manifest = definitions::of_dataset(dataset)?;
        let revisions = metadata.revisions(dataset.id).await?;
        let active = revisions.into_iter().find(|revision| revision.state == RevisionState::Active);
        let stored = match &active {
            Some(active) => metadata.coverage(&[active.id]).await?,
            None => vec![],
        };
        let network = dataset.network.as_ref().map(ToString::to_string);
        let mut details = vec![];
        for table in definitions::tables(&manifest)? {
            let covered: Option<&Coverage> = stored.iter().find(|covered| covered.table == table.name);
            let location = active.iter().flat_map(|active| &active.locations).find(|l| l.table == table.name);
            let ranges = match location {
                Some(location) => {
                    let sequence = metadata.sequence().await?;
                    let scan = Scan { location: location.id, sequence, range: BlockRange::from(0) };
                    let spans = metadata.spans(&scan).await?;
                    range::merge(spans.iter().map(|span| span.range).collect())
                }
                None => vec![],
            };
            let starts_at_start = ranges.first().is_some_and(|first| first.start() == manifest.start_block());
            details.push(TableDetails {
                name: table.name.to_string(),
                active_location: location.map(|location| location.url.clone()),
                network: network.clone(),
                watermark: covered.and_then(|covered| covered.linked_until).filter(|_| starts_at_start),
                ranges: ranges.iter().map(|range| [range.start(), range.end()]).collect(),
                rows: covered.map_or(0, |covered| covered.totals.rows),
                bytes: covered.map_or(0, |covered| covered.totals.bytes),
            });
        }
        Ok(DatasetDetails {
            name: dataset.name.to_string(),
            version: dataset.version.to_string(),
            kind: dataset.kind.as_str().to_owned(),
            network,
            tables: details,
        })
    }
}

/// Lists the datasets that are registered or that files define.
#[utoipa::path(get, path = "/datasets", tag = "datasets", params(AfterDataset), responses(
    (status = 200, body = DatasetList), (status = "default", description = "an error", body = AdminError)))]
pub async fn list(
    State(admin): State<Admin>,
    Params(after): Params<AfterDataset>,
) -> Result<Json<DatasetList>, AdminError> {
    let limit = Limit { limit: after.limit }.get()?;
    let mut all: BTreeMap<(String, DatasetVersion), ()> = BTreeMap::new();
    for dataset in admin.context.metadata.datasets().await? {
        all.insert((dataset.name.to_string(), dataset.version), ());
    }
    for manifest in definitions::defined(&admin.context.definitions_folder()?).await? {
        all.insert((manifest.name().to_string(), manifest.version()), ());
    }
    let after = match &after.last_dataset {
        Some(text) => {
            let reference = selector(text)?;
            Some((reference.name.to_string(), reference.version.unwrap_or_default()))
        }
        None => None,
    };
    let (items, next) = page(all.into_keys().collect(), after.as_ref(), limit, Clone::clone);
    let entry = |(name, version): (String, DatasetVersion)| DatasetEntry {
        name,
        version: version.to_string(),
        owner: None,
    };
    let cursor = |(name, version): (String, DatasetVersion)| format!("{name}__{}", version.underscored());
    Ok(Json(DatasetList { datasets: items.into_iter().map(entry).collect(), next_cursor: next.map(cursor) }))
}

/// Registers a dataset: a bare manifest, or `{name, version, manifest}`.
#[utoipa::path(post, path = "/datasets", tag = "datasets", request_body = NewDatasetBody, responses(
    (status = 201, description = "it is new", body = DatasetDetails),
    (status = 200, description = "it was there, with the same manifest", body = DatasetDetails),
    (status = "default", description = "an error", body = AdminError)))]
pub async fn register(
    State(admin): State<Admin>,
    Payload(body): Payload<Value>,
) -> Result<Response, AdminError> {
    let manifest = read_manifest(body)?;
    let metadata = admin.context.metadata.as_ref();
    let known = metadata.dataset(&manifest.reference()).await?;
    let is_new = known.is_none();
    let dataset = match definitions::register_from_afar(&manifest, metadata).await {
        Ok(dataset) => dataset,
        Err(error) => return Err(refused_registration(error)),
    };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(admin.details(&dataset).await?)).into_response())
}

fn refused_registration(error: anyhow::Error) -> AdminError {
    let said = format!("{error:#}");
    match error.downcast_ref::<MetadataError>() {
        Some(MetadataError::Refused(_)) => AdminError::new(Code::DatasetExists, said),
        // What it is made of, or its queries.
        None | Some(MetadataError::Dependency(_)) => {
            AdminError::new(Code::ManifestValidation, format!("the manifest is not valid: {said}"))
        }
        Some(_) => error.into(),
    }
}

fn read_manifest(body: Value) -> Result<Manifest, AdminError> {
    let format = |why: String| AdminError::new(Code::InvalidPayload, why);
    let Value::Object(mut keys) = body else { return Err(format("the body must be a JSON object".into())) };
    let is_wrapped = keys.contains_key("manifest") && !keys.contains_key("kind");
    let manifest = if is_wrapped {
        let mut manifest = match keys.remove("manifest") {
            Some(Value::String(text)) => serde_json::from_str(&text)
                .map_err(|error| format(format!("`manifest` is text that is not JSON: {error}")))?,
            other => other.unwrap_or_default(),
        };
        for key in ["name", "version"] {
            let Some(said) = keys.remove(key).filter(|said| !said.is_null()) else { continue };
            let Some(manifest) = manifest.as_object_mut() else { break };
            let own = manifest.entry(key).or_insert_with(|| said.clone());
            if *own != said {
                let why = format!("`{key}` is {said}, and the manifest says {own}");
                return Err(AdminError::new(Code::ManifestValidation, why));
            }
        }
        if let Some(unknown) = keys.keys().next() {
            return Err(format(format!("there is no key `{unknown}` beside name, version and manifest")));
        }
        manifest
    } else {
        Value::Object(keys)
    };
    checked(manifest)
}

fn checked(manifest: Value) -> Result<Manifest, AdminError> {
    let Some(kind) = manifest.get("kind").and_then(Value::as_str) else {
        return Err(AdminError::new(Code::InvalidManifest, "the manifest has no `kind`"));
    };
    let supported = kind.parse().map_err(anyhow::Error::msg).and_then(kinds::supported);
    if let Err(error) = supported {
        return Err(AdminError::new(Code::UnsupportedKind, format!("{error:#}")));
    }
    definitions::manifest(manifest).map_err(|error| {
        let is_form = error.downcast_ref::<serde_json::Error>().is_some();
        let code = if is_form { Code::InvalidManifest } else { Code::ManifestValidation };
        AdminError::new(code, format!("the manifest is not valid: {error:#}"))
    })
}

/// Shows the newest version of a dataset, or `name__x_y_z`.
#[utoipa::path(get, path = "/datasets/{name}", tag = "datasets",
    params(("name" = String, Path, description = "its name, with or without a version")),
    responses((status = 200, body = DatasetDetails), (status = "default", description = "an error", body = AdminError)))]
pub async fn show(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
) -> Result<Json<DatasetDetails>, AdminError> {
    let dataset = admin.dataset(&selector(&name)?).await?;
    Ok(Json(admin.details(&dataset).await?))
}

/// Shows one version of a dataset.
#[utoipa::path(get, path = "/datasets/{name}/versions/{version}", tag = "datasets",
    params(("name" = String, Path), ("version" = String, Path, description = "such as 1.0.0")),
    responses((status = 200, body = DatasetDetails), (status = "default", description = "an error", body = AdminError)))]
pub async fn show_version(
    State(admin): State<Admin>,
    InPath((name, version)): InPath<(String, String)>,
) -> Result<Json<DatasetDetails>, AdminError> {
    let dataset = admin.dataset(&versioned(&name, &version)?).await?;
    Ok(Json(admin.details(&dataset).await?))
}

/// Lists the versions of a dataset, oldest first.
#[utoipa::path(get, path = "/datasets/{name}/versions", tag = "datasets",
    params(("name" = String, Path)),
    responses((status = 200, body = Versions), (status = "default", description = "an error", body = AdminError)))]
pub async fn versions(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
) -> Result<Json<Versions>, AdminError> {
    let all = admin.named(&selector(&name)?).await?;
    Ok(Json(Versions { versions: all.iter().map(|dataset| dataset.version.to_string()).collect() }))
}

impl Admin {
    /// The registered datasets that a reference names: one version, or all.
    async fn named(&self, reference: &DatasetRef) -> Result<Vec<Dataset>, AdminError> {
        let mut all = self.context.metadata.datasets().await?;
        all.retain(|dataset| {
            dataset.name == reference.name && reference.version.is_none_or(|v| v == dataset.version)
        });
        if all.is_empty() { Err(not_found(reference)) } else { Ok(all) }
    }

    async fn remove(&self, reference: &DatasetRef) -> Result<StatusCode, AdminError> {
        let removed = self.named(reference).await?;
        let ids: Vec<_> = removed.iter().map(|dataset| dataset.id).collect();
        match self.context.metadata.remove_datasets(&ids).await {
            Ok(()) => Ok(StatusCode::NO_CONTENT),
            Err(MetadataError::Dependency(why)) => Err(AdminError::new(Code::DatasetInUse, why)),
            Err(MetadataError::Refused(why)) => Err(AdminError::new(Code::ActiveJob, why)),
            Err(error) => Err(error.into()),
        }
    }

    /// Schedules what a dataset is made of, as far as nobody is at it.
    async fn start_dependencies(&self, manifest: &Manifest, request: &JobRequest) -> Result<(), AdminError> {
        let request = JobRequest { fresh: false, ..request.clone() };
        for reference in manifest.dependencies() {
            let dataset = self.dataset(reference).await?;
            let own = definitions::of_dataset(&dataset)?;
            Box::pin(self.start_dependencies(&own, &request)).await?;
            let job = NewJob { dataset: dataset.id, descriptor: request.to_text()? };
            let Scheduled::Conflict(id) = self.context.metadata.schedule(&job).await? else { continue };
            // One that is live in another way brings the blocks too, if it goes as far.
            let Some(live) = self.context.metadata.job(id).await? else { continue };
            if !JobRequest::of(&live)?.reaches(&request) {
                let message = format!(
                    "it is made of `{reference}`, and the job {id} dumps that, but not as far: stop it first, or ask for an end that it reaches"
                );
                return Err(AdminError::new(Code::ActiveJob, message));
            }
        }
        Ok(())
    }

    async fn start(&self, reference: &DatasetRef, request: &JobRequest) -> Result<Json<Started>, AdminError> {
        let dataset = self.dataset(reference).await?;
        let invalid = |error: anyhow::Error| AdminError::new(Code::InvalidRequest, format!("{error:#}"));
        let manifest = definitions::of_dataset(&dataset).map_err(invalid)?;
        request.check(&manifest).map_err(invalid)?;
        if self.context.metadata.is_single_machine() && !self.has_worker {
            return Err(AdminError::new(
                Code::NoWorker,
                "nobody does jobs of a SQLite database but a server with a worker in it: start it as `nozzle server --dev`, or use PostgreSQL and `nozzle worker`",
            ));
        }
        let job = NewJob { dataset: dataset.id, descriptor: request.to_text()? };
        let conflict = |id: JobId| {
            let why = format!("the job {id} dumps the dataset already, in another way; stop it first");
            AdminError::new(Code::ActiveJob, why)
        };
        // What is refused is to leave nothing behind.
        if let Some(other) = self.running(dataset.id).await?.filter(|live| live.descriptor != job.descriptor)
        {
            return Err(conflict(other.id));
        }
        self.start_dependencies(&manifest, request).await?;
        match self.context.metadata.schedule(&job).await? {
            Scheduled::New(JobId(job_id)) | Scheduled::Same(JobId(job_id)) => Ok(Json(Started { job_id })),
            Scheduled::Conflict(id) => Err(conflict(id)),
        }
    }

    /// The job that dumps a dataset, but for one that is to stop: that may have ended.
    async fn running(&self, dataset: DatasetId) -> Result<Option<Job>, AdminError> {
        let statuses = vec![JobStatus::Scheduled, JobStatus::Running];
        let filter = JobFilter { statuses, dataset: Some(dataset), limit: 1, ..JobFilter::default() };
        Ok(self.context.metadata.jobs(&filter).await?.pop())
    }
}

/// Removes all versions of a dataset, or `name__x_y_z`: what is stored of them is no longer read.
#[utoipa::path(delete, path = "/datasets/{name}", tag = "datasets", params(("name" = String, Path)),
    responses((status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
) -> Result<StatusCode, AdminError> {
    admin.remove(&selector(&name)?).await
}

/// Removes one version of a dataset.
#[utoipa::path(delete, path = "/datasets/{name}/versions/{version}", tag = "datasets",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete_version(
    State(admin): State<Admin>,
    InPath((name, version)): InPath<(String, String)>,
) -> Result<StatusCode, AdminError> {
    admin.remove(&versioned(&name, &version)?).await
}

/// Schedules a dump. The same request, while it is under way, is the same job.
#[utoipa::path(post, path = "/datasets/{name}/dump", tag = "datasets", params(("name" = String, Path)),
    request_body = JobRequest,
    responses((status = 200, body = Started), (status = "default", description = "an error", body = AdminError)))]
pub async fn dump(
    State(admin): State<Admin>,
    InPath(name): InPath<String>,
    Payload(request): Payload<JobRequest>,
) -> Result<Json<Started>, AdminError> {
    admin.start(&selector(&name)?, &request).await
}

/// Schedules a dump of one version.
#[utoipa::path(post, path = "/datasets/{name}/versions/{version}/dump", tag = "datasets",
    params(("name" = String, Path), ("version" = String, Path)), request_body = JobRequest,
    responses((status = 200, body = Started), (status = "default", description = "an error", body = AdminError)))]
pub async fn dump_version(
    State(admin): State<Admin>,
    InPath((name, version)): InPath<(String, String)>,
    Payload(request): Payload<JobRequest>,
) -> Result<Json<Started>, AdminError> {
    admin.start(&versioned(&name, &version)?, &request).await
}

impl Admin {
    /// The live jobs, for whoever asks which job writes what.
    pub async fn live_jobs(&self) -> Result<Vec<nozzle_metadata::Job>, AdminError> {
        let statuses = JobStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
        let filter = JobFilter { statuses, limit: u32::MAX, ..JobFilter::default() };
        Ok(self.context.metadata.jobs(&filter).await?)
    }
}
