//! Arrow Flight over gRPC.
//!
//! A ticket is SQL text, or the message of Flight SQL that `GetFlightInfo` has given out. Either way
//! it is text that is parsed and checked in full when it comes back: bytes from a client are never
//! taken for a plan.

use std::{pin::Pin, sync::Arc};

use anyhow::Context as _;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc,
    SchemaResult, Ticket,
    encode::FlightDataEncoderBuilder,
    error::FlightError,
    flight_service_server::{FlightService, FlightServiceServer},
    sql::{Any, Command, ProstMessageExt, TicketStatementQuery},
};
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::{
    auth::Gate,
    error::ApiError,
    query::{Queries, Running},
};
use crate::{
    config::Role,
    output::plain::{plain_batch, plain_schema},
};

/// What the messages of Flight SQL start with, once they are unpacked.
const FLIGHT_SQL: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// Answers until `stop`, then finishes the answers that it has begun.
pub async fn serve(
    listener: TcpListener,
    queries: Arc<Queries>,
    gate: Gate,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let gated = move |request: Request<()>| {
        gate.check_grpc(&request.metadata().clone().into_headers(), Role::Query)?;
        Ok(request)
    };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(FlightServiceServer::with_interceptor(Flight { queries }, gated))
        .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await })
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
}

fn text(bytes: &[u8]) -> Result<String, Status> {
    let not_text = |_| Status::invalid_argument("neither SQL text nor a message of Flight SQL");
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not_text)
}

fn not_offered(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not offered by this server"))
}

impl Flight {
    async fn info(&self, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        // A query comes back in the form that it came in, as the ticket.
        let (sql, ticket) = match Asked::parse(&descriptor.cmd)? {
            Asked::Sql(sql) => (sql.clone(), sql.into_bytes()),
            Asked::FlightSql(Command::CommandStatementQuery(command)) => {
                let ticket = TicketStatementQuery { statement_handle: command.query.clone().into() };
                (command.query, ticket.as_any().encode_to_vec())
            }
            Asked::FlightSql(command) => return Err(not_offered(command.type_url())),
        };
        let schema = plain_schema(self.queries.schema(&sql).await?.as_ref());
        let info = FlightInfo::new()
            .try_with_schema(&schema)
            .map_err(|error| Status::internal(error.to_string()))?;
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
        Ok(info.with_endpoint(endpoint).with_descriptor(descriptor))
    }

    async fn rows(&self, ticket: Ticket) -> Result<Rows<FlightData>, Status> {
        let sql = match Asked::parse(&ticket.ticket)? {
            Asked::Sql(sql) => sql,
            Asked::FlightSql(Command::TicketStatementQuery(ticket)) => text(&ticket.statement_handle)?,
            Asked::FlightSql(command) => return Err(not_offered(command.type_url())),
        };
        let Running { schema, batches } = self.queries.start(&sql).await?;
        let schema = plain_schema(&schema);
        let announced = Arc::clone(&schema);
        let batches = batches.map(move |batch| {
            let batch = batch.map_err(|error: ApiError| FlightError::Tonic(Box::new(error.into())))?;
            plain_batch(&batch, &announced).map_err(FlightError::Arrow)
        });
        // With the schema given, it is sent also where there is no row.
        let encoded = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
        Ok(Box::pin(encoded.map_err(Status::from)))
    }
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
        self.info(request.into_inner()).await.map(Response::new)
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.rows(request.into_inner()).await.map(Response::new)
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let sql = match Asked::parse(&request.get_ref().cmd)? {
            Asked::Sql(sql) => sql,
            Asked::FlightSql(Command::CommandStatementQuery(command)) => command.query,
            Asked::FlightSql(command) => return Err(not_offered(command.type_url())),
        };
        let schema = plain_schema(self.queries.schema(&sql).await?.as_ref());
        let options = arrow::ipc::writer::IpcWriteOptions::default();
        let encoded = SchemaAsIpc::new(&schema, &options).try_into();
        encoded
            .map(Response::new)
            .map_err(|error: arrow::error::ArrowError| Status::internal(error.to_string()))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(not_offered("Handshake"))
    }

    async fn list_flights(
        &self,
        _request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(not_offered("ListFlights"))
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(not_offered("PollFlightInfo"))
    }

    async fn do_put(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        Err(not_offered("DoPut"))
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(not_offered("DoExchange"))
    }

    async fn do_action(&self, _request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(not_offered("DoAction"))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(not_offered("ListActions"))
    }
}
