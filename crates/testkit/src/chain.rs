//! A chain worth looking at: fills an [`Anvil`] with blocks in which everything happens.
//!
//! Token transfers, approvals and airdrops, plain transfers, contract creations, failures of every
//! kind, logs with 0 to 4 topics and odd data, transactions of the types 0, 1 and 2, empty blocks,
//! blocks that come late. The same seed on a fresh anvil gives the same hashes, every time.
//!
//! A thousand blocks take about two seconds, two thousand five or six: under Prague's rules each
//! block's hash is kept in the state, and anvil copies and hashes the whole state for every block.

mod contracts;
mod story;

use alloy_primitives::{Address, B256, U256};
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use self::{
    contracts::{Input, deploy_token},
    story::{Block, Cast, Outcome, Story, Transaction, airdrop, call},
};
use crate::{
    anvil::Anvil,
    rpc::{Call, RpcClient, hex_quantity, quantity},
};

pub use self::story::Counts;

/// Wei per unit of gas; more than the base fee ever is here.
const PRICE: u64 = 3_000_000_000;

/// Seconds between most blocks.
const BLOCK_SECONDS: u64 = 12;

/// What each account gets of token A before the story begins; transfers never use it up.
const INITIAL_TOKENS: u64 = 1_000_000_000_000_000_000;

/// Writes a generated chain onto an anvil that mines on request only.
///
/// One JSON-RPC batch makes one block: anvil works on the calls of a batch concurrently and would
/// mix up the transactions of several.
#[derive(Debug)]
pub struct ChainBuilder {
    rpc: RpcClient,
    cast: Cast,
    story: Story,
    /// The last block of the setup: below it there are no contracts to call.
    stage: Head,
    head: Head,
    setup: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    number: u64,
    hash: B256,
    timestamp: u64,
}

impl ChainBuilder {
    /// Sets the stage in two blocks: deploys the contracts, and gives tokens to the accounts.
    pub async fn new(anvil: &Anvil, seed: u64) -> anyhow::Result<Self> {
        Self::with_rpc(anvil.rpc().clone(), seed).await
    }

    /// The same for an anvil that somebody else started, with `--no-mining --order fifo`.
    pub async fn with_rpc(rpc: RpcClient, seed: u64) -> anyhow::Result<Self> {
        let accounts = rpc.call("eth_accounts", json!([])).await?;
        let accounts: Vec<Address> = serde_json::from_value(accounts).context("eth_accounts")?;
        ensure!(!accounts.is_empty(), "the node has no unlocked accounts");
        let mut node = Node::read(&rpc, &accounts).await?;
        let deployment = deployment();
        let hashes = node.make(&deployment).await?;
        let cast = Cast {
            token_a: created(&rpc, &hashes[0]).await?,
            token_b: created(&rpc, &hashes[1]).await?,
            logger: created(&rpc, &hashes[2]).await?,
            accounts: accounts.clone(),
        };
        let gifts = Block { seconds: BLOCK_SECONDS, transactions: vec![airdrop(&cast, INITIAL_TOKENS)] };
        node.make(&gifts).await?;
        let mut setup = deployment.counts();
        setup += gifts.counts();
        let head = node.settle().await?;
        let story = Story::new(seed, cast.clone());
        Ok(Self { rpc, cast, story, stage: head, head, setup })
    }

    /// What the two blocks of the setup hold.
    pub fn setup(&self) -> Counts {
        self.setup
    }

    /// Adds `blocks` blocks to whatever the head is now, and says what they hold.
    ///
    /// The chain may have been reorganised or rolled back in between, but not below the setup; the
    /// first block is then never an empty one, so that its hash is a new one.
    pub async fn extend(&mut self, blocks: u64) -> anyhow::Result<Counts> {
        let mut node = Node::read(&self.rpc, &self.cast.accounts).await?;
        let mut moved = node.head != self.head;
        if moved {
            let stage = head_at(&self.rpc, &hex_quantity(self.stage.number)).await;
            ensure!(stage.ok() == Some(self.stage), "the contracts of the generated chain are gone");
        }
        let mut counts = Counts::default();
        for _ in 0..blocks {
            let block = self.story.next_block(!moved);
            moved = false;
            node.make(&block).await?;
            counts += block.counts();
        }
        self.head = node.settle().await?;
        Ok(counts)
    }
}

