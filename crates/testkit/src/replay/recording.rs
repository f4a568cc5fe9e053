//! Blocks with their receipts, as the JSON that a node answers.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead, BufReader, BufWriter, Read, Write},
    ops::RangeInclusive,
    path::Path,
    sync::OnceLock,
};

use alloy_primitives::{B256, U64};
use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{generated::Generated, light::lighten, logs::logs_of};
use crate::{
    parallel::in_parallel,
    rpc::{Call, RpcClient, hex_quantity},
};

/// Blocks that are asked for at once when a chain is recorded.
const CAPTURE_BATCH: u64 = 20;

/// A recorded or generated chain, or parts of one. Never empty.
#[derive(Debug)]
pub struct Recording {
    chain_id: u64,
    first: u64,
    last: u64,
    blocks: Blocks,
    /// For each transaction its block and its receipt; made when somebody asks.
    by_transaction: OnceLock<HashMap<B256, (u64, Bytes)>>,
}

#[derive(Debug)]
enum Blocks {
    Stored { by_number: BTreeMap<u64, StoredBlock>, by_hash: HashMap<B256, u64> },
    Generated(Generated),
}

#[derive(Debug)]
struct StoredBlock {
    /// With whole transactions.
    full: Bytes,
    /// With the hashes of the transactions; made when somebody asks.
    light: OnceLock<Bytes>,
    receipts: Option<Bytes>,
    /// The logs in the receipts; made when somebody asks, `None` where these are no receipts.
    logs: OnceLock<Option<Bytes>>,
}

/// One line of a recorded file.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    block: &'a RawValue,
    #[serde(borrow, default)]
    receipts: Option<&'a RawValue>,
}

/// What has to be known of a block to serve it.
#[derive(Deserialize)]
struct Named {
    number: U64,
    hash: B256,
    transactions: Vec<NamedTransaction>,
}

#[derive(Deserialize)]
struct NamedTransaction {
    #[serde(default, rename = "chainId")]
    chain_id: Option<U64>,
}

/// A chain while it is put together.
#[derive(Default)]
struct Builder {
    chain_id: Option<u64>,
    by_number: BTreeMap<u64, StoredBlock>,
    by_hash: HashMap<B256, u64>,
}

impl Builder {
    fn add(&mut self, block: &str, receipts: Option<&str>) -> anyhow::Result<()> {
        let named: Named = serde_json::from_str(block).context("a block with whole transactions")?;
        let number = named.number.to::<u64>();
        let stored = StoredBlock {
            full: Bytes::copy_from_slice(block.as_bytes()),
            light: OnceLock::new(),
            receipts: receipts.map(|text| Bytes::copy_from_slice(text.as_bytes())),
            logs: OnceLock::new(),
        };
        self.chain_id =
            self.chain_id.or(named.transactions.iter().find_map(|t| t.chain_id).map(|id| id.to()));
        self.by_hash.insert(named.hash, number);
        ensure!(self.by_number.insert(number, stored).is_none(), "block {number} is there twice");
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Recording> {
        let ends = self.by_number.first_key_value().zip(self.by_number.last_key_value());
        let (first, last) = ends.map(|(first, last)| (*first.0, *last.0)).context("no blocks")?;
        let blocks = Blocks::Stored { by_number: self.by_number, by_hash: self.by_hash };
        Ok(Recording::of(self.chain_id.unwrap_or(1), first..=last, blocks))
    }
}

impl Recording {
    /// Reads lines of `{"block":…,"receipts":[…]}`, the blocks with whole transactions; receipts
    /// may be absent. The text of each is kept as it is. Numbers may be missing in between.
    pub fn from_jsonl(reader: impl Read) -> anyhow::Result<Self> {
        let mut builder = Builder::default();
        for (index, line) in BufReader::new(reader).lines().enumerate() {
            let line = line.with_context(|| format!("read line {}", index + 1))?;
            if !line.trim().is_empty() {
                add_line(&mut builder, &line).with_context(|| format!("line {}", index + 1))?;
            }
        }
        builder.finish()
    }

