//! `nozzle query`: one statement on the present moment, in this process.

use std::{
    fs::File,
    io::{BufWriter, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use futures::{Stream, TryStreamExt};
use nozzle_query::{QueryError, Session};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::QueryArgs,
    config::Config,
    context::Context,
    output::{self, Format, Options, Written},
    threads,
};

/// Runs the statement and writes its answer.
pub async fn run(args: QueryArgs, config: Config) -> anyhow::Result<ExitCode> {
    let threads = threads::shared().context("starting the threads for queries")?;
    threads::spawn(threads, answer(args, config))
        .await
        .context("the query ended by a defect of the engine")?
}

async fn answer(args: QueryArgs, config: Config) -> anyhow::Result<ExitCode> {
    let format = format(&args)?;
    if format == Format::Parquet && args.out.is_none() && std::io::stdout().is_terminal() {
        bail!("a Parquet file is not for a terminal; name a file with -o, or redirect the output");
    }
    let sql = if args.sql == "-" { from_stdin()? } else { args.sql };
    let context = Context::open_existing(config).await?;
    let session = context.engine()?.session().await?;
    let plan = session.plan(&sql).await?;
    let schema = Session::schema(&plan);
    let gaps = session.gaps(&plan).await?;
    if !gaps.0.is_empty() {
        eprintln!("note: {gaps}");
    }
    let rows = session.execute(plan).await?.map_err(QueryError::from);
    let written = match &args.out {
        None => {
            let mut out = BufWriter::new(std::io::stdout());
            let written = output::write(format, schema, rows, &mut out, Options::default()).await?;
            if !written.pipe_closed {
                out.flush().context("writing the answer")?;
            }
            written
        }
        Some(path) => to_file(path, format, schema, rows).await?,
    };
    if written.truncated {
        eprintln!(
            "only the first {} rows are shown; use --format jsonl or csv, or -o FILE, for all",
            written.rows
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The format that was asked for, or that the file's name asks for.
fn format(args: &QueryArgs) -> anyhow::Result<Format> {
    let ending = args.out.as_deref().and_then(Path::extension).and_then(|ending| ending.to_str());
    match (args.format, &args.out, ending) {
        (Some(format), ..) => Ok(format),
        (None, None, _) => Ok(Format::Table),
        (None, Some(_), Some("txt")) => Ok(Format::Table),
        (None, Some(path), ending) => ending.unwrap_or_default().parse().map_err(|_| {
            anyhow::anyhow!(
                "the name {} does not tell its format; give --format table, jsonl, csv or parquet",
                path.display()
            )
        }),
    }
}

/// Writes to a file. One that is there is replaced only once the answer is whole: a query that fails
/// leaves it as it was. What is no plain file (a device, a pipe, a link) is written to as it is.
async fn to_file(
    path: &Path,
    format: Format,
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, impl std::error::Error + Send + Sync + 'static>> + Unpin,
) -> anyhow::Result<Written> {
    let context = || format!("writing {}; does its folder exist?", path.display());
    let is_special = path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file());
    let partial = if is_special { path.to_owned() } else { partial_name(path)? };
    let file = if is_special { File::options().write(true).open(path) } else { File::create_new(&partial) };
    let mut out = BufWriter::new(file.with_context(context)?);
    let options = Options { table_rows: usize::MAX, ..Options::default() };
    let writing = output::write(format, schema, rows, &mut out, options);
    let written = tokio::select! {
        // Watched for before the first row is written.
        biased;
        number = told_to_end() => {
            if !is_special {
                std::fs::remove_file(&partial).ok();
            }
            std::process::exit(128 + number?);
        }
        written = writing => written,
    };
    let written = match written {
        Ok(written) => out.flush().map(|()| written).with_context(context),
        Err(error) => Err(error),
    };
    if is_special {
        return written;
    }
    if written.is_err() {
        std::fs::remove_file(&partial).with_context(context)?;
        return written;
    }
    std::fs::rename(&partial, path).with_context(context)?;
    written
}

/// Waits for SIGINT or SIGTERM, and gives its number.
async fn told_to_end() -> anyhow::Result<i32> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    }
    .as_raw_value())
}

fn partial_name(path: &Path) -> anyhow::Result<PathBuf> {
    let mut name = path.file_name().context("-o names no file")?.to_owned();
    name.push(format!(".{}.partial", uuid::Uuid::new_v4().simple()));
    Ok(path.with_file_name(name))
}

fn from_stdin() -> anyhow::Result<String> {
    let mut sql = String::new();
    std::io::stdin().read_to_string(&mut sql).context("reading the statement from standard input")?;
    Ok(sql)
}
