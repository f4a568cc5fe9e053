//! Arrow Flight over gRPC.
//!
//! A ticket is SQL text, or a message of Flight SQL. Either way it is text that is parsed and checked in full
//! when it comes back: bytes from a client are never taken for a plan. The server keeps nothing between calls.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use anyhow::Context as _;
use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, IpcMessage, PollInfo, PutResult, Result as ActionResult,
    SchemaAsIpc, SchemaResult, Ticket,
    decode::FlightRecordBatchStream,
    error::FlightError,
    flight_service_server::{FlightService, FlightServiceServer},
    sql::{
        ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, Command,
        DoPutPreparedStatementResult, ProstMessageExt, TicketStatementQuery,
    },
};
use axum::http::HeaderMap;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use nozzle_query::{
    LogicalPlan, Session, StreamItem,
    plain::{plain_batch, plain_schema},
};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::{
    auth::{Gate, token_of},
    error::ApiError,
    incoming::{Incoming, PING_EVERY, PING_TIME},
    query::{Following, Queries, Running, Statement},
    stream::{self, Messages, Resume},
};
use crate::config::Role;

mod gather;
mod metadata;
mod prepared;

use gather::gathered;

/// The actions that there are.
const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";

/// What the messages of Flight SQL start with, once they are unpacked.
const FLIGHT_SQL: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// Answers until `stop`, then finishes the answers that it has begun.
pub async fn serve(
    incoming: Incoming,
    queries: Arc<Queries>,
    gate: Gate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gated = move |request: Request<()>| {
        gate.check_grpc(&request.metadata().clone().into_headers(), Role::Query)?;
        Ok(request)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FlightServiceServer<Flight>>().await;
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIME))
        .add_service(health_service)
        .add_service(FlightServiceServer::with_interceptor(Flight { queries }, gated))
        .serve_with_incoming_shutdown(incoming.connections(), async move { stop.cancelled().await })
        .await
        .context("the Arrow Flight server failed")
}

struct Flight {
    queries: Arc<Queries>,
}

/// What a ticket or a command asks for.
enum Asked {
    /// A query, as plain text.
    Sql(String),
    /// A message of Flight SQL.
    FlightSql(Command),
}

impl Asked {
    fn parse(bytes: &[u8]) -> Result<Self, Status> {
        if let Ok(any) = Any::decode(bytes)
            && any.type_url.starts_with(FLIGHT_SQL)
        {
            let command =
                Command::try_from(any).map_err(|error| Status::invalid_argument(error.to_string()))?;
            return Ok(Self::FlightSql(command));
        }
        text(bytes).map(Self::Sql)
    }

    /// What a descriptor asks for: its command, or the table of its path.
    fn of(descriptor: &FlightDescriptor) -> Result<Self, Status> {
        match descriptor.path.as_slice() {
            [] => Self::parse(&descriptor.cmd),
            [dataset, table] => Ok(Self::Sql(all_of(dataset, table))),
            _ => Err(Status::invalid_argument("a path is a dataset and a table")),
        }
    }

    /// The statement, where it is one; else the command.
    fn statement(self) -> Result<Result<Statement, Command>, Status> {
        Ok(match self {
            Self::Sql(sql) => Ok(sql.into()),
            Self::FlightSql(Command::CommandStatementQuery(command)) => {
                no_transaction(command.transaction_id.as_ref())?;
                Ok(command.query.into())
            }
            Self::FlightSql(Command::TicketStatementQuery(ticket)) => {
                Ok(text(&ticket.statement_handle)?.into())
            }
            Self::FlightSql(Command::CommandPreparedStatementQuery(command)) => {
                Ok(prepared::statement(&command.prepared_statement_handle)?)
            }
            Self::FlightSql(command) => Err(command),
        })
    }
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    let not_text = |_| Status::invalid_argument("neither SQL text nor a message of Flight SQL");
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
}

