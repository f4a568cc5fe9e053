//! `<dataset>.eth_call(from, to, input, block)`: what contracts answer, row by row.
//!
//! Whoever opens the engine hands in what calls; here is what makes calls of rows and rows of outcomes.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fmt::Debug,
    hash::{Hash, Hasher},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use alloy_primitives::{Address, Bytes};
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, StringBuilder, StructArray},
    compute::cast,
    datatypes::{DataType, Field, Fields, UInt64Type},
};
use async_trait::async_trait;
use datafusion::{
    common::{
        exec_err, internal_err, plan_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::{DataFusionError, Result},
    logical_expr::{
        ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        Volatility,
        async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl},
    },
    sql::{
        parser::Statement,
        sqlparser::ast::{self, AccessExpr, ObjectNamePart, Visit, VisitMut, Visitor, VisitorMut},
    },
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use nozzle_core::{CallBlock, CallOutcome, ContractCall, Network};

use crate::error::QueryError;

/// What calls contracts.
#[async_trait]
pub trait ContractCaller: Debug + Send + Sync {
    /// The outcome of each call, in order, from a provider of the network. Fails as a whole where a call could
    /// not be made, however often it was tried.
    async fn call(
        &self,
        network: &Network,
        calls: Vec<ContractCall>,
    ) -> Result<Vec<CallOutcome>, Box<dyn Error + Send + Sync>>;
}

/// The name of the function, behind that of the dataset.
const ETH_CALL: &str = "eth_call";

/// What the outcomes that a query keeps may hold, in bytes.
const KEPT_BYTES: usize = 64 << 20;

/// An `eth_call` of a statement.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Called {
    /// The whole name as it is written, by which the engine looks it up.
    pub written: String,
    /// The dataset's name.
    pub dataset: String,
}

/// Puts `dataset.eth_call(…)['data']` as the engine takes it: the parser takes the function for a part of something
/// named `dataset`.
pub(crate) fn regroup(statement: &mut Statement) {
    match statement {
        Statement::Statement(sql) => {
            let _: ControlFlow<()> = sql.visit(&mut Regroup);
        }
        Statement::Explain(explain) => regroup(&mut explain.statement),
        _ => {}
    }
}

struct Regroup;

impl VisitorMut for Regroup {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut ast::Expr) -> ControlFlow<()> {
        if let ast::Expr::CompoundFieldAccess { root, access_chain } = expr
            && let ast::Expr::Identifier(dataset) = root.as_ref()
            && let Some(AccessExpr::Dot(ast::Expr::Function(function))) = access_chain.first()
            && function.name.0.len() == 1
        {
            let mut function = function.clone();
            function.name.0.insert(0, ObjectNamePart::Identifier(dataset.clone()));
            **root = ast::Expr::Function(function);
            access_chain.remove(0);
        }
        ControlFlow::Continue(())
    }
}

/// The `eth_call`s that a statement names, each once.
pub(crate) fn named(statement: &Statement) -> HashSet<Called> {
    let mut found = Named(HashSet::new());
    match statement {
        Statement::Statement(sql) => {
            let _: ControlFlow<()> = sql.visit(&mut found);
            found.0
        }
        Statement::Explain(explain) => named(&explain.statement),
        _ => found.0,
    }
}

struct Named(HashSet<Called>);

impl Visitor for Named {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        let ast::Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let normal = |part: &ObjectNamePart| {
            let ident = part.as_ident()?;
            Some(if ident.quote_style.is_some() {
                ident.value.clone()
            } else {
                ident.value.to_ascii_lowercase()
            })
        };
        if let [dataset, name] = function.name.0.as_slice()
            && normal(name).as_deref() == Some(ETH_CALL)
            && let Some(dataset) = normal(dataset)
        {
            self.0.insert(Called { written: function.name.to_string(), dataset });
        }
        ControlFlow::Continue(())
    }
}

