//! Which revision a dump writes, and making it.

use std::sync::Arc;

use nozzle_core::{BlockRange, RevisionId, TableDef, layout, schema::schema_to_json};
use nozzle_metadata::{Dataset, Location, MetadataStore, NewLocation, NewRevision, Revision, RevisionState};
use tokio_util::sync::CancellationToken;

use crate::{
    error::DumpError,
    lease::{self, Claimed},
    observe::Observer,
};

/// What [`resolve`] takes.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where revisions are kept.
    pub store: &'a Arc<dyn MetadataStore>,
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
    let state = if wanted.fresh { RevisionState::Building } else { RevisionState::Active };
    let revisions = wanted.store.revisions(wanted.dataset.id).await?;
    let Some(revision) = revisions.into_iter().find(|revision| revision.state == state) else {
        return create(&wanted, state).await;
    };
    if !wanted.is_base_explicit || lies_below(&revision, wanted.base_url) {
        return Ok(revision);
    }
    if wanted.fresh {
        // What was built elsewhere was never read; the new place is what is wanted now.
        discard(wanted.store, revision.id, wanted.writer).await?;
        return create(&wanted, state).await;
    }
    let elsewhere = revision.locations.first().map(|location| location.url.as_str()).unwrap_or("elsewhere");
    Err(DumpError::Refused(format!(
        "the dataset `{}` already has its data at {elsewhere}; leave out --location, or use --fresh to build it anew at {}",
        wanted.dataset.name, wanted.base_url
    )))
}

fn lies_below(revision: &Revision, base_url: &str) -> bool {
    revision.locations.iter().all(|location| location.url.starts_with(base_url))
}

async fn create(wanted: &Wanted<'_>, state: RevisionState) -> Result<Revision, DumpError> {
    let id = RevisionId::generate();
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
