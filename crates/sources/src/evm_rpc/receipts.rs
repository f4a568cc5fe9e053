//! The receipts of blocks, in the way that the node gives them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};
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

const OF_BLOCK: &str = "eth_getBlockReceipts";
const OF_TRANSACTION: &str = "eth_getTransactionReceipt";
/// So often in a row HTTP has to say that there is no such method before it is believed.
const NOT_FOUND_TIMES: u32 = 3;

/// By what receipts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiptsFrom {
    /// The hash that the block has in its answer: by its number the receipts could be those of another
    /// fork.
    Hash,
    /// The block's number, for nodes that take no hash.
    Number,
    /// The hashes of the transactions, for nodes that do not have those of a block.
    Transactions,
}

type Answer = Result<Reply, CallError>;

/// Asks for the receipts of blocks, and learns how.
#[derive(Debug)]
pub(crate) struct Receipts {
    client: Arc<Client>,
    from: Mutex<ReceiptsFrom>,
    /// How often in a row HTTP, and not the node, has said that there is no such method.
    not_found: AtomicU32,
}

/// A block that needs its receipts.
struct Wanted {
    block: RawBlock,
    hash: BlockHash,
}

impl Receipts {
    /// Asks in the given way until the node shows that it needs another.
    pub fn new(client: Arc<Client>, from: ReceiptsFrom) -> Self {
        Self { client, from: Mutex::new(from), not_found: AtomicU32::new(0) }
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
        let hash = evm::hash_of_answer(&block.block).map_err(|problem| self.malformed(problem, &block))?;
        Ok(Wanted { block, hash })
    }

    fn malformed(&self, problem: evm::Problem, block: &RawBlock) -> SourceError {
        problem.of_block(self.client.provider(), block.number)
    }

    async fn ask(&self, wanted: &[&Wanted]) -> Vec<Result<Bytes, SourceError>> {
        let from = *self.from.lock().unwrap_or_else(PoisonError::into_inner);
        if from == ReceiptsFrom::Transactions {
            return self.of_transactions(wanted).await;
        }
        let mut answers = self.of_blocks(wanted, from).await;
        if from == ReceiptsFrom::Hash {
            self.ask_again_by_number(wanted, &mut answers).await;
        }
        let lacks = |answer: &Answer| matches!(answer, Err(error) if error.is_unknown_method(OF_BLOCK));
        let is_certain = self.is_certain(&answers);
        let places: Vec<usize> = (0..answers.len()).filter(|place| lacks(&answers[*place])).collect();
        let present = |(wanted, answer): (&&Wanted, Answer)| self.present(wanted, OF_BLOCK, answer);
        let mut receipts: Vec<_> = wanted.iter().zip(answers).map(present).collect();
        let again: Vec<&Wanted> = places.iter().map(|place| wanted[*place]).collect();
        for (place, answer) in places.into_iter().zip(self.of_transactions(&again).await) {
            match answer {
                Ok(answer) => {
                    if is_certain {
                        self.learn(ReceiptsFrom::Transactions);
                    }
                    receipts[place] = Ok(answer);
                }
                // A node that has neither is told of the one that is missed.
                Err(SourceError::Refused { .. }) => {}
                Err(error) => receipts[place] = Err(error),
            }
        }
        receipts
    }

    /// Whether an unknown method is worth to be remembered. A page that is not found may be that of a proxy
    /// before the node, for a moment.
    fn is_certain(&self, answers: &[Answer]) -> bool {
        if answers.iter().any(|answer| matches!(answer, Err(CallError::Unfit { .. }))) {
            return self.not_found.fetch_add(1, Ordering::Relaxed) + 1 >= NOT_FOUND_TIMES;
        }
        self.not_found.store(0, Ordering::Relaxed);
        true
    }

    async fn ask_again_by_number(&self, wanted: &[&Wanted], answers: &mut [Answer]) {
        let takes_no_hash =
            |answer: &Answer| matches!(answer, Err(CallError::Rpc { code: INVALID_PARAMS, .. }));
        let places: Vec<usize> = (0..answers.len()).filter(|place| takes_no_hash(&answers[*place])).collect();
        let again: Vec<&Wanted> = places.iter().map(|place| wanted[*place]).collect();
        let by_number = self.of_blocks(&again, ReceiptsFrom::Number).await;
        for (place, answer) in places.into_iter().zip(by_number) {
            if matches!(&answer, Ok(reply) if !reply.is_null) {
                self.learn(ReceiptsFrom::Number);
            }
            answers[place] = answer;
        }
    }

