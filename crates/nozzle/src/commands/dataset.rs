//! `nozzle dataset list|show|rm`.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::bail;
use indicatif::{HumanBytes, HumanCount};
use nozzle_core::{BlockRange, DatasetRef, Span, chain};
use nozzle_metadata::{CommitSeq, Dataset, Location, LocationTotals, Revision, RevisionState, Scan};

use crate::{cli::DatasetCommand, config::Config, context::Context, definitions, report};

/// Runs the sub-command.
pub async fn run(command: DatasetCommand, config: Config) -> anyhow::Result<ExitCode> {
    let context = Context::open_existing(config).await?;
    if !matches!(command, DatasetCommand::Rm { .. }) {
        import_definitions(&context).await?;
    }
    match command {
        DatasetCommand::List => list(&context).await,
        DatasetCommand::Show { dataset } => show(&context, &dataset).await,
        DatasetCommand::Rm { dataset, yes } => remove(&context, &dataset, yes).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn import_definitions(context: &Context) -> anyhow::Result<()> {
    let folder = context.definitions_folder()?;
    for rejected in definitions::import(&folder, context.metadata.as_ref()).await? {
        eprintln!("warning: {} is left out: {:#}", rejected.definition.file.shown, rejected.error);
    }
    Ok(())
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let mut text = format!("{:<32} {:<9} {:<11} network\n", "dataset", "version", "kind");
    for dataset in context.metadata.datasets().await? {
        let network = dataset.network.as_ref().map_or("", |network| network.as_str());
        let (name, version) = (dataset.name.as_str(), dataset.version.to_string());
        text += &format!("{name:<32} {version:<9} {:<11} {network}\n", dataset.kind.as_str());
    }
    report::answer(&text)
}

async fn show(context: &Context, reference: &DatasetRef) -> anyhow::Result<()> {
    let dataset = context.dataset(reference).await?;
    let network = dataset.network.as_ref().map_or(String::new(), |network| format!(", network {network}"));
    let mut text = format!("{} {}: {}{network}\n", dataset.name, dataset.version, dataset.kind);
    let sequence = context.metadata.sequence().await?;
    let revisions = context.metadata.revisions(dataset.id).await?;
    let live: Vec<_> = revisions.iter().filter(|revision| revision.state != RevisionState::Retired).collect();
    for revision in &live {
        let state = if revision.state == RevisionState::Active { "active" } else { "building" };
        text += &format!("\nrevision {} ({state})\n", revision.id);
        text += &tables_text(context, &dataset, revision, sequence).await?;
    }
    if live.is_empty() {
        text += &format!("no data yet: run `nozzle dump --dataset {}`\n", dataset.name);
    }
    report::answer(&text)
}

async fn tables_text(
    context: &Context,
    dataset: &Dataset,
    revision: &Revision,
    sequence: CommitSeq,
) -> anyhow::Result<String> {
    let mut text = format!(
        "  {:<16}{:>14}{:>12}{:>8}  {:<22}holes\n",
        "table", "rows", "bytes", "files", "linked from the start"
    );
    let start = definitions::of_dataset(dataset).map_or(0, |manifest| manifest.start_block());
    for location in &revision.locations {
        let scan = Scan { location: location.id, sequence, range: BlockRange::from(0) };
        let totals = context.metadata.totals(&scan).await?;
        let spans = context.metadata.spans(&scan).await?;
        text += &format!("  {}\n", table_line(location, totals, start, &spans));
    }
    for location in &revision.locations {
        text += &format!("  {} lies at {}\n", location.table, location.url);
    }
    Ok(text)
}

fn table_line(location: &Location, totals: LocationTotals, start: u64, spans: &[Span]) -> String {
    let linked = chain::watermark(start, spans);
    let linked = linked.map_or("nothing".to_owned(), |tip| format!("{start} to {}", tip.number));
    let all = totals.blocks.and_then(|blocks| BlockRange::new(start.min(blocks.start()), blocks.end()));
    let holes: Vec<String> = all
        .map(|all| chain::missing(all, spans).iter().map(BlockRange::to_string).collect())
        .unwrap_or_default();
    format!(
        "{:<16}{:>14}{:>12}{:>8}  {linked:<22}{}",
        location.table.as_str(),
        HumanCount(totals.rows).to_string(),
        HumanBytes(totals.bytes).to_string(),
        HumanCount(totals.files).to_string(),
        if holes.is_empty() { "none".to_owned() } else { holes.join(", ") },
    )
}

async fn remove(context: &Context, reference: &DatasetRef, yes: bool) -> anyhow::Result<()> {
    let dataset = context.dataset(reference).await?;
    let named = format!("`{}` {}", dataset.name, dataset.version);
    if !yes && !confirmed(&named)? {
        bail!("nothing was removed");
    }
    context.metadata.remove_datasets(&[dataset.id]).await?;
    eprintln!("removed {named}; its files stay where they are until they are collected");
    let folder = context.definitions_folder()?;
    for file in definitions::files_defining(&folder, reference).await? {
        eprintln!("its manifest {file} is still there and defines it again when it is used");
    }
    Ok(())
}

fn confirmed(named: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("removing {named} needs a yes: give --yes");
    }
    eprint!("remove the dataset {named} and retire its data? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
