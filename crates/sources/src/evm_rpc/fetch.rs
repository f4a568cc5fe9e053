//! The questions that are asked of a node.

use std::sync::{Arc, Mutex, PoisonError};

use nozzle_core::{BlockId, BlockNum, CallOutcome, ContractCall, manifest::Verify};
use tokio::time::Instant;

use super::{
    batch::Call,
    calls,
    client::{CallError, Client, Reply},
    receipts::{Receipts, ReceiptsFrom},
};
use crate::{
    error::SourceError,
    evm::{self, RawBlock},
    head::{HeadWatch, Stall},
    limit::Turn,
    source::Head,
};

const GET_BLOCK: &str = "eth_getBlockByNumber";
/// The parameters are not those of the method.
pub(crate) const INVALID_PARAMS: i64 = -32602;
/// The block is not known, as the engine's specification counts.
const UNKNOWN_BLOCK: i64 = -39001;

/// What nodes say, in any case of letters, where the chain has no final block, or none yet.
const NO_FINALITY: [&str; 9] = [
    "block tag",
    "block not found",
    "header not found",
    "unknown block",
    "tag not supported",
    "finalized is not supported",
    "finalized not supported",
    "finalized block is not available",
    "finalized block hash is not available",
];

/// A node and the limits that hold for all that is asked of it.
#[derive(Debug)]
pub(crate) struct Fetch {
    client: Arc<Client>,
    /// The most requests at a time.
    pub request_limit: usize,
    /// Absent where no column needs them.
    receipts: Option<Receipts>,
    heads: Mutex<HeadWatch>,
    /// What is checked of an answer that only names a block.
    verify: Verify,
}

impl Fetch {
    /// Asks a node with at most `request_limit` requests at a time.
    pub fn new(client: Client, request_limit: usize, receipts: Option<ReceiptsFrom>, verify: Verify) -> Self {
        let client = Arc::new(client);
        Self {
            receipts: receipts.map(|from| Receipts::new(client.clone(), from)),
            client,
            request_limit,
            heads: Mutex::default(),
            verify,
        }
    }

    /// Waits until one more request may be under way. Requests get their turn in this order.
    pub async fn turn(&self) -> Turn {
        self.client.limiter().turn().await
    }

    /// The provider's name.
    pub fn provider(&self) -> &str {
        self.client.provider()
    }

    /// How many blocks are asked for together.
    pub fn batch_size(&self) -> usize {
        self.client.batch_limit().get()
    }

