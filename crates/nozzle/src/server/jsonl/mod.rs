//! JSON Lines over HTTP: SQL in the body of a POST, one JSON object a line in the answer, sent as
//! the rows are made. Who asks for CSV or Arrow gets that.
//!
//! An error before the first byte is an HTTP status with a JSON object. Afterwards the status is
//! gone: a last line tells the error, and then the connection is broken off, so that no client
//! takes a cut answer for a whole one.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use nozzle_query::StreamItem;
use serde_json::{Value, json};

use super::{
    admin,
    auth::{self, Gate},
    error::{ApiError, ErrorCode},
    http,
    query::{Following, Queries, Running},
    stream as server_stream,
};
use crate::output::DecimalFormat;
use form::{Form, Rows};
use packing::Packing;

mod form;
mod packing;

/// How long the last line of a failed answer has to leave before the connection is broken off.
const LAST_LINE_TIME: Duration = Duration::from_millis(200);

/// The header of an answer that names the blocks that what it reads lacks.
const GAPS: &str = "nozzle-gaps";

/// The header that asks for decimals as numbers.
const DECIMALS: &str = "nozzle-decimals";

/// The routes.
pub fn router(queries: Arc<Queries>, gate: Gate) -> Router {
    let gated = middleware::from_fn_with_state(gate, auth::queries);
    Router::new()
        .route("/", post(answer).route_layer(gated))
        .route("/health", get(admin::health))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .with_state(queries)
}

/// A path or a method that there is not.
async fn no_such_route(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("there is no {method} {path} here: send SQL as the body of POST /");
    let error = ApiError::new(ErrorCode::InvalidRequest, message).to_json();
    if path == "/" {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], Json(error)).into_response()
    } else {
        (StatusCode::NOT_FOUND, Json(error)).into_response()
    }
}

async fn answer(State(queries): State<Arc<Queries>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    if parts.version < Version::HTTP_11 {
        // There the end of the connection is the end of the answer, also where it is broken off.
        let message = "over HTTP/1.0 a cut answer looks like a whole one: ask with HTTP/1.1 (in nginx, `proxy_http_version 1.1`)";
        let error = ApiError::new(ErrorCode::InvalidRequest, message).to_json();
        return Ok((StatusCode::HTTP_VERSION_NOT_SUPPORTED, Json(error)).into_response());
    }
    let Some(form) = Form::accepted(&parts.headers) else {
        let message =
            "rows are sent as application/x-ndjson, text/csv or application/vnd.apache.arrow.stream";
        let error = ApiError::new(ErrorCode::InvalidRequest, message).to_json();
        return Ok((StatusCode::NOT_ACCEPTABLE, Json(error)).into_response());
    };
    let sql = statement(body).await?;
    let decimals = decimal_format(&parts.headers)?;
    let (schema, pieces) = match server_stream::asked_for(&queries, &parts.headers, &sql).await? {
        Some(resume) => {
            let Following { schema, items } = queries.follow(sql, resume).await?;
            let control = form == Form::Json && server_stream::wants_control(&parts.headers)?;
            (schema, following(items, control))
        }
        None => {
            let Running { schema, batches } = queries.start(sql.into()).await?;
            (schema, Box::pin(batches.map_ok(Piece::Rows)) as Pieces)
        }
    };
    let rows = Rows::new(form, &schema, decimals).map_err(|error| cannot_be_written(&error))?;
    let packing = Packing::accepted(&parts.headers)
        .map_err(|error| ApiError::new(ErrorCode::ExecutionError, error.to_string()))?;
    let mut headers = HeaderMap::new();
    if let Some(gaps) = schema.metadata().get(nozzle_query::gaps::GAPS) {
        let gaps = HeaderValue::from_str(gaps).map_err(|error| cannot_be_written(&error.into()))?;
        headers.insert(HeaderName::from_static(GAPS), gaps);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if let Some(name) = packing.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    Ok((headers, Body::from_stream(body_of(pieces, rows, packing))).into_response())
}

fn cannot_be_written(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidPlan, format!("the answer cannot be written in this form: {error:#}"))
}