/// Refuses calls where the engine cannot wait for an answer: it can in what is selected, and in `WHERE`.
pub(crate) fn check_places(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut misplaced = None;
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Filter(_)) {
            return Ok(TreeNodeRecursion::Continue);
        }
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.as_async().is_some()
                {
                    misplaced = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match misplaced {
        Some(name) => Err(QueryError::Plan(format!(
            "`{name}` can stand in what a query selects and in WHERE, and not in a join, GROUP BY, ORDER BY or another \
             function of groups: select it in a query within this one"
        ))),
        None => Ok(()),
    }
}

/// The function for one query.
pub(crate) fn eth_call(written: &str, network: Network, caller: Arc<dyn ContractCaller>) -> ScalarUDF {
    // Never for the optimiser to compute or to move: it asks a node.
    let signature = Signature::any(4, Volatility::Volatile);
    let function = EthCall { name: written.to_owned(), network, caller, signature, kept: Mutex::default() };
    AsyncScalarUDF::new(Arc::new(function)).into_scalar_udf()
}

/// Calls of one network, as the engine takes them.
#[derive(Debug)]
struct EthCall {
    name: String,
    network: Network,
    caller: Arc<dyn ContractCaller>,
    signature: Signature,
    kept: Mutex<Kept>,
}

/// Calls that are being made.
type Asked =
    Shared<BoxFuture<'static, Result<Arc<HashMap<ContractCall, CallOutcome>>, Arc<DataFusionError>>>>;

/// A call that was met before.
#[derive(Debug)]
enum Known {
    Had(CallOutcome),
    Coming(Asked),
}

/// What the query knows of its calls, for equal ones.
#[derive(Debug, Default)]
struct Kept {
    calls: HashMap<ContractCall, Known>,
    /// What the outcomes hold.
    bytes: usize,
}

impl PartialEq for EthCall {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for EthCall {}

impl Hash for EthCall {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn fields() -> Fields {
    vec![Field::new("data", DataType::Binary, true), Field::new("message", DataType::Utf8, true)].into()
}

impl ScalarUDFImpl for EthCall {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        for (what, data_type) in ["from", "to", "input"].into_iter().zip(types) {
            let fits = match data_type {
                DataType::FixedSizeBinary(size) => what == "input" || *size == 20,
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null => true,
                other => other.is_string(),
            };
            if !fits {
                return plan_err!("`{}`: {what} must be bytes or a `0x` text, not {data_type}", self.name);
            }
        }
        match types.last() {
            Some(block) if block.is_integer() || block.is_string() || block.is_null() => {
                Ok(DataType::Struct(fields()))
            }
            other => plan_err!("`{}`: the block must be a number or a tag, not {other:?}", self.name),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("`{}` stands where the engine cannot wait for it", self.name)
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for EthCall {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let calls = self.calls(&args)?;
        let outcomes = self.outcomes(calls.iter().flatten()).await?;
        let (mut data, mut messages) = (BinaryBuilder::new(), StringBuilder::new());
        for call in &calls {
            match call.as_ref().map(|call| &outcomes[call]) {
                None => {
                    data.append_null();
                    messages.append_null();
                }
                Some(CallOutcome::Returned(returned)) => {
                    data.append_value(returned);
                    messages.append_null();
                }
                Some(CallOutcome::Failed { data: said, message }) => {
                    data.append_option(said.as_ref());
                    messages.append_value(message);
                }
            }
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(data.finish()), Arc::new(messages.finish())];
        let nulls = calls.iter().map(Option::is_some).collect::<Vec<_>>().into();
        let rows = StructArray::try_new(fields(), columns, Some(nulls))?;
        Ok(ColumnarValue::Array(Arc::new(rows)))
    }
}

impl EthCall {
    /// The call of each row; none where there is no contract or no block.
    fn calls(&self, args: &ScalarFunctionArgs) -> Result<Vec<Option<ContractCall>>> {
        let [from, to, input, block] = args.args.as_slice() else {
            return internal_err!("`{}` takes four arguments", self.name);
        };
        let rows = args.number_rows;
        let from = bytes_of(&from.to_array(rows)?)?;
        let to = bytes_of(&to.to_array(rows)?)?;
        let input = bytes_of(&input.to_array(rows)?)?;
        let block = blocks_of(&block.to_array(rows)?)?;
        let address = |what: &str, bytes: Bytes| match Address::try_from(bytes.as_ref()) {
            Ok(address) => Ok(address),
            Err(_) => {
                exec_err!("`{}`: {what} must have 20 bytes, and {bytes} has {}", self.name, bytes.len())
            }
        };
        let call = |row: usize| {
            let (Some(to), Some(block)) = (to[row].clone(), block[row]) else { return Ok(None) };
            let from = from[row].clone().map(|from| address("from", from)).transpose()?;
            Ok(Some(ContractCall { from, to: address("to", to)?, input: input[row].clone(), block }))
        };
        (0..rows).map(call).collect()
    }