fn all_of(dataset: &str, table: &str) -> String {
    let quoted = |name: &str| name.replace('"', "\"\"");
    format!("SELECT * FROM \"{}\".\"{}\"", quoted(dataset), quoted(table))
}

fn not_offered(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not offered by this server"))
}

/// There are none: every query has a moment of its own.
fn no_transaction(id: Option<&Bytes>) -> Result<(), Status> {
    if id.is_some() { Err(not_offered("a transaction")) } else { Ok(()) }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// A schema as a message of Arrow's IPC.
fn schema_message(schema: &Schema) -> Result<Bytes, Status> {
    let options = arrow::ipc::writer::IpcWriteOptions::default();
    let message = IpcMessage::try_from(SchemaAsIpc::new(schema, &options));
    message.map(|message| message.0).map_err(internal)
}

fn one<T: Send + 'static>(item: T) -> Response<Rows<T>> {
    Response::new(Box::pin(futures::stream::once(std::future::ready(Ok(item)))))
}

impl Flight {
    /// The columns of what is asked for.
    async fn schema(&self, asked: Asked, headers: &HeaderMap) -> Result<SchemaRef, Status> {
        match asked.statement()? {
            Ok(statement) => {
                let schema = match stream::asked_for(&self.queries, headers, &statement.sql).await? {
                    Some(resume) => self.queries.stream_schema(statement.sql, resume).await?,
                    None => self.queries.schema(statement).await?,
                };
                Ok(plain_schema(&schema))
            }
            Err(command) => match metadata::answer(&command, &self.queries).await? {
                Some(batch) => Ok(batch.schema()),
                None => Err(not_offered(command.type_url())),
            },
        }
    }

    async fn info(&self, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
        let headers = request.metadata().clone().into_headers();
        let descriptor = request.into_inner();
        let asked = Asked::of(&descriptor)?;
        // What was asked comes back in the form that it came in, as the ticket.
        let ticket = match &asked {
            Asked::Sql(sql) => sql.clone().into_bytes().into(),
            Asked::FlightSql(Command::CommandStatementQuery(command)) => {
                let ticket = TicketStatementQuery { statement_handle: command.query.clone().into() };
                ticket.as_any().encode_to_vec().into()
            }
            Asked::FlightSql(_) => descriptor.cmd.clone(),
        };
        flight_info(&*self.schema(asked, &headers).await?, ticket, descriptor)
    }

    async fn rows(&self, request: Request<Ticket>) -> Result<Rows<FlightData>, Status> {
        let headers = request.metadata().clone().into_headers();
        let statement = match Asked::parse(&request.get_ref().ticket)?.statement()? {
            Ok(statement) => match stream::asked_for(&self.queries, &headers, &statement.sql).await? {
                Some(resume) => return self.follow(statement, resume).await,
                None => statement,
            },
            Err(command) => match metadata::answer(&command, &self.queries).await? {
                Some(batch) => {
                    return Ok(encoded(batch.schema(), futures::stream::once(async { Ok(batch) })));
                }
                None => return Err(not_offered(command.type_url())),
            },
        };
        let Running { schema, batches } = self.queries.start(statement).await?;
        let schema = plain_schema(&schema);
        let announced = Arc::clone(&schema);
        let batches = batches.map(move |batch| {
            let batch = batch.map_err(|error: ApiError| FlightError::Tonic(Box::new(error.into())))?;
            plain_batch(&batch, &announced).map_err(FlightError::Arrow)
        });
        Ok(encoded(Arc::clone(&schema), gathered(schema, batches)))
    }