async fn statement(body: Body) -> Result<String, ApiError> {
    let not_text =
        |_| ApiError::new(ErrorCode::InvalidRequest, "the body is not UTF-8 text; send SQL as the body");
    String::from_utf8(http::body(body).await?.into()).map_err(not_text)
}

fn decimal_format(headers: &HeaderMap) -> Result<DecimalFormat, ApiError> {
    match headers.get(DECIMALS).map(HeaderValue::as_bytes) {
        None | Some(b"string") => Ok(DecimalFormat::String),
        Some(b"number") => Ok(DecimalFormat::Number),
        Some(_) => {
            let message = format!("the header {DECIMALS} is neither string nor number");
            Err(ApiError::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// What a header lists, each with how much it is liked, from 0 to 1. What cannot be read is left out.
fn qualities(headers: &HeaderMap, name: &HeaderName) -> Vec<(String, f32)> {
    let listed = headers.get_all(name);
    let choices = listed.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let read = |choice: &str| {
        let mut parts = choice.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        Some((name, quality.ok()?))
    };
    choices.filter_map(read).collect()
}

/// A part of an answer.
enum Piece {
    Rows(RecordBatch),
    /// A line beside the rows.
    Line(Value),
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, ApiError>> + Send>>;

/// The rows of a stream, with lines about their blocks where these are asked for.
fn following(
    items: impl Stream<Item = Result<StreamItem, ApiError>> + Send + 'static,
    control: bool,
) -> Pieces {
    let pieces = items.map(move |item| {
        let pieces = match item {
            Ok(item) => {
                let line = control.then(|| Piece::Line(json!({ "_nozzle": server_stream::told(&item) })));
                let rows = match item {
                    StreamItem::Rows(batch, _) => Some(Piece::Rows(batch)),
                    StreamItem::Complete(_) | StreamItem::KeepAlive => None,
                };
                line.into_iter().chain(rows).map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    Box::pin(pieces.flatten())
}

/// What is left to send.
enum Sending {
    Rows(Pieces, Box<Rows>, Packing),
    /// The last line has told the error; now the connection is broken off.
    Broken(String),
    Done,
}

fn body_of(
    pieces: Pieces,
    mut rows: Rows,
    mut packing: Packing,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let first = rows.begin();
    let first = if first.is_empty() { None } else { Some(packing.pack(first)) };
    let rest = stream::unfold(Sending::Rows(pieces, Box::new(rows), packing), |sending| async {
        match sending {
            Sending::Rows(pieces, rows, packing) => Some(next_bytes(pieces, rows, packing).await),
            Sending::Broken(why) => {
                // An error at once would take what is not sent yet along, the last line too.
                tokio::time::sleep(LAST_LINE_TIME).await;
                Some((Err(io::Error::other(why)), Sending::Done))
            }
            Sending::Done => None,
        }
    });
    stream::iter(first).chain(rest)
}

async fn next_bytes(
    mut pieces: Pieces,
    mut rows: Box<Rows>,
    mut packing: Packing,
) -> (io::Result<Bytes>, Sending) {
    let encoded = match pieces.next().await {
        None => return (ended(*rows, packing), Sending::Done),
        Some(Ok(Piece::Rows(batch))) => rows.encode(&batch).map_err(|error| cannot_be_written(&error)),
        Some(Ok(Piece::Line(line))) => Ok(format!("{line}\n").into()),
        Some(Err(error)) => Err(error),
    };
    match encoded {
        Ok(bytes) => (packing.pack(bytes), Sending::Rows(pieces, rows, packing)),
        Err(error) if rows.has_lines() => {
            let line = format!("{}\n", json!({ "_nozzle": { "error": error.to_json() } }));
            (packing.pack(line.into()), Sending::Broken(error.message))
        }
        Err(error) => (Ok(Bytes::new()), Sending::Broken(error.message)),
    }
}

fn ended(mut rows: Rows, mut packing: Packing) -> io::Result<Bytes> {
    let last = packing.pack(rows.end().map_err(io::Error::other)?)?;
    Ok([last, packing.finish()?].concat().into())
}