    /// [`Recording::from_jsonl`] of a file, decompressed if its name ends with `.zst`.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let recording = if is_compressed(path) {
            zstd::Decoder::new(file).map_err(Into::into).and_then(Self::from_jsonl)
        } else {
            Self::from_jsonl(file)
        };
        recording.with_context(|| format!("read {}", path.display()))
    }

    /// Asks a node for the blocks of `range` and their receipts. The chain must not change
    /// meanwhile; that each block names the one before as its parent is checked.
    pub async fn capture(rpc: &RpcClient, range: RangeInclusive<u64>) -> anyhow::Result<Self> {
        let mut builder = Builder::default();
        let mut parent: Option<B256> = None;
        let mut next = *range.start();
        while range.contains(&next) {
            let end = next.saturating_add(CAPTURE_BATCH - 1).min(*range.end());
            let answers = rpc.batch_raw(&calls_for(next..=end)).await?;
            for (number, pair) in (next..).zip(answers.chunks_exact(2)) {
                let links: Links = serde_json::from_str(pair[0].get())
                    .with_context(|| format!("the node has no block {number}"))?;
                ensure!(
                    parent.is_none_or(|parent| parent == links.parent_hash),
                    "block {number} does not follow the one before it"
                );
                parent = Some(links.hash);
                builder.add(pair[0].get(), Some(pair[1].get()))?;
            }
            next = end + 1;
        }
        builder.finish()
    }

    /// A generated chain of `blocks` blocks (at least one) from block 0, which has no transactions;
    /// all others have `txs_per_block`, each with `logs_per_tx` logs.
    ///
    /// Headers hash to the block's hash and are linked; hashes, indices and cumulative gas of
    /// transactions, receipts and logs agree. The roots in the header are arbitrary and the blooms
    /// empty: only the header itself can be verified. 32 bytes a block are kept; the JSON is made
    /// when it is asked for, see [`Recording::preload`].
    pub fn synthetic(blocks: u64, txs_per_block: u64, logs_per_tx: u64, seed: u64) -> Self {
        Self::generated(Generated::synthetic(blocks.max(1), txs_per_block, logs_per_tx, seed))
    }

    /// A generated chain of `blocks` blocks (at least one) from block 0, which has no transactions;
    /// the others are like those of the Ethereum mainnet under Prague: about 168 transactions of all
    /// types, 319 logs and 590 KB of JSON each, with busy and idle senders and contracts.
    ///
    /// Hashes, signatures, senders, blooms and roots are right, but for the state's: whoever
    /// recomputes them finds what is said. The chain id is 1. Equal seeds give equal chains. Made on
    /// all cores; some 500 bytes a block are kept, the JSON is made when it is asked for, see
    /// [`Recording::preload`].
    pub fn mainnet_like(blocks: u64, seed: u64) -> Self {
        Self::generated(Generated::mainnet_like(blocks.max(1), seed))
    }

    /// [`Recording::mainnet_like`] with few transactions: up to `most_txs_per_block`, evenly, all else
    /// as there.
    pub fn small_mainnet_like(blocks: u64, most_txs_per_block: u64, seed: u64) -> Self {
        Self::generated(Generated::small_mainnet_like(blocks.max(1), most_txs_per_block, seed))
    }

    fn generated(chain: Generated) -> Self {
        Self::of(1, 0..=chain.len() - 1, Blocks::Generated(chain))
    }

    fn of(chain_id: u64, range: RangeInclusive<u64>, blocks: Blocks) -> Self {
        let (first, last) = range.into_inner();
        Self { chain_id, first, last, blocks, by_transaction: OnceLock::new() }
    }

    /// Makes all JSON of a generated chain now, on all cores, and keeps it in memory, see
    /// [`Recording::stored_bytes`]: of a synthetic one about 2 KB a block and, with two logs, 3 KB a
    /// transaction, of a mainnet-like one 590 KB a block. Does nothing to a recorded one.
    pub fn preload(self) -> anyhow::Result<Self> {
        let Blocks::Generated(chain) = &self.blocks else { return Ok(self) };
        let stored = in_parallel(chain.len(), |number| {
            let (full, receipts) = chain.block_and_receipts_json(number);
            StoredBlock { full, light: OnceLock::new(), receipts: Some(receipts), logs: OnceLock::new() }
        });
        let by_hash = (0..chain.len()).map(|number| (chain.hash(number), number)).collect();
        let blocks = Blocks::Stored { by_number: (0..).zip(stored).collect(), by_hash };
        Ok(Self { blocks, ..self })
    }

    /// How many blocks there are.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        match &self.blocks {
            Blocks::Stored { by_number, .. } => by_number.len(),
            Blocks::Generated(chain) => chain.len() as usize,
        }
    }

    /// The bytes of JSON that are kept in memory.
    pub fn stored_bytes(&self) -> usize {
        let Blocks::Stored { by_number, .. } = &self.blocks else { return 0 };
        by_number.values().map(|block| block.full.len() + block.receipts.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// Writes what [`Recording::from_jsonl`] reads.
    pub fn write_jsonl(&self, mut writer: impl Write) -> anyhow::Result<()> {
        for number in self.first..=self.last {
            let Some(block) = self.block(number, true) else { continue };
            writer.write_all(b"{\"block\":")?;
            writer.write_all(&block)?;
            if let Some(receipts) = self.receipts(number) {
                writer.write_all(b",\"receipts\":")?;
                writer.write_all(&receipts)?;
            }
            writer.write_all(b"}\n")?;
        }
        writer.flush().context("write the recording")
    }

    /// [`Recording::write_jsonl`] into a file, compressed if its name ends with `.zst`.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        if is_compressed(path) {
            let mut encoder = zstd::Encoder::new(file, 19)?;
            self.write_jsonl(&mut encoder)?;
            encoder.finish()?;
            return Ok(());
        }
        self.write_jsonl(BufWriter::new(file))
    }

    /// The chain id: that of the first transaction that names one, else 1.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The number of the first block.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the last block.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the block with this hash.
    pub fn number_of(&self, hash: B256) -> Option<u64> {
        match &self.blocks {
            Blocks::Stored { by_hash, .. } => by_hash.get(&hash).copied(),
            Blocks::Generated(chain) => chain.number_of(hash),
        }
    }

    /// The JSON of a block, with whole transactions or with their hashes only.
    pub fn block(&self, number: u64, full: bool) -> Option<Bytes> {
        match &self.blocks {
            Blocks::Stored { by_number, .. } => {
                let block = by_number.get(&number)?;
                Some(
                    if full { &block.full } else { block.light.get_or_init(|| lighten(&block.full)) }.clone(),
                )
            }
            Blocks::Generated(chain) => chain.has(number).then(|| chain.block_json(number, full)),
        }
    }

    /// The JSON of a block's receipts; `None` where there is no such block or it was recorded
    /// without them.
    pub fn receipts(&self, number: u64) -> Option<Bytes> {
        match &self.blocks {
            Blocks::Stored { by_number, .. } => by_number.get(&number)?.receipts.clone(),
            Blocks::Generated(chain) => chain.has(number).then(|| chain.receipts_json(number)),
        }
    }

    /// The JSON of a block's logs, a list; `None` where [`Recording::receipts`] has none.
    pub fn logs(&self, number: u64) -> Option<Bytes> {
        match &self.blocks {
            Blocks::Stored { by_number, .. } => {
                let block = by_number.get(&number)?;
                block.logs.get_or_init(|| logs_of(block.receipts.as_ref()?)).clone()
            }
            Blocks::Generated(_) => logs_of(&self.receipts(number)?),
        }
    }

    /// The number of a transaction's block and the JSON of its receipt. From the first call on, all
    /// receipts are kept in memory.
    pub fn receipt_of(&self, transaction: B256) -> Option<(u64, Bytes)> {
        let by_transaction = self.by_transaction.get_or_init(|| {
            let receipts = |number| Some((number, self.receipts(number)?));
            let named = (self.first..=self.last).filter_map(receipts);
            named.flat_map(|(number, all)| each_receipt(number, &all)).collect()
        });
        by_transaction.get(&transaction).cloned()
    }
}