    /// A stream: the schema, then its items, each with what it tells of blocks.
    async fn follow(&self, statement: Statement, resume: Resume) -> Result<Rows<FlightData>, Status> {
        if statement.parameters.is_some() {
            return Err(not_offered("a stream with parameters"));
        }
        let Following { schema, items } = self.queries.follow(statement.sql, resume).await?;
        let schema = plain_schema(&schema);
        let messages = Messages::new(Arc::clone(&schema));
        let first = messages.schema();
        let rest = items.scan(messages, move |messages, item| {
            let encoded = item.map_err(Status::from).and_then(|item| {
                let rows = match &item {
                    StreamItem::Rows(batch, _) => Some(plain_batch(batch, &schema).map_err(internal)?),
                    StreamItem::Complete(_) | StreamItem::KeepAlive => None,
                };
                messages.of(&item, rows).map_err(internal)
            });
            let messages: Vec<Result<FlightData, Status>> = match encoded {
                Ok(messages) => messages.into_iter().map(Ok).collect(),
                Err(status) => vec![Err(status)],
            };
            std::future::ready(Some(futures::stream::iter(messages)))
        });
        Ok(Box::pin(futures::stream::iter([Ok(first)]).chain(rest.flatten())))
    }

    async fn prepare(&self, request: ActionCreatePreparedStatementRequest) -> Result<ActionResult, Status> {
        no_transaction(request.transaction_id.as_ref())?;
        let statement = Statement::from(request.query);
        let handle = prepared::handle(&statement)?;
        let look = |_: &Session, plan: &LogicalPlan| Ok((Session::schema(plan), Session::parameters(plan)?));
        let (schema, parameters) = self.queries.planned(statement, look).await?;
        let result = ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle,
            dataset_schema: schema_message(&plain_schema(&schema))?,
            parameter_schema: schema_message(&parameters)?,
        };
        Ok(ActionResult { body: result.as_any().encode_to_vec().into() })
    }

    /// Binds the parameters of a prepared statement, and gives the handle that has them.
    async fn bind(&self, uploaded: Streaming<FlightData>) -> Result<PutResult, Status> {
        let mut uploaded = uploaded.peekable();
        let descriptor = match std::pin::Pin::new(&mut uploaded).peek().await {
            Some(Ok(first)) => first.flight_descriptor.clone().unwrap_or_default(),
            Some(Err(status)) => return Err(status.clone()),
            None => return Err(Status::invalid_argument("nothing was sent")),
        };
        let statement = match Asked::parse(&descriptor.cmd)? {
            Asked::FlightSql(Command::CommandPreparedStatementQuery(command)) => {
                prepared::statement(&command.prepared_statement_handle)?
            }
            Asked::FlightSql(
                Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_),
            ) => {
                return Err(Status::unimplemented(
                    "an update is not offered: this server only reads; ask a query once for each row of its \
                     parameters (executemany of ADBC is an update)",
                ));
            }
            Asked::FlightSql(command) => return Err(not_offered(command.type_url())),
            Asked::Sql(_) => return Err(not_offered("DoPut of data")),
        };
        let data = uploaded.map_err(|status| FlightError::Tonic(Box::new(status)));
        let reading = FlightRecordBatchStream::new_from_flight_data(data).try_collect();
        // The library panics at types that it does not know.
        let read = AssertUnwindSafe(reading).catch_unwind().await;
        let unknown = |_| Status::invalid_argument("the parameters are of a type that is not known");
        let batches: Vec<RecordBatch> = read.map_err(unknown)?.map_err(Status::from)?;
        let mut rows = batches.into_iter().filter(|batch| batch.num_rows() > 0);
        let (row, more) = (rows.next(), rows.next());
        if more.is_some() || row.as_ref().is_some_and(|row| row.num_rows() != 1) {
            return Err(Status::invalid_argument("a query takes one row of parameters"));
        }
        let bound = Statement { parameters: row, ..statement };
        let result =
            DoPutPreparedStatementResult { prepared_statement_handle: Some(prepared::handle(&bound)?) };
        Ok(PutResult { app_metadata: result.encode_to_vec().into() })
    }

    /// The tables that there are, each as what `GetFlightInfo` gives for it.
    async fn tables(&self) -> Result<Vec<Result<FlightInfo, Status>>, Status> {
        let listed = self.queries.looked(metadata::listed).await?;
        let tables = listed.into_iter().flat_map(|(dataset, tables)| {
            tables.into_iter().map(move |(table, columns)| (dataset.clone(), table, columns))
        });
        let info = |(dataset, table, columns): (String, String, SchemaRef)| {
            let ticket = all_of(&dataset, &table).into_bytes().into();
            flight_info(&columns, ticket, FlightDescriptor::new_path(vec![dataset, table]))
        };
        Ok(tables.map(info).collect())
    }
}