/// The first block: two tokens (the second with a name of more than 32 bytes) and the logger.
fn deployment() -> Block {
    let create = |input: Input, logs| Transaction {
        to: None,
        ..call(0, Address::ZERO, input, 3_000_000, Outcome::Creation(logs))
    };
    let supply = U256::from(10).pow(U256::from(30));
    let transactions = vec![
        create(deploy_token("Alpha", "ALP", supply), 1),
        create(deploy_token("Beta token with a name longer than 32 bytes", "BETA", U256::MAX), 1),
        create(Input::deploy("Logger"), 0),
    ];
    Block { seconds: BLOCK_SECONDS, transactions }
}

async fn created(rpc: &RpcClient, transaction: &Value) -> anyhow::Result<Address> {
    let receipt = rpc.call("eth_getTransactionReceipt", json!([transaction])).await?;
    serde_json::from_value(receipt["contractAddress"].clone())
        .with_context(|| format!("no contract was created: {receipt}"))
}

async fn head_at(rpc: &RpcClient, block: &str) -> anyhow::Result<Head> {
    let block = rpc.call("eth_getBlockByNumber", json!([block, false])).await?;
    let hash = serde_json::from_value(block["hash"].clone()).with_context(|| format!("block {block}"))?;
    Ok(Head { number: quantity(&block["number"])?, hash, timestamp: quantity(&block["timestamp"])? })
}

/// The node while blocks are made: where its chain ends and which nonces come next.
struct Node<'a> {
    rpc: &'a RpcClient,
    accounts: &'a [Address],
    head: Head,
    nonces: Vec<u64>,
    chain_id: u64,
}

impl<'a> Node<'a> {
    /// Asks anew: a reorg may have taken transactions back.
    async fn read(rpc: &'a RpcClient, accounts: &'a [Address]) -> anyhow::Result<Self> {
        let nonce = |account: &Address| ("eth_getTransactionCount", json!([account, "latest"]));
        let nonces = rpc.batch(&accounts.iter().map(nonce).collect::<Vec<_>>()).await?;
        let nonces = nonces.iter().map(quantity).collect::<anyhow::Result<_>>()?;
        let chain_id = quantity(&rpc.call("eth_chainId", json!([])).await?)?;
        Ok(Self { rpc, accounts, head: head_at(rpc, "latest").await?, nonces, chain_id })
    }

    /// Makes one block; the hashes of its transactions.
    async fn make(&mut self, block: &Block) -> anyhow::Result<Vec<Value>> {
        let mut calls: Vec<Call<'_>> = Vec::with_capacity(block.transactions.len() + 1);
        for transaction in &block.transactions {
            calls.push(("eth_sendTransaction", json!([self.request(transaction)])));
        }
        self.head.number += 1;
        self.head.timestamp += block.seconds;
        calls.push(("evm_mine", json!([hex_quantity(self.head.timestamp)])));
        let mut answers = self.rpc.batch(&calls).await?;
        answers.pop();
        Ok(answers)
    }

    /// The transaction for `eth_sendTransaction`, with everything given so that anvil need not
    /// estimate.
    fn request(&mut self, transaction: &Transaction) -> Value {
        let from = self.accounts[transaction.sender];
        let nonce = self.nonces[transaction.sender];
        self.nonces[transaction.sender] += 1;
        let mut request = json!({
            "from": from, "nonce": hex_quantity(nonce), "gas": hex_quantity(transaction.gas),
            "value": hex_quantity(transaction.value), "type": hex_quantity(transaction.kind),
            "input": transaction.input.clone().into_hex(), "chainId": hex_quantity(self.chain_id),
        });
        let price = PRICE + transaction.extra_price;
        if let Some(to) = transaction.to {
            request["to"] = json!(to);
        }
        if transaction.kind == 2 {
            request["maxFeePerGas"] = json!(hex_quantity(price));
            request["maxPriorityFeePerGas"] = json!(hex_quantity(transaction.extra_price));
        } else {
            request["gasPrice"] = json!(hex_quantity(price));
        }
        if transaction.kind == 1 {
            let keys = [B256::ZERO, B256::with_last_byte(7)];
            let address = transaction.to.unwrap_or(from);
            request["accessList"] = json!([{ "address": address, "storageKeys": keys }]);
        }
        request
    }

