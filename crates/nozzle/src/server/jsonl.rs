//! JSON Lines over HTTP: SQL in the body of a POST, one JSON object a line in the answer, sent as
//! the rows are made.
//!
//! An error before the first byte is an HTTP status with a JSON object. Afterwards the status is
//! gone: a last line tells the error, and then the connection is broken off, so that no client
//! takes a cut answer for a whole one.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Version, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{Stream, StreamExt, stream};
use serde_json::json;

use super::{
    admin,
    auth::{self, Gate},
    error::{ApiError, ErrorCode},
    query::{Batches, Queries, Running},
};
use crate::output::{DecimalFormat, json::JsonLines};

/// The largest body that is taken.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long the last line of a failed answer has to leave before the connection is broken off.
const LAST_LINE_TIME: Duration = Duration::from_millis(200);

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
    let sql = statement(body).await?;
    let decimals = decimal_format(&parts.headers)?;
    let Running { schema, batches } = queries.start(sql.into()).await?;
    let lines = JsonLines::new(&schema, decimals).map_err(|error| cannot_be_written(&error))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let encoding = Encoding::accepted(&parts.headers);
    if let Encoding::Gzip(_) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok((headers, Body::from_stream(body_of(batches, lines, encoding))).into_response())
}

fn cannot_be_written(error: &anyhow::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidPlan, format!("the answer cannot be written as JSON: {error:#}"))
}

async fn statement(body: Body) -> Result<String, ApiError> {
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY_BYTES} bytes; a query is sent as its text");
        ApiError::new(ErrorCode::PayloadTooLarge, message)
    };
    let bytes = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| too_large())?;
    let not_text =
        |_| ApiError::new(ErrorCode::InvalidRequest, "the body is not UTF-8 text; send SQL as the body");
    String::from_utf8(bytes.into()).map_err(not_text)
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

/// What the client lets the body be packed with.
enum Encoding {
    Plain,
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

impl Encoding {
    fn accepted(headers: &HeaderMap) -> Self {
        let listed = headers.get_all(header::ACCEPT_ENCODING);
        let mut choices =
            listed.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
        let takes_gzip = choices.any(|choice| {
            let (name, quality) = choice.split_once(';').unwrap_or((choice, ""));
            let quality = quality.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
            name.trim().eq_ignore_ascii_case("gzip") && quality.is_ok_and(|quality| quality > 0.0)
        });
        if takes_gzip {
            Self::Gzip(Box::new(GzEncoder::new(vec![], Compression::fast())))
        } else {
            Self::Plain
        }
    }

    /// Packs bytes so that the client can read all of them now, not only with the next ones.
    fn pack(&mut self, bytes: Vec<u8>) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(bytes.into()),
            Self::Gzip(encoder) => {
                encoder.write_all(&bytes)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }

    fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(encoder) => encoder.finish().map(Bytes::from),
        }
    }
}

/// What is left to send.
enum Sending {
    Rows(Batches, Box<JsonLines>, Encoding),
    /// The last line has told the error; now the connection is broken off.
    Broken(String),
    Done,
}

fn body_of(
    batches: Batches,
    lines: JsonLines,
    encoding: Encoding,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Sending::Rows(batches, Box::new(lines), encoding), |sending| async {
        match sending {
            Sending::Rows(batches, lines, encoding) => Some(next_bytes(batches, lines, encoding).await),
            Sending::Broken(why) => {
                // An error at once would take what is not sent yet along, the last line too.
                tokio::time::sleep(LAST_LINE_TIME).await;
                Some((Err(io::Error::other(why)), Sending::Done))
            }
            Sending::Done => None,
        }
    })
}

async fn next_bytes(
    mut batches: Batches,
    lines: Box<JsonLines>,
    mut encoding: Encoding,
) -> (io::Result<Bytes>, Sending) {
    let batch = match batches.next().await {
        None => return (encoding.finish(), Sending::Done),
        Some(batch) => batch,
    };
    let mut bytes = vec![];
    let encoded =
        batch.and_then(|batch| lines.encode(&batch, &mut bytes).map_err(|error| cannot_be_written(&error)));
    match encoded {
        Ok(()) => (encoding.pack(bytes), Sending::Rows(batches, lines, encoding)),
        Err(error) => {
            let line = format!("{}\n", json!({ "_nozzle": { "error": error.to_json() } }));
            (encoding.pack(line.into()), Sending::Broken(error.message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_the_client_takes_it() {
        let accepts = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            matches!(Encoding::accepted(&headers), Encoding::Gzip(_))
        };
        for yes in ["gzip", "br, GZIP", "deflate, gzip;q=0.5", "gzip; q=1"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "br", "gzip;q=0", "identity", "gzip;q=x"] {
            assert!(!accepts(no), "{no}");
        }
    }
}
