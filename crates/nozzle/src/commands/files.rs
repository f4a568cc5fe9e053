//! `nozzle files`: the live files of a dataset, one a line. Other readers must not glob the
//! folder: it also has files that were replaced and wait to be collected.

use std::process::ExitCode;

use anyhow::bail;
use nozzle_core::BlockRange;
use nozzle_metadata::Scan;
use nozzle_query::nearest::suggestion;
use url::Url;

use crate::{cli::FilesArgs, config::Config, context::Context, report};

/// Lists the files.
pub async fn run(args: FilesArgs, config: Config) -> anyhow::Result<ExitCode> {
    let context = Context::open_existing(config).await?;
    let dataset = context.dataset(&args.dataset).await?;
    let snapshot = context.metadata.snapshot().await?;
    let active = snapshot.datasets.iter().find(|(found, _)| found.id == dataset.id);
    let Some(revision) = active.and_then(|(_, revision)| revision.as_ref()) else {
        bail!("the dataset `{}` has no data yet: run `nozzle dump --dataset {}`", dataset.name, dataset.name);
    };
    let tables: Vec<&str> = revision.locations.iter().map(|location| location.table.as_str()).collect();
    if let Some(table) = &args.table
        && !tables.contains(&table.as_str())
    {
        bail!(
            "the dataset `{}` has no table `{table}`; its tables are {}{}",
            dataset.name,
            tables.join(", "),
            suggestion(table.as_str(), tables.iter().copied())
        );
    }
    let mut list = String::new();
    for location in &revision.locations {
        if args.table.as_ref().is_some_and(|table| *table != location.table) {
            continue;
        }
        let scan = Scan { location: location.id, sequence: snapshot.sequence, range: BlockRange::from(0) };
        for file in context.metadata.segments(&scan).await?.into_iter().filter_map(|segment| segment.file) {
            list += &format!("{}{}\n", for_readers(&location.url), file.name);
        }
    }
    report::answer(&list)?;
    Ok(ExitCode::SUCCESS)
}

/// A folder as other readers take it: the URL for a store, a plain path for the local disk. Of
/// `file://` URLs pyarrow's datasets take none, and DuckDB none with a space in it.
fn for_readers(url: &str) -> String {
    let path =
        Url::parse(url).ok().filter(|url| url.scheme() == "file").and_then(|url| url.to_file_path().ok());
    path.map_or_else(
        || url.to_owned(),
        |path| format!("{}/", path.display().to_string().trim_end_matches('/')),
    )
}
