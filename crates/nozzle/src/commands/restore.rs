//! `nozzle restore`: what a lost database knew of a dataset, rebuilt from its files alone.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use indicatif::{HumanBytes, HumanCount};
use nozzle_core::DatasetRef;
use nozzle_dump::restore::{self, Defined, Found, Planned, Restore, Restored, Survey};
use nozzle_metadata::{Revision, RevisionState};

use crate::{
    cli::RestoreArgs,
    config::Config,
    context::{Context, holder},
    definitions,
    progress::{Progress, say},
    report::one_line,
    shutdown::Shutdown,
    stores,
};

/// Files that cannot be used are told one by one up to so many.
const MAX_TOLD: usize = 10;

/// Restores every version of the dataset that is stored, or the one that is asked for.
pub async fn run(args: RestoreArgs, config: Config) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::watch("stopping; once more to stop at once")?;
    let context = Context::open(config).await?;
    let base_url = match &args.location {
        Some(place) => {
            stores::readable_folder(place, &std::env::current_dir().context("finding the current folder")?)?
        }
        None => stores::readable_folder(&context.config.data_dir, &context.config.base)?,
    };
    let name = args.dataset.name.clone();
    let restore = Restore {
        metadata: Arc::clone(&context.metadata),
        stores: Arc::clone(&context.stores),
        base_url,
        name: name.clone(),
        holder: holder("restore"),
    };
    let progress = Progress::counting(name.as_str(), "files");
    let survey = restore.survey(&progress, shutdown.token()).await;
    progress.abandon();
    let failed = || format!("restoring `{name}` failed");
    let Some(survey) = survey.with_context(failed)? else { return Ok(shutdown.exit_code()) };
    tell_left_out(&survey);
    let versions = versions(&survey, &args.dataset, &context).await?;
    if versions.is_empty() {
        bail!("{}{name}/ holds no files of the dataset `{}`", restore.base_url, args.dataset);
    }
    // Before the first commit: whatever is written from now on is later than every file.
    context.metadata.skip_sequence(restore::newest_commit(&survey.found)).await?;
    for version in versions {
        let todo = todo(&version, &survey, &context).await?;
        if todo.is_empty() {
            say(&format!("{}: the database knows all that is stored", version.reference()));
        }
        for planned in todo {
            let found = &survey.found[planned.index];
            let progress = Progress::start(name.as_str());
            let restored =
                restore.run(found, &version.defined, planned.state, &progress, shutdown.token()).await;
            progress.abandon();
            let Some(restored) = restored.with_context(failed)? else { return Ok(shutdown.exit_code()) };
            say(&told(&version, found, &restored));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One version of the dataset, as its files define it.
struct Version {
    defined: Defined,
    /// The indices of its revisions.
    found: Vec<usize>,
}

impl Version {
    fn reference(&self) -> DatasetRef {
        let dataset = &self.defined.dataset;
        DatasetRef { name: dataset.name.clone(), version: Some(dataset.version) }
    }
}

/// The versions that were asked for, registered. Where the revisions of one were written for different
/// manifests, those of the newest count.
async fn versions(survey: &Survey, wanted: &DatasetRef, context: &Context) -> anyhow::Result<Vec<Version>> {
    let mut by_version = BTreeMap::new();
    for (index, found) in survey.found.iter().enumerate().rev() {
        let manifest = match definitions::stored(found.manifest.clone()) {
            Ok(manifest) => manifest,
            Err(error) => {
                // The others can be used all the same.
                let why = one_line(&error);
                let revision = found.revision;
                say(&format!(
                    "the revision {revision} is left out: the manifest in its files is not valid: {why}"
                ));
                continue;
            }
        };
        if *manifest.name() != wanted.name
            || wanted.version.is_some_and(|version| version != manifest.version())
        {
            continue;
        }
        let (newest, indices) =
            by_version.entry(manifest.version()).or_insert_with(|| (manifest.clone(), vec![]));
        if *newest == manifest {
            indices.push(index);
        } else {
            say(&format!(
                "the revision {} is left out: it was written for another manifest of version {}",
                found.revision,
                manifest.version()
            ));
        }
    }
    let mut versions = vec![];
    for (manifest, found) in by_version.into_values() {
        let dataset = definitions::register(&manifest, context.metadata.as_ref()).await?;
        let tables = definitions::tables(&manifest)?;
        let defined = Defined { dataset, tables, start_block: manifest.start_block() };
        versions.push(Version { defined, found });
    }
    Ok(versions)
}

/// What is to be done: the active revision first, so that it can be read soon, and last the one that goes
/// on being built.
async fn todo(version: &Version, survey: &Survey, context: &Context) -> anyhow::Result<Vec<Planned>> {
    let found = version.found.iter().map(|index| (*index, &survey.found[*index]));
    let mut planned = restore::plan(found, &version.defined);
    let known = context.metadata.revisions(version.defined.dataset.id).await?;
    let state = |found: &Found| {
        let revision = known.iter().find(|revision| revision.id == found.revision);
        revision.map(|revision| revision.state)
    };
    let is_new = |planned: &Planned| state(&survey.found[planned.index]).is_none();
    let active = known.iter().find(|revision| revision.state == RevisionState::Active);
    if let Some(active) = active.filter(|active| {
        planned.iter().any(is_new)
            && !planned.iter().any(|planned| {
                planned.state == RevisionState::Active && survey.found[planned.index].revision == active.id
            })
    }) {
        refuse_beside(active, version)?;
    }
    // What was begun and interrupted is gone on with.
    planned.retain(|planned| {
        matches!(state(&survey.found[planned.index]), None | Some(RevisionState::Building))
    });
    planned.sort_by_key(|planned| match planned.state {
        RevisionState::Active => 0,
        RevisionState::Retired => 1,
        RevisionState::Building => 2,
    });
    Ok(planned)
}

fn refuse_beside(active: &Revision, version: &Version) -> anyhow::Result<()> {
    bail!(
        "the database already reads another revision of `{0}`: {1}. To use what is stored instead, run `nozzle dataset rm {0}` first",
        version.reference(),
        active.id
    )
}

fn told(version: &Version, found: &Found, restored: &Restored) -> String {
    let state = match restored.state {
        RevisionState::Active => "is read again",
        RevisionState::Building => "is still being built: go on with `nozzle dump --fresh`",
        RevisionState::Retired => "was replaced by a newer one",
    };
    let blocks = restored.blocks.map_or("no blocks".to_owned(), |blocks| format!("blocks {blocks}"));
    let incomplete = match found.incomplete_files {
        0 => String::new(),
        count => format!("; {} files that were never committed are left out", HumanCount(count)),
    };
    format!(
        "{}: revision {} {state}: {blocks}, {} rows in {} files, {}{incomplete}",
        version.reference(),
        restored.revision,
        HumanCount(restored.rows),
        HumanCount(restored.files),
        HumanBytes(restored.bytes)
    )
}

fn tell_left_out(survey: &Survey) {
    for (url, why) in survey.unreadable.iter().take(MAX_TOLD) {
        say(&format!("{url} is left out: {why}; its blocks will be extracted again"));
    }
    if let Some(more) = survey.unreadable.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
        say(&format!("{} more files are left out", HumanCount(more as u64)));
    }
    if survey.foreign > 0 {
        say(&format!("{} objects beside them are no files of a dataset", HumanCount(survey.foreign)));
    }
}
