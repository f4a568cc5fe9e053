//! Which revision a dump writes, and making it.

use std::sync::Arc;

use nozzle_core::{
    BlockRange, RevisionId, TableDef, layout,
    schema::{extend_schema, schema_to_json},
};
use nozzle_metadata::{
    Dataset, Location, MetadataStore, NewLocation, NewRevision, Revision, RevisionState, Scan,
};
use nozzle_query::Stores;
use tokio_util::sync::CancellationToken;

use crate::{
    error::DumpError,
    files::local_folder,
    lease::{self, Claimed},
    observe::Observer,
    restore,
};

/// What [`resolve`] takes.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where revisions are kept.
    pub store: &'a Arc<dyn MetadataStore>,
    /// Where revisions lie.
    pub stores: &'a Stores,
    /// The dataset.
    pub dataset: &'a Dataset,
    /// Its tables.
    pub tables: &'a [TableDef],
    /// The URL below which a new revision is made, ending in `/`.
    pub base_url: &'a str,
    /// Whether the place was named on purpose: then a revision elsewhere is refused.
    pub is_base_explicit: bool,
    /// Whether a new revision is wanted beside the one that is read.
    pub fresh: bool,
    /// Who wants it.
    pub writer: &'a Writer<'a>,
}

/// A dump, as others that write the same revision meet it.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Who it is, in words for a person.
    pub holder: &'a str,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Whether it is to stop.
    pub cancel: &'a CancellationToken,
}

/// Each table with its location in a revision.
pub fn locate(tables: &[TableDef], revision: &Revision) -> Result<Vec<(TableDef, Location)>, DumpError> {
    let location_of = |table: &TableDef| {
        let location = revision.locations.iter().find(|location| location.table == table.name);
        let missing = || DumpError::Refused(format!("the stored revision has no table `{}`", table.name));
        Ok((table.clone(), location.cloned().ok_or_else(missing)?))
    };
    tables.iter().map(location_of).collect()
}

/// Retires a revision that is being built, unless another writer is at it.
pub async fn discard(
    store: &Arc<dyn MetadataStore>,
    revision: RevisionId,
    writer: &Writer<'_>,
) -> Result<(), DumpError> {
    let wanted = &[BlockRange::from(0)];
    let request = lease::Request { store, revision, wanted, all_or_nothing: true, holder: writer.holder };
    match lease::claim(request, writer.observer, writer.cancel).await? {
        // Retiring ends the leases, this one too.
        Claimed::Some(..) => Ok(store.retire_revision(revision).await?),
        Claimed::None(held) => Err(DumpError::Held(held)),
        Claimed::Stopped => Err(DumpError::Refused("the dump was stopped before it began".into())),
    }
}

/// The revision to write: the active one, or with `fresh` the building one; made where there is
/// none.
pub async fn resolve(wanted: Wanted<'_>) -> Result<Revision, DumpError> {
    let revision = find_or_create(&wanted).await?;
    extend(&wanted, revision).await
}

/// Adds the columns to the stored tables that this version of the program has and an older one had not.
async fn extend(wanted: &Wanted<'_>, mut revision: Revision) -> Result<Revision, DumpError> {
    for table in wanted.tables {
        let location = revision.locations.iter_mut().find(|location| location.table == table.name);
        let Some(location) = location else { continue };
        let refused = |why: String| {
            DumpError::Refused(format!(
                "the table `{}` of `{}` was stored with other columns: {why}; add --fresh to build it anew",
                table.name, wanted.dataset.name
            ))
        };
        let stored = serde_json::from_str(&location.schema).map_err(|error| refused(error.to_string()))?;
        let Some(extended) = extend_schema(&stored, &table.schema).map_err(refused)? else { continue };
        let extended = extended.to_string();
        if !wanted.store.change_schema(location.id, &location.schema, &extended).await? {
            return Err(refused("another process has just changed them; run the same command again".into()));
        }
        location.schema = extended;
    }
    Ok(revision)
}