    /// The outcomes of calls. What another part of the query asks for at this time is waited for.
    async fn outcomes<'a>(
        &self,
        calls: impl Iterator<Item = &'a ContractCall>,
    ) -> Result<HashMap<ContractCall, CallOutcome>> {
        let wanted: HashSet<&ContractCall> = calls.collect();
        let (mut outcomes, mut coming, mut missing) = (HashMap::new(), vec![], vec![]);
        let asked = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            for call in wanted {
                match kept.calls.get(call) {
                    Some(Known::Had(outcome)) => drop(outcomes.insert(call.clone(), outcome.clone())),
                    Some(Known::Coming(asked)) => coming.push((call, asked.clone())),
                    None => missing.push(call.clone()),
                }
            }
            let asked = self.asked(missing.clone());
            let known = missing.iter().map(|call| (call.clone(), Known::Coming(asked.clone())));
            kept.calls.extend(known);
            asked
        };
        if !missing.is_empty() {
            let made = asked.await;
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(&missing, made.as_deref().ok());
            outcomes
                .extend(made.map_err(DataFusionError::Shared)?.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        for (call, asked) in coming {
            let made = asked.await.map_err(DataFusionError::Shared)?;
            outcomes.extend(made.get_key_value(call).map(|(call, outcome)| (call.clone(), outcome.clone())));
        }
        Ok(outcomes)
    }

    /// What makes calls as soon as one waits for it, and once for all who do.
    fn asked(&self, calls: Vec<ContractCall>) -> Asked {
        let (caller, network) = (Arc::clone(&self.caller), self.network.clone());
        let asked = async move {
            let made = caller.call(&network, calls.clone()).await;
            let made = made.map_err(|error| Arc::new(DataFusionError::External(error)))?;
            Ok(Arc::new(calls.into_iter().zip(made).collect()))
        };
        asked.boxed().shared()
    }
}

impl Kept {
    /// Keeps the outcomes of calls that were made, as many as there is room for, or none where they failed.
    fn keep(&mut self, calls: &[ContractCall], made: Option<&HashMap<ContractCall, CallOutcome>>) {
        for call in calls {
            let outcome = made.and_then(|made| made.get(call));
            let bytes = outcome.map_or(0, |outcome| size_of(call, outcome));
            match outcome.filter(|_| self.bytes + bytes <= KEPT_BYTES) {
                Some(outcome) => {
                    self.bytes += bytes;
                    self.calls.insert(call.clone(), Known::Had(outcome.clone()));
                }
                None => drop(self.calls.remove(call)),
            }
        }
    }
}

fn size_of(call: &ContractCall, outcome: &CallOutcome) -> usize {
    let said = match outcome {
        CallOutcome::Returned(data) => data.len(),
        CallOutcome::Failed { data, message } => message.len() + data.as_ref().map_or(0, |data| data.len()),
    };
    size_of_val(call) + size_of_val(outcome) + call.input.as_ref().map_or(0, |input| input.len()) + said
}

/// Bytes, or what a `0x` text says.
fn bytes_of(array: &ArrayRef) -> Result<Vec<Option<Bytes>>> {
    if array.data_type().is_string() {
        let texts = cast(array, &DataType::Utf8)?;
        let bytes = |text: &str| match text.strip_prefix("0x").map(const_hex::decode) {
            Some(Ok(bytes)) => Ok(Bytes::from(bytes)),
            _ => exec_err!("`{text}` is not a `0x` text of bytes"),
        };
        return texts.as_string::<i32>().iter().map(|text| text.map(bytes).transpose()).collect();
    }
    let bytes = cast(array, &DataType::Binary)?;
    let bytes = bytes.as_binary::<i32>();
    Ok(bytes.iter().map(|bytes| bytes.map(Bytes::copy_from_slice)).collect())
}

fn blocks_of(array: &ArrayRef) -> Result<Vec<Option<CallBlock>>> {
    if array.data_type().is_string() {
        let texts = cast(array, &DataType::Utf8)?;
        let block = |text: &str| match CallBlock::parse(text) {
            Some(block) => Ok(block),
            None => {
                exec_err!("`{text}` is no block: a number, or latest, finalized, safe, earliest, pending")
            }
        };
        return texts.as_string::<i32>().iter().map(|text| text.map(block).transpose()).collect();
    }
    let numbers = cast(array, &DataType::UInt64)?;
    if numbers.null_count() > array.logical_null_count() {
        return exec_err!("a block number must be from 0 to 18446744073709551615");
    }
    Ok(numbers.as_primitive::<UInt64Type>().iter().map(|number| number.map(CallBlock::Number)).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use datafusion::prelude::SessionContext;

    use super::*;

    /// Counts the calls that are made, and returns their inputs.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl ContractCaller for Counting {
        async fn call(
            &self,
            _: &Network,
            calls: Vec<ContractCall>,
        ) -> Result<Vec<CallOutcome>, Box<dyn Error + Send + Sync>> {
            self.0.fetch_add(calls.len(), Ordering::Relaxed);
            // Others come to ask meanwhile.
            tokio::task::yield_now().await;
            Ok(calls.into_iter().map(|call| CallOutcome::Returned(call.input.unwrap_or_default())).collect())
        }
    }

    #[tokio::test]
    async fn equal_calls_of_a_query_are_made_once() {
        let caller = Arc::new(Counting::default());
        let context = SessionContext::new();
        let network = "anvil".parse().expect("a network");
        context.register_udf(eth_call("eth_call", network, Arc::clone(&caller) as _));
        let to = format!("X'{}'", "11".repeat(20));
        let sql = format!(
            "SELECT count(*) AS n FROM (
               SELECT eth_call(NULL, {to}, arrow_cast(concat('0x0', value % 3), 'Utf8'), value % 2)['data'] AS data
               FROM generate_series(1, 50000)
             ) WHERE data IN (X'00', X'01', X'02')"
        );
        let rows = context.sql(&sql).await.expect("a plan").collect().await.expect("rows");
        let counts = rows[0].column(0).as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(counts.value(0), 50_000);
        assert_eq!(caller.0.load(Ordering::Relaxed), 6);
    }

    #[test]
    fn only_functions_of_the_name_are_found() {
        let sql = "WITH a AS (SELECT eth.eth_call(1, 2, 3, 4)) SELECT \"Odd\".ETH_CALL(1), eth_call(2), eth.other(3) \
                   FROM a WHERE x IN (SELECT eth.eth_call(1, 2, 3, 4))";
        let mut parser = datafusion::sql::parser::DFParserBuilder::new(sql).build().expect("a parser");
        let statement = parser.parse_statement().expect("a statement");
        let mut found: Vec<_> = named(&statement).into_iter().map(|called| called.dataset).collect();
        found.sort();
        assert_eq!(found, ["Odd", "eth"]);
    }
}