    /// Checks that every transaction was mined and the chain is as long as it should be.
    async fn settle(self) -> anyhow::Result<Head> {
        let pool = self.rpc.call("txpool_status", json!([])).await?;
        ensure!(pool == json!({ "pending": "0x0", "queued": "0x0" }), "transactions were left: {pool}");
        let head = head_at(self.rpc, "latest").await?;
        ensure!(
            (head.number, head.timestamp) == (self.head.number, self.head.timestamp),
            "somebody else mines too: {head:?} instead of {:?}",
            self.head
        );
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::anvil::AnvilOptions;

    async fn chain(seed: u64, blocks: u64) -> (Anvil, ChainBuilder, Counts) {
        let anvil = Anvil::start(AnvilOptions::default()).await.expect("start anvil");
        let mut chain = ChainBuilder::new(&anvil, seed).await.expect("set the stage");
        let counts = chain.extend(blocks).await.expect("extend");
        (anvil, chain, counts)
    }

    #[tokio::test]
    async fn a_seed_gives_the_same_hashes_on_every_anvil() {
        let (one, _, counts) = chain(1, 60).await;
        let (other, mut builder, _) = chain(1, 30).await;
        builder.extend(30).await.expect("extend");
        let (different, ..) = chain(2, 60).await;
        let head = one.head().await.expect("head");
        assert_eq!(head.0, 62);
        assert_eq!(counts.blocks, 60);
        assert_eq!(head, other.head().await.expect("head"));
        assert_ne!(head, different.head().await.expect("head"));
    }

    /// What the chain holds by its own account.
    async fn counted(rpc: &RpcClient, last: u64) -> (Counts, Vec<Value>, Vec<Value>) {
        let mut counts = Counts { blocks: last, ..Counts::default() };
        let (mut transactions, mut logs) = (Vec::new(), Vec::new());
        for number in 1..=last {
            let number = hex_quantity(number);
            let calls =
                [("eth_getBlockByNumber", json!([number, true])), ("eth_getBlockReceipts", json!([number]))];
            let answers = rpc.batch(&calls).await.expect("a block");
            let receipts = answers[1].as_array().expect("receipts");
            transactions.extend(answers[0]["transactions"].as_array().expect("transactions").clone());
            counts.empty_blocks += u64::from(receipts.is_empty());
            for receipt in receipts {
                counts.failed += u64::from(receipt["status"] == "0x0");
                counts.creations += u64::from(!receipt["contractAddress"].is_null());
                logs.extend(receipt["logs"].as_array().expect("logs").clone());
            }
        }
        counts.transactions = transactions.len() as u64;
        counts.logs = logs.len() as u64;
        (counts, transactions, logs)
    }

    #[tokio::test]
    async fn the_chain_holds_what_the_builder_says_and_something_of_everything() {
        let (anvil, chain, mut expected) = chain(1, 150).await;
        expected += chain.setup();
        let (counts, transactions, logs) = counted(anvil.rpc(), 152).await;
        assert_eq!(counts, expected);
        assert!(counts.failed > 10 && counts.creations > 5 && counts.empty_blocks > 3, "{counts:?}");
        let types: BTreeSet<&str> = transactions.iter().filter_map(|t| t["type"].as_str()).collect();
        assert_eq!(types.into_iter().collect::<Vec<_>>(), ["0x0", "0x1", "0x2"]);
        let topics: BTreeSet<usize> =
            logs.iter().filter_map(|l| Some(l["topics"].as_array()?.len())).collect();
        assert_eq!(topics.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let data: BTreeSet<usize> = logs.iter().filter_map(|l| Some(l["data"].as_str()?.len())).collect();
        assert!(data.contains(&2) && data.contains(&(2 + 2 * 33)), "{data:?}");
    }

    #[tokio::test]
    async fn a_chain_goes_on_after_a_reorg_and_after_a_rollback() {
        let (anvil, mut chain, _) = chain(4, 40).await;
        let before = anvil.block_hash(38).await.expect("a hash");
        anvil.reorg(5).await.expect("reorg");
        assert_eq!(chain.extend(3).await.expect("extend").blocks, 3);
        assert_eq!(anvil.head().await.expect("head").0, 45);
        let reorganised = anvil.block_hash(38).await.expect("a hash");
        assert_ne!(reorganised, before);
        anvil.rollback(10).await.expect("rollback");
        let counts = chain.extend(12).await.expect("extend");
        assert_eq!(anvil.head().await.expect("head").0, 47);
        assert!(counts.transactions > 12);
        assert_ne!(anvil.block_hash(38).await.expect("a hash"), reorganised);
    }

    #[tokio::test]
    async fn a_chain_without_its_contracts_is_not_extended() {
        let (anvil, mut chain, _) = chain(4, 1).await;
        anvil.rollback(2).await.expect("rollback");
        let error = chain.extend(1).await.expect_err("no contracts");
        assert!(error.to_string().contains("contracts"), "{error}");
    }
}
