//! `/locations` and `/files`: where tables are stored.

use axum::{Json, extract::State, http::StatusCode};
use nozzle_core::{DatasetRef, RevisionId};
use nozzle_metadata::{
    FileRecord, LocationId, LocationRecord, LocationTotals, MetadataError, RevisionState, Segment, SegmentId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Admin,
    error::{AdminError, Code},
    request::{InPath, Limit, Params, cut, id},
};

/// One storage revision of one table.
#[derive(Debug, Serialize, ToSchema)]
pub struct LocationEntry {
    id: i64,
    dataset: String,
    dataset_version: String,
    table: String,
    /// The folder.
    url: String,
    /// Whether it is the one that is read.
    active: bool,
    /// The live job that writes it.
    writer: Option<i64>,
}

/// A page of locations.
#[derive(Debug, Serialize, ToSchema)]
pub struct LocationList {
    locations: Vec<LocationEntry>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<i64>,
}

/// The job that writes a location.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Writer {
    id: i64,
    /// The worker that has its head task.
    node_id: Option<String>,
    #[schema(value_type = String)]
    status: &'static str,
}

/// A location with what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LocationDetails {
    id: i64,
    dataset: String,
    dataset_version: String,
    table: String,
    url: String,
    active: bool,
    /// The live job that writes it.
    writer: Option<Writer>,
    statistics: Statistics,
}

/// What a location holds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Statistics {
    file_count: u64,
    total_bytes: u64,
    rows: u64,
    first_block: Option<u64>,
    last_block: Option<u64>,
}

impl From<LocationTotals> for Statistics {
    fn from(totals: LocationTotals) -> Self {
        Self {
            file_count: totals.files,
            total_bytes: totals.bytes,
            rows: totals.rows,
            first_block: totals.blocks.map(|blocks| blocks.start()),
            last_block: totals.blocks.map(|blocks| blocks.end()),
        }
    }
}

/// A live file.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileEntry {
    id: i64,
    file_name: String,
    object_size: u64,
    first_block: u64,
    last_block: u64,
    rows: u64,
}

/// A page of files.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileList {
    files: Vec<FileEntry>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<i64>,
}

/// A file with what it says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct FileDetails {
    id: i64,
    location_id: i64,
    file_name: String,
    url: String,
    object_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_e_tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_version: Option<String>,
    /// What the file's `nozzle_metadata` says: table, name, when it was made, ranges with their hashes.
    #[schema(value_type = Object)]
    metadata: Value,
}

/// The cursor of a list of locations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterLocation {
    /// The `next_cursor` of the page before.
    last_location_id: Option<i64>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The cursor of a list of files.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AfterFile {
    /// The `next_cursor` of the page before.
    last_file_id: Option<i64>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Which files are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhichFiles {
    /// The dataset: its newest version, or `name__x_y_z`.
    dataset: Option<String>,
    /// Only those of this table.
    table: Option<String>,
    /// The `next_cursor` of the page before.
    last_file_id: Option<i64>,
    /// How many at most, from 1 to 1000; 50 where it is absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Whether a location is removed though it is read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Force {
    /// Also where it is the one that is read.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

impl Admin {
    async fn location(&self, text: &str) -> Result<LocationRecord, AdminError> {
        let location = LocationId(id(text, Code::InvalidLocationId)?);
        let missing = || AdminError::new(Code::LocationNotFound, format!("there is no location {location}"));
        self.context.metadata.location(location).await?.ok_or_else(missing)
    }

    async fn writer(&self, revision: RevisionId) -> Result<Option<Writer>, AdminError> {
        let jobs = self.live_jobs().await?;
        Ok(jobs.into_iter().find(|job| job.revision == Some(revision)).map(|job| Writer {
            id: job.id.0,
            node_id: job.node_id,
            status: job.status.as_str(),
        }))
    }

    async fn files_of(
        &self,
        locations: &[LocationId],
        after: Option<i64>,
        limit: Option<u32>,
    ) -> Result<Json<FileList>, AdminError> {
        let limit = Limit { limit }.get()?;
        let after = after.map(SegmentId);
        let mut files = self.context.metadata.live_files(locations, after, limit + 1).await?;
        let next_cursor = cut(&mut files, limit, |(_, segment)| segment.id.0);
        Ok(Json(FileList {
            files: files.into_iter().filter_map(|(_, segment)| entry(segment)).collect(),
            next_cursor,
        }))
    }
}

fn entry(segment: Segment) -> Option<FileEntry> {
    let Segment { id, span, file, .. } = segment;
    let file = file?;
    Some(FileEntry {
        id: id.0,
        file_name: file.name,
        object_size: file.size_bytes,
        first_block: span.range.start(),
        last_block: span.range.end(),
        rows: file.rows,
    })
}

/// Lists the tables of all revisions.
#[utoipa::path(get, path = "/locations", tag = "locations", params(AfterLocation), responses(
    (status = 200, body = LocationList), (status = "default", description = "an error", body = AdminError)))]