    /// Blocks and, where they are needed, their receipts, in the order of the numbers; the caller has
    /// waited for its turn.
    pub async fn raw_blocks(&self, numbers: &[BlockNum]) -> Vec<Result<RawBlock, SourceError>> {
        let call = |number: &BlockNum| Call { method: GET_BLOCK, params: format!(r#"["{number:#x}",true]"#) };
        let calls: Vec<_> = numbers.iter().map(call).collect();
        let answers = self.client.call_all(&calls).await;
        let blocks =
            numbers.iter().zip(answers).map(|(number, answer)| self.block(*number, answer)).collect();
        let blocks = match &self.receipts {
            Some(receipts) => receipts.add(blocks).await,
            None => blocks,
        };
        let named = numbers.iter().zip(blocks);
        named.map(|(number, block)| block.map_err(|error| error.of_block(*number))).collect()
    }

    fn block(&self, number: BlockNum, answer: Result<Reply, CallError>) -> Result<RawBlock, SourceError> {
        let block = self.client.present(number, GET_BLOCK, "the block", answer)?;
        Ok(RawBlock { number, block, receipts: None })
    }

    /// The chain's id.
    pub async fn chain_id(&self) -> Result<u64, SourceError> {
        let _turn = self.turn().await;
        let reply = self.call("eth_chainId", "[]").await?;
        evm::number_of_answer(&reply.body)
            .map_err(|why| self.client.unavailable(format!("its answer to `eth_chainId` {why}")))
    }

    /// Calls contracts; the caller has waited for its turn.
    pub async fn contract_calls(&self, calls: &[ContractCall]) -> Vec<Result<CallOutcome, SourceError>> {
        calls::outcomes(&self.client, calls).await
    }

    /// The newest block and the newest final one.
    pub async fn head(&self) -> Result<Head, SourceError> {
        let (mut latest, finalized) = futures::try_join!(self.latest(), self.finalized())?;
        if let Some(finalized) = finalized.filter(|finalized| finalized.number > latest.number) {
            // On a chain that is final at once it may have come a moment later.
            latest = self.latest().await?;
            if finalized.number > latest.number {
                let (above, head) = (finalized.number, latest.number);
                return Err(self
                    .client
                    .unavailable(format!("its finalized block {above} is above its head {head}")));
            }
        }
        self.watch(latest).await;
        Ok(Head { latest, finalized })
    }

    /// Dials anew where the head is stuck: what is connected may be a node that has lost its peers,
    /// and others stand behind the same address.
    async fn watch(&self, latest: BlockId) {
        let stall = self.heads.lock().unwrap_or_else(PoisonError::into_inner).note(latest, Instant::now());
        let Some(Stall { duration, is_news }) = stall else { return };
        if is_news {
            let (provider, head, seconds) = (self.client.provider(), latest.number, duration.as_secs());
            tracing::warn!(provider, head, seconds, "the head has stopped moving; the node is dialled anew");
        }
        self.client.redial().await;
    }

    /// Waits until the node tells of a new head.
    pub async fn head_moved(&self) {
        self.client.head_moved().await;
    }

    async fn latest(&self) -> Result<BlockId, SourceError> {
        let _turn = self.turn().await;
        let reply = self.call(GET_BLOCK, r#"["latest",false]"#).await?;
        let none = || self.client.unavailable("it has no latest block".into());
        self.tagged("latest", &reply)?.ok_or_else(none)
    }

    /// Nodes and chains without finality answer with null, or with an error that says so. Any other
    /// error is a request that failed: taken for a chain without finality, it would let blocks count
    /// as final by their depth alone.
    async fn finalized(&self) -> Result<Option<BlockId>, SourceError> {
        let _turn = self.turn().await;
        match self.client.call(GET_BLOCK, r#"["finalized",false]"#).await {
            Ok(reply) => self.tagged("finalized", &reply),
            Err(CallError::Rpc { code, message, .. }) if says_no_finality(code, &message) => Ok(None),
            Err(error) => Err(self.client.source_error(GET_BLOCK, error)),
        }
    }

    fn tagged(&self, tag: &str, reply: &Reply) -> Result<Option<BlockId>, SourceError> {
        if reply.is_null {
            return Ok(None);
        }
        let bad = |why| self.client.unavailable(format!("its {tag} block cannot be used: {why}"));
        evm::id_of_answer(&reply.body, self.verify).map(Some).map_err(|problem| bad(problem.to_string()))
    }

    /// The block that the node has at `number`.
    pub async fn block_id(&self, number: BlockNum) -> Result<Option<BlockId>, SourceError> {
        let _turn = self.turn().await;
        let reply = self.call(GET_BLOCK, &format!(r#"["{number:#x}",false]"#)).await;
        let reply = reply.map_err(|error| error.of_block(number))?;
        if reply.is_null {
            return Ok(None);
        }
        let malformed = |problem: evm::Problem| problem.of_block(self.client.provider(), number);
        let id = evm::id_of_answer(&reply.body, self.verify).map_err(malformed)?;
        if id.number == number {
            Ok(Some(id))
        } else {
            Err(malformed(evm::Problem::Malformed(format!("it is the block {}", id.number))))
        }
    }

    async fn call(&self, method: &'static str, params: &str) -> Result<Reply, SourceError> {
        self.client.call(method, params).await.map_err(|error| self.client.source_error(method, error))
    }
}

/// Whether an error to the question for the final block means that there is none.
fn says_no_finality(code: i64, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [INVALID_PARAMS, UNKNOWN_BLOCK].contains(&code) || NO_FINALITY.iter().any(|words| message.contains(words))
}
