//! The receipts of blocks, in the way that the node gives them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use nozzle_core::BlockHash;

use super::{
    batch::Call,
    client::{CallError, Client, Reply},
    fetch::INVALID_PARAMS,
};
use crate::{
    error::SourceError,
    evm::{self, RawBlock},
};

const GET_RECEIPTS: &str = "eth_getBlockReceipts";

type Answer = Result<Reply, CallError>;

/// Asks for the receipts of blocks.
#[derive(Debug)]
pub(crate) struct Receipts {
    client: Arc<Client>,
    /// Whether the node has shown that it takes only numbers.
    by_number: AtomicBool,
}

/// A block that needs its receipts.
struct Wanted {
    block: RawBlock,
    hash: BlockHash,
}

impl Receipts {
    /// Nothing is known of the node yet.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, by_number: AtomicBool::new(false) }
    }

    /// The blocks with their receipts.
    pub async fn add(
        &self,
        blocks: Vec<Result<RawBlock, SourceError>>,
    ) -> Vec<Result<RawBlock, SourceError>> {
        let blocks: Vec<_> =
            blocks.into_iter().map(|block| block.and_then(|block| self.wanted(block))).collect();
        let wanted: Vec<&Wanted> = blocks.iter().flatten().collect();
        let mut receipts = self.ask(&wanted).await.into_iter();
        let lost = || Err(self.client.unavailable("its receipts were not asked for".into()));
        let mut with_receipts = |Wanted { mut block, .. }| {
            block.receipts = Some(receipts.next().unwrap_or_else(lost)?);
            Ok(block)
        };
        blocks.into_iter().map(|block| block.and_then(&mut with_receipts)).collect()
    }

    fn wanted(&self, block: RawBlock) -> Result<Wanted, SourceError> {
        let malformed = |problem: evm::Problem| problem.of_block(self.client.provider(), block.number);
        let hash = evm::hash_of_answer(&block.block).map_err(malformed)?;
        Ok(Wanted { block, hash })
    }

    async fn ask(&self, wanted: &[&Wanted]) -> Vec<Result<Bytes, SourceError>> {
        let answers = self.of_blocks(wanted).await;
        let present = |(wanted, answer): (&&Wanted, Answer)| {
            self.client.present(wanted.block.number, GET_RECEIPTS, "the receipts", answer)
        };
        wanted.iter().zip(answers).map(present).collect()
    }

    /// By the hash that the block has in its answer: by its number the receipts could be those of
    /// another fork. By the number where the node takes no hash.
    async fn of_blocks(&self, wanted: &[&Wanted]) -> Vec<Answer> {
        let by_number = |wanted: &&Wanted| format!(r#"["{:#x}"]"#, wanted.block.number);
        if self.by_number.load(Ordering::Relaxed) {
            return self.call(wanted.iter().map(by_number)).await;
        }
        let mut answers = self.call(wanted.iter().map(|wanted| format!(r#"["{}"]"#, wanted.hash))).await;
        let takes_no_hash =
            |answer: &Answer| matches!(answer, Err(CallError::Rpc { code: INVALID_PARAMS, .. }));
        let again: Vec<usize> = (0..answers.len()).filter(|place| takes_no_hash(&answers[*place])).collect();
        let answers_again = self.call(again.iter().map(|place| by_number(&wanted[*place]))).await;
        for (place, answer) in again.into_iter().zip(answers_again) {
            let is_there = matches!(&answer, Ok(reply) if !reply.is_null);
            if is_there && !self.by_number.swap(true, Ordering::Relaxed) {
                let provider = self.client.provider();
                tracing::info!(provider, "the node gives receipts by number only, not by hash");
            }
            answers[place] = answer;
        }
        answers
    }

    async fn call(&self, params: impl Iterator<Item = String>) -> Vec<Answer> {
        let calls: Vec<_> = params.map(|params| Call { method: GET_RECEIPTS, params }).collect();
        self.client.call_all(&calls).await
    }
}