pub async fn list(
    State(admin): State<Admin>,
    Params(after): Params<AfterLocation>,
) -> Result<Json<LocationList>, AdminError> {
    let limit = Limit { limit: after.limit }.get()?;
    let mut records =
        admin.context.metadata.locations(after.last_location_id.map(LocationId), limit + 1).await?;
    let next_cursor = cut(&mut records, limit, |record| record.location.id.0);
    let jobs = admin.live_jobs().await?;
    let entry = |record: LocationRecord| LocationEntry {
        id: record.location.id.0,
        dataset: record.dataset.name.to_string(),
        dataset_version: record.dataset.version.to_string(),
        table: record.location.table.to_string(),
        url: record.location.url,
        active: record.state == RevisionState::Active,
        writer: jobs.iter().find(|job| job.revision == Some(record.revision)).map(|job| job.id.0),
    };
    Ok(Json(LocationList { locations: records.into_iter().map(entry).collect(), next_cursor }))
}

/// Shows a location with its writer and what it holds.
#[utoipa::path(get, path = "/locations/{id}", tag = "locations", params(("id" = i64, Path)), responses(
    (status = 200, body = LocationDetails), (status = "default", description = "an error", body = AdminError)))]
pub async fn show(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
) -> Result<Json<LocationDetails>, AdminError> {
    let record = admin.location(&text).await?;
    let stored = admin.context.metadata.coverage(&[record.revision]).await?;
    let totals = stored.iter().find(|covered| covered.location == record.location.id);
    Ok(Json(LocationDetails {
        id: record.location.id.0,
        dataset: record.dataset.name.to_string(),
        dataset_version: record.dataset.version.to_string(),
        table: record.location.table.to_string(),
        url: record.location.url,
        active: record.state == RevisionState::Active,
        writer: admin.writer(record.revision).await?,
        statistics: totals.map(|covered| covered.totals).unwrap_or_default().into(),
    }))
}

/// Retires the revision that a location is of, with all its tables: it is no longer read nor written, and
/// the collector deletes its files.
#[utoipa::path(delete, path = "/locations/{id}", tag = "locations", params(("id" = i64, Path), Force), responses(
    (status = 204), (status = "default", description = "an error", body = AdminError)))]
pub async fn delete(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
    Params(Force { force }): Params<Force>,
) -> Result<StatusCode, AdminError> {
    let record = admin.location(&text).await?;
    if record.state == RevisionState::Retired {
        return Ok(StatusCode::NO_CONTENT);
    }
    if let Some(writer) = admin.writer(record.revision).await? {
        let why = format!("the job {} is writing it; stop it first", writer.id);
        return Err(AdminError::new(Code::OngoingJob, why));
    }
    if record.state == RevisionState::Active && !force {
        let why = format!(
            "it is what queries of `{}` read; add ?force=true to remove it all the same",
            record.dataset.name
        );
        return Err(AdminError::new(Code::ActiveLocation, why));
    }
    match admin.context.metadata.retire_unused_revision(record.revision).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(MetadataError::Refused(why)) => Err(AdminError::new(Code::OngoingJob, why)),
        Err(error) => Err(error.into()),
    }
}