    /// Remembers how to ask from now on, and says it once.
    fn learn(&self, way: ReceiptsFrom) {
        let before = std::mem::replace(&mut *self.from.lock().unwrap_or_else(PoisonError::into_inner), way);
        if before != way {
            let provider = self.client.provider();
            match way {
                ReceiptsFrom::Hash => {}
                ReceiptsFrom::Number => {
                    tracing::info!(provider, "the node gives receipts by number only, not by hash");
                }
                ReceiptsFrom::Transactions => tracing::warn!(
                    provider,
                    "the node does not have `{OF_BLOCK}`: receipts are asked for one by one, which is slower"
                ),
            }
        }
    }

    async fn of_blocks(&self, wanted: &[&Wanted], from: ReceiptsFrom) -> Vec<Answer> {
        let call = |wanted: &&Wanted| Call {
            method: OF_BLOCK,
            params: match from {
                ReceiptsFrom::Number => format!(r#"["{:#x}"]"#, wanted.block.number),
                _ => format!(r#"["{}"]"#, wanted.hash),
            },
        };
        let calls: Vec<_> = wanted.iter().map(call).collect();
        self.client.call_all(&calls).await
    }

    /// As the node would give them for the whole block, from those of its transactions.
    async fn of_transactions(&self, wanted: &[&Wanted]) -> Vec<Result<Bytes, SourceError>> {
        let hashes: Vec<_> = wanted
            .iter()
            .map(|wanted| {
                let hashes = evm::transactions_of_answer(&wanted.block.block);
                hashes.map_err(|problem| self.malformed(problem, &wanted.block))
            })
            .collect();
        let call = |hash| Call { method: OF_TRANSACTION, params: format!(r#"["{hash}"]"#) };
        let calls: Vec<_> = hashes.iter().flatten().flatten().map(call).collect();
        let mut answers = self.client.call_all(&calls).await.into_iter();
        let mut receipts = |(wanted, hashes): (&&Wanted, Result<Vec<_>, SourceError>)| {
            // All are taken, so that the next block begins with its own.
            let of_block: Vec<_> = answers.by_ref().take(hashes.as_ref().map_or(0, Vec::len)).collect();
            hashes?;
            let present = |answer| self.present(wanted, OF_TRANSACTION, answer);
            let of_block: Vec<_> = of_block.into_iter().map(present).collect::<Result<_, _>>()?;
            joined(&of_block)
                .ok_or_else(|| self.client.unavailable("a receipt is not JSON to its end".into()))
        };
        wanted.iter().zip(hashes).map(&mut receipts).collect()
    }

    fn present(&self, wanted: &Wanted, method: &str, answer: Answer) -> Result<Bytes, SourceError> {
        self.client.present(wanted.block.number, method, "the receipts", answer)
    }
}

/// The answer that has the results of several ones as a list; `None` where one has no result.
fn joined(answers: &[Bytes]) -> Option<Bytes> {
    let mut list = BytesMut::with_capacity(16 + answers.iter().map(Bytes::len).sum::<usize>());
    list.put_slice(br#"{"result":["#);
    for (place, answer) in answers.iter().enumerate() {
        if place > 0 {
            list.put_u8(b',');
        }
        list.put_slice(sonic_rs::get(&answer[..], ["result"]).ok()?.as_raw_str().as_bytes());
    }
    list.put_slice(b"]}");
    Some(list.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_answers_become_a_list() {
        let answers = [r#"{"id":1,"result":{"a":[1]}}"#, r#"{"result": {"b":"]"} ,"id":2}"#];
        let answers = answers.map(|answer| Bytes::from_static(answer.as_bytes()));
        assert_eq!(joined(&answers).expect("a list"), r#"{"result":[{"a":[1]},{"b":"]"}]}"#);
        assert_eq!(joined(&[]).expect("a list"), r#"{"result":[]}"#);
        assert_eq!(joined(&[Bytes::from_static(br#"{"id":1}"#)]), None);
    }
}