async fn find_or_create(wanted: &Wanted<'_>) -> Result<Revision, DumpError> {
    let state = if wanted.fresh { RevisionState::Building } else { RevisionState::Active };
    let revisions = wanted.store.revisions(wanted.dataset.id).await?;
    let unknown = unknown_revisions(wanted).await?;
    if !wanted.fresh && !unknown.is_empty() {
        return Err(unknown_error(wanted, &unknown));
    }
    let Some(revision) = revisions.iter().find(|revision| revision.state == state).cloned() else {
        if let (RevisionState::Active, Some(building)) =
            (state, revisions.iter().find(|revision| revision.state == RevisionState::Building))
        {
            return Err(being_built(wanted, building));
        }
        for id in unknown {
            // From now on the database knows of it, and that nobody wants it any more.
            create_as(wanted, id, RevisionState::Building).await?;
            wanted.store.retire_revision(id).await?;
        }
        return create(wanted, state).await;
    };
    if !wanted.is_base_explicit || lies_below(&revision, wanted.base_url) {
        refuse_if_moved(wanted, &revision).await?;
        return Ok(revision);
    }
    if wanted.fresh {
        // What was built elsewhere was never read; the new place is what is wanted now.
        discard(wanted.store, revision.id, wanted.writer).await?;
        return create(wanted, state).await;
    }
    let elsewhere = revision.locations.first().map(|location| location.url.as_str()).unwrap_or("elsewhere");
    Err(DumpError::Refused(format!(
        "the dataset `{}` already has its data at {elsewhere}; leave out --location, or use --fresh to build it anew at {}",
        wanted.dataset.name, wanted.base_url
    )))
}

/// Refuses a revision whose folders of the local disk are gone, though there are files in them: written to,
/// the dataset would lie in two places.
async fn refuse_if_moved(wanted: &Wanted<'_>, revision: &Revision) -> Result<(), DumpError> {
    let Some(first) = revision.locations.first() else { return Ok(()) };
    let folders = || revision.locations.iter().filter_map(|location| local_folder(&location.url));
    if folders().next().is_none() || folders().any(|folder| folder.exists()) {
        return Ok(());
    }
    let sequence = wanted.store.sequence().await?;
    let scan = Scan { location: first.id, sequence, range: BlockRange::from(0) };
    if wanted.store.spans(&scan).await?.is_empty() {
        // Nothing was ever written there.
        return Ok(());
    }
    Err(DumpError::Refused(format!(
        "the files of `{0}` lie at {1}, and nothing is there any more: move the folder back, or move the metadata database {2} away and run `nozzle restore --dataset {0}`, which takes the files up where they are now",
        wanted.dataset.name,
        first.url,
        wanted.store.describe()
    )))
}

fn lies_below(revision: &Revision, base_url: &str) -> bool {
    revision.locations.iter().all(|location| location.url.starts_with(base_url))
}

/// The revisions that lie in the store without the database knowing of them.
async fn unknown_revisions(wanted: &Wanted<'_>) -> Result<Vec<RevisionId>, DumpError> {
    let stored = restore::stored_revisions(wanted.stores, wanted.base_url, &wanted.dataset.name).await?;
    let known = wanted.store.known_revisions(&stored).await?;
    Ok(stored.into_iter().filter(|id| !known.contains(id)).collect())
}

fn unknown_error(wanted: &Wanted<'_>, unknown: &[RevisionId]) -> DumpError {
    let Wanted { dataset, base_url, store, .. } = wanted;
    let (count, revisions) = match unknown {
        [one] => ("a revision".to_owned(), one.to_string()),
        many => (
            format!("{} revisions", many.len()),
            many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ),
    };
    DumpError::Refused(format!(
        "{base_url} holds {count} of `{0}` that the database {1} does not know ({revisions}); to use what is stored there, run `nozzle restore --dataset {0}`, or add --fresh to extract everything anew beside it",
        dataset.name,
        store.describe()
    ))
}

fn being_built(wanted: &Wanted<'_>, building: &Revision) -> DumpError {
    DumpError::Refused(format!(
        "the dataset `{0}` has no data to add to, only a revision that is still being built ({1}): add --fresh to go on with it, or run `nozzle restore --dataset {0}` again if that was interrupted",
        wanted.dataset.name, building.id
    ))
}

async fn create(wanted: &Wanted<'_>, state: RevisionState) -> Result<Revision, DumpError> {
    create_as(wanted, RevisionId::generate(), state).await
}

async fn create_as(wanted: &Wanted<'_>, id: RevisionId, state: RevisionState) -> Result<Revision, DumpError> {
    let location = |table: &TableDef| NewLocation {
        table: table.name.clone(),
        url: format!("{}{}/", wanted.base_url, layout::location_path(&wanted.dataset.name, &table.name, id)),
        schema: schema_to_json(&table.schema).to_string(),
    };
    let tables = wanted.tables.iter().map(location).collect();
    let revision = NewRevision { id, dataset: wanted.dataset.id, state, tables };
    match wanted.store.create_revision(&revision).await {
        Ok(revision) => Ok(revision),
        Err(refused) => {
            // Another dump may have made one a moment ago: then that is the one to write.
            let revisions = wanted.store.revisions(wanted.dataset.id).await?;
            revisions.into_iter().find(|revision| revision.state == state).ok_or(refused.into())
        }
    }
}