/// Lists the live files of a location.
#[utoipa::path(get, path = "/locations/{id}/files", tag = "locations", params(("id" = i64, Path), AfterFile), responses(
    (status = 200, body = FileList), (status = "default", description = "an error", body = AdminError)))]
pub async fn files(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
    Params(after): Params<AfterFile>,
) -> Result<Json<FileList>, AdminError> {
    let record = admin.location(&text).await?;
    admin.files_of(&[record.location.id], after.last_file_id, after.limit).await
}

/// Lists the live files of a dataset.
#[utoipa::path(get, path = "/files", tag = "files", params(WhichFiles), responses(
    (status = 200, body = FileList), (status = "default", description = "an error", body = AdminError)))]
pub async fn files_of_dataset(
    State(admin): State<Admin>,
    Params(which): Params<WhichFiles>,
) -> Result<Json<FileList>, AdminError> {
    let unsaid = || AdminError::new(Code::InvalidRequest, "`dataset` is missing: /files?dataset=NAME");
    let name = which.dataset.as_deref().ok_or_else(unsaid)?;
    let reference: DatasetRef =
        name.parse().map_err(|error| AdminError::new(Code::InvalidSelector, format!("{error}")))?;
    let dataset = admin.dataset(&reference).await?;
    let revisions = admin.context.metadata.revisions(dataset.id).await?;
    let active = revisions.into_iter().find(|revision| revision.state == RevisionState::Active);
    let mut locations = active.map(|active| active.locations).unwrap_or_default();
    if let Some(table) = &which.table {
        locations.retain(|location| location.table.as_str() == table);
        if locations.is_empty() {
            let why = format!("`{reference}` has no stored table of that name");
            return Err(AdminError::new(Code::TableNotFound, why));
        }
    }
    let ids: Vec<LocationId> = locations.iter().map(|location| location.id).collect();
    admin.files_of(&ids, which.last_file_id, which.limit).await
}

/// Shows a file.
#[utoipa::path(get, path = "/files/{id}", tag = "files", params(("id" = i64, Path)), responses(
    (status = 200, body = FileDetails), (status = "default", description = "an error", body = AdminError)))]
pub async fn file(
    State(admin): State<Admin>,
    InPath(text): InPath<String>,
) -> Result<Json<FileDetails>, AdminError> {
    let segment = SegmentId(id(&text, Code::InvalidFileId)?);
    let missing = || AdminError::new(Code::FileNotFound, format!("there is no file {segment}"));
    let record = admin.context.metadata.file(segment).await?.ok_or_else(missing)?;
    let FileRecord { location, segment, .. } = record;
    let file = segment.file.ok_or_else(missing)?;
    let footers = admin.context.metadata.footers(&[segment.id]).await?;
    Ok(Json(FileDetails {
        id: segment.id.0,
        location_id: location.id.0,
        url: format!("{}{}", location.url, file.name),
        file_name: file.name,
        object_size: file.size_bytes,
        object_e_tag: file.e_tag,
        object_version: file.version,
        metadata: footers.first().and_then(|(_, footer)| own_words(footer)).unwrap_or_default(),
    }))
}

/// What a footer's `nozzle_metadata` says.
fn own_words(footer: &[u8]) -> Option<Value> {
    let footer = parquet::file::metadata::ParquetMetaDataReader::decode_metadata(footer).ok()?;
    let entries = footer.file_metadata().key_value_metadata()?;
    let own = entries.iter().find(|entry| entry.key == nozzle_core::segment::FileMetadata::KEY)?;
    serde_json::from_str(own.value.as_deref()?).ok()
}