/// The receipts in the JSON of a block's, by their transactions; nothing where these are no receipts.
fn each_receipt(number: u64, receipts: &Bytes) -> Vec<(B256, (u64, Bytes))> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Receipt {
        transaction_hash: B256,
    }
    let texts = serde_json::from_slice::<Vec<&RawValue>>(receipts).unwrap_or_default();
    let named = texts.into_iter().filter_map(|text| {
        let Receipt { transaction_hash } = serde_json::from_str(text.get()).ok()?;
        Some((transaction_hash, (number, receipts.slice_ref(text.get().as_bytes()))))
    });
    named.collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Links {
    hash: B256,
    parent_hash: B256,
}

fn add_line(builder: &mut Builder, line: &str) -> anyhow::Result<()> {
    let line: Line<'_> = serde_json::from_str(line)?;
    builder.add(line.block.get(), line.receipts.map(RawValue::get))
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

fn calls_for(range: RangeInclusive<u64>) -> Vec<Call<'static>> {
    let calls = range.map(hex_quantity).flat_map(|number| {
        [("eth_getBlockByNumber", json!([number, true])), ("eth_getBlockReceipts", json!([number]))]
    });
    calls.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn hash(byte: u8) -> B256 {
        B256::repeat_byte(byte)
    }

    fn line(number: u64, chain_id: &str) -> String {
        let transactions = format!(r#"[{{"hash":"{}"{chain_id}, "nonce":"0x0"}}]"#, hash(0xaa));
        let block = format!(
            r#"{{"number":"{number:#x}", "hash":"{}","transactions": {transactions} ,"odd":[1.50]}}"#,
            hash(number as u8)
        );
        format!(r#"{{"block":{block},"receipts":[ {{"x":1}} ]}}"#)
    }

    #[test]
    fn lines_are_served_as_the_text_that_they_are() {
        let text = format!("{}\n\n{}\n", line(5, ""), line(7, r#","chainId":"0x5""#));
        let recording = Recording::from_jsonl(text.as_bytes()).expect("a recording");
        assert_eq!((recording.first(), recording.last(), recording.chain_id()), (5, 7, 5));
        assert_eq!(recording.number_of(hash(7)), Some(7));
        assert_eq!(recording.number_of(hash(6)), None);
        assert_eq!(recording.block(6, true), None);
        let block = recording.block(5, true).expect("block 5");
        assert!(line(5, "").contains(std::str::from_utf8(&block).expect("text")));
        assert_eq!(recording.receipts(5).expect("receipts"), r#"[ {"x":1} ]"#);
        let light = recording.block(5, false).expect("block 5");
        let expected = format!(
            r#"{{"number":"0x5", "hash":"{}","transactions": ["{}"] ,"odd":[1.50]}}"#,
            hash(5),
            hash(0xaa)
        );
        assert_eq!(light, expected);
        let mut written = Vec::new();
        recording.write_jsonl(&mut written).expect("write");
        assert_eq!(String::from_utf8(written).expect("text"), text.replace("\n\n", "\n"));
    }

    #[test]
    fn what_is_no_chain_is_refused_with_its_line() {
        for (text, reason) in [
            (String::new(), "no blocks"),
            (format!("{}\nnonsense", line(5, "")), "line 2"),
            (format!("{}\n{}", line(5, ""), line(5, "")), "line 2"),
            (r#"{"block":{"number":"0x1"}}"#.to_owned(), "line 1"),
        ] {
            let error = Recording::from_jsonl(text.as_bytes()).expect_err("refused");
            assert!(format!("{error:#}").contains(reason), "{error:#}");
        }
    }

    #[test]
    fn the_demo_chain_is_small_linked_and_survives_being_saved() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo-chain.jsonl.zst");
        assert!(path.metadata().expect("the asset").len() <= 300 * 1024);
        let demo = Recording::load(&path).expect("the asset");
        assert_eq!((demo.first(), demo.chain_id()), (0, 31337));
        assert!(demo.last() >= 300);
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("copy.jsonl.zst");
        demo.save(&copy).expect("save");
        let copy = Recording::load(&copy).expect("load");
        let mut parent = Value::from(B256::ZERO.to_string());
        for number in 0..=demo.last() {
            let block = demo.block(number, true).expect("a block");
            assert_eq!(copy.block(number, true).as_ref(), Some(&block));
            assert_eq!(copy.receipts(number), demo.receipts(number));
            let block: Value = serde_json::from_slice(&block).expect("JSON");
            assert_eq!(block["parentHash"], parent);
            parent = block["hash"].clone();
        }
    }
}