fn flight_info(schema: &Schema, ticket: Bytes, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    let info = FlightInfo::new().try_with_schema(schema).map_err(internal)?;
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket });
    Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
}

/// The schema first, also where there is no row. The library's encoder would make lists of large lists.
fn encoded(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
) -> Rows<FlightData> {
    let messages = Messages::new(schema);
    let first = messages.schema();
    let rest = batches.scan(messages, |messages, batch| {
        let encoded =
            batch.and_then(|rows| messages.of_rows(&rows, Bytes::new()).map_err(FlightError::Arrow));
        let messages: Vec<Result<FlightData, Status>> = match encoded {
            Ok(messages) => messages.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(Status::from(error))],
        };
        std::future::ready(Some(futures::stream::iter(messages)))
    });
    Box::pin(futures::stream::iter([Ok(first)]).chain(rest.flatten()))
}

/// A stream of answers.
type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = Rows<HandshakeResponse>;
    type ListFlightsStream = Rows<FlightInfo>;
    type DoGetStream = Rows<FlightData>;
    type DoPutStream = Rows<PutResult>;
    type DoExchangeStream = Rows<FlightData>;
    type DoActionStream = Rows<ActionResult>;
    type ListActionsStream = Rows<ActionType>;

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.info(request).await.map(Response::new)
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.rows(request).await.map(Response::new)
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let headers = request.metadata().clone().into_headers();
        let schema = self.schema(Asked::of(request.get_ref())?, &headers).await?;
        let options = arrow::ipc::writer::IpcWriteOptions::default();
        let encoded = SchemaAsIpc::new(&schema, &options).try_into();
        encoded.map(Response::new).map_err(|error: arrow::error::ArrowError| internal(error))
    }

    /// A login's password is a token, which is given back to be sent with all that follows. Whoever comes here
    /// was let in.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let token = token_of(&request.metadata().clone().into_headers()).unwrap_or_else(|| "none".to_owned());
        let mut response = one(HandshakeResponse { protocol_version: 0, payload: token.clone().into() });
        let value =
            format!("Bearer {token}").parse().map_err(|_| Status::internal("the token is no header"))?;
        response.metadata_mut().insert("authorization", value);
        Ok(response)
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Ok(Response::new(Box::pin(futures::stream::iter(self.tables().await?))))
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(not_offered("PollFlightInfo"))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        self.bind(request.into_inner()).await.map(one)
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(not_offered("DoExchange"))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let Action { r#type, body } = request.into_inner();
        match r#type.as_str() {
            CREATE_PREPARED => {
                let any = Any::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
                let request = any.unpack().map_err(|error| Status::invalid_argument(error.to_string()))?;
                let request =
                    request.ok_or_else(|| Status::invalid_argument("the body is of another action"))?;
                self.prepare(request).await.map(one)
            }
            // Nothing was kept of it.
            CLOSE_PREPARED => Ok(Response::new(Box::pin(futures::stream::empty()))),
            other => Err(not_offered(other)),
        }
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let actions =
            [(CREATE_PREPARED, "prepares a statement"), (CLOSE_PREPARED, "forgets a prepared statement")];
        let action = |(name, description): (&str, &str)| {
            Ok(ActionType { r#type: name.to_owned(), description: description.to_owned() })
        };
        Ok(Response::new(Box::pin(futures::stream::iter(actions.map(action)))))
    }
}
