//! What the levels `full` and `senders` recompute: everything that the header commits to, and what
//! follows from that.
//!
//! ```text
//!  transactions ─► encodings ─┬► hash of each ─► compared with `hash`
//!                             └► trie root ────► compared with `transactionsRoot`
//!  receipts, logs ─► blooms ─► encodings ─► trie root ─► compared with `receiptsRoot`
//! ```
//!
//! A block with a transaction of a type that is not known here has roots that cannot be recomputed,
//! and belongs to a chain that has rules of its own: of it the hashes of the known transactions, the
//! senders and the blooms are checked.

use alloy_primitives::{Address, B256, Keccak256, keccak256};

use super::{
    bloom::{Bloom, BloomBits},
    derived,
    encode::{self, Kind},
    hex::{self, Bad, required},
    json::{Block, Receipt, Tx, TxSlot},
    keccak::keccak256_each,
    rlp::{self, BadField, Items, Rlp},
    rows::Problem,
    senders::{self, Signature},
    transactions::{eip155_chain_id, tx_type, y_parity},
    trie::{EMPTY_ROOT, ordered_root},
    verify::ADVICE,
};

/// A block with what belongs to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    /// The header.
    pub block: &'a Block<'a>,
    /// The transactions, in order.
    pub transactions: &'a [TxSlot<'a>],
    /// As many receipts, where they were asked for.
    pub receipts: Option<&'a [Receipt<'a>]>,
}

/// Recomputes one block after the other, in the same buffers.
#[derive(Debug, Default)]
pub(crate) struct Recompute {
    with_senders: bool,
    /// The type of each transaction; none where it is not known here.
    kinds: Vec<Option<Kind>>,
    items: Items,
    fields: Rlp,
    signature: Rlp,
    logs: Rlp,
    bloom_bits: BloomBits,
}

/// What is said where a transaction lacks a fee that all of its type have: none is stored of such blocks.
const NO_FEES: &str =
    ", as in Firehose's blocks of the detail level BASE; they can be checked with --verify header";

/// What is wrong with a part of a block; the name of the part is put in front.
type Wrong = String;

impl Recompute {
    /// Nothing is recomputed yet.
    pub fn new(with_senders: bool) -> Self {
        Self { with_senders, ..Self::default() }
    }

    /// Checks a block whose header, counts and indices were checked before. Gives the first type of
    /// a transaction that is not known here.
    pub fn check(&mut self, body: &Body<'_>) -> Result<Option<i32>, Problem> {
        let unknown = self.transactions(body).map_err(Problem::Malformed)?;
        if unknown.is_none() {
            let root = ordered_root(&self.items);
            same_root("transactions", "transactionsRoot", body.block.transactions_root, root)?;
        }
        if let Some(receipts) = body.receipts {
            self.receipts(body, receipts, unknown.is_some())?;
        }
        self.withdrawals(body.block, unknown.is_some())?;
        Ok(unknown)
    }

    /// Encodes the transactions and checks each for itself. Gives the first type that is not known.
    fn transactions(&mut self, body: &Body<'_>) -> Result<Option<i32>, Wrong> {
        self.kinds.clear();
        self.items.clear();
        let mut unknown = None;
        for (index, TxSlot(tx)) in body.transactions.iter().enumerate() {
            let wrong = |why: Wrong| format!("of transaction {index} {why}");
            let number = tx_type(tx).map_err(|bad| wrong(bad_field(("type", bad))))?;
            let kind = Kind::of(number);
            self.kinds.push(kind);
            match kind {
                Some(kind) => self.transaction(tx, kind).map_err(wrong)?,
                None => {
                    self.is_of_no_known_type(tx, number).map_err(wrong)?;
                    unknown = unknown.or(Some(number));
                }
            }
        }
        self.hashes(body)?;
        if self.with_senders {
            self.senders(body)?;
        }
        if unknown.is_none() {
            derived::transactions(body, &self.kinds)?;
        }
        Ok(unknown)
    }

    /// The transactions of the types that are known here, with their places and types.
    fn known<'a>(&self, body: &Body<'a>) -> impl Iterator<Item = (usize, &'a Tx<'a>, Kind)> {
        let kinds = self.kinds.iter().enumerate();
        let known = body.transactions.iter().zip(kinds);
        known.filter_map(|(TxSlot(tx), (index, kind))| Some((index, tx, (*kind)?)))
    }

    /// Compares the hashes of the encoded transactions.
    fn hashes(&self, body: &Body<'_>) -> Result<(), Wrong> {
        for ((index, tx, _), computed) in self.known(body).zip(keccak256_each(self.items.iter())) {
            let wrong = |why: Wrong| format!("of transaction {index} {why}");
            let hash = rlp::hash("hash", tx.hash).map_err(|field| wrong(bad_field(field)))?;
            if computed != hash {
                return Err(wrong(format!("the content hashes to {computed}, not to its hash {hash}")));
            }
        }
        Ok(())
    }

    /// Compares the senders of the transactions, whose hashes were compared before.
    fn senders(&mut self, body: &Body<'_>) -> Result<(), Wrong> {
        let known: Vec<_> = self.known(body).collect();
        for (index, tx, kind) in known {
            self.sender(tx, kind).map_err(|why| format!("of transaction {index} {why}"))?;
        }
        Ok(())
    }

    fn transaction(&mut self, tx: &Tx<'_>, kind: Kind) -> Result<(), Wrong> {
        self.parts(tx, kind).map_err(|field| {
            let advice = if field == ("maxPriorityFeePerGas", Bad::Missing) { NO_FEES } else { "" };
            format!("{}{advice}", bad_field(field))
        })?;
        let Self { items, fields, signature, .. } = self;
        items.add(|rlp| whole(kind, fields, signature, rlp));
        Ok(())
    }

    /// Encodes what is signed, and the signature.
    fn parts(&mut self, tx: &Tx<'_>, kind: Kind) -> Result<(), BadField> {
        self.fields.clear();
        encode::unsigned_fields(tx, kind, &mut self.fields)?;
        self.signature.clear();
        encode::signature(tx, kind, &mut self.signature)
    }

    /// A type that is not known turns off what is checked of its block. So one that is only damaged on a
    /// transaction of a known type is found out: the content hashes to the hash as that type.
    fn is_of_no_known_type(&mut self, tx: &Tx<'_>, number: i32) -> Result<(), Wrong> {
        let Ok(hash) = rlp::hash("hash", tx.hash) else { return Ok(()) };
        for kind in Kind::ALL {
            let mut encoded = Rlp::default();
            if self.parts(tx, kind).is_ok() {
                whole(kind, &self.fields, &self.signature, &mut encoded);
            }
            if keccak256(encoded.bytes()) == hash {
                return Err(format!("the `type` is {number}, but its hash is that of type {}", kind as u8));
            }
        }
        Ok(())
    }

    /// Recovers who signed the transaction.
    fn sender(&mut self, tx: &Tx<'_>, kind: Kind) -> Result<(), Wrong> {
        let Self { fields, signature, .. } = self;
        fields.clear();
        encode::unsigned_fields(tx, kind, fields).map_err(bad_field)?;
        signature.clear();
        let chain_id = if kind == Kind::Legacy { tx.v.and_then(eip155_chain_id) } else { None };
        if let Some(chain_id) = chain_id {
            // EIP-155: the chain id and two zeros are signed too.
            [chain_id, 0, 0].into_iter().for_each(|number| signature.number(number));
        }
        let payload_length = fields.bytes().len() + signature.bytes().len();
        let mut prefix = Rlp::default();
        kind.put(&mut prefix);
        prefix.list_header(payload_length);
        let mut hasher = Keccak256::new();
        [&prefix, fields, signature].into_iter().for_each(|part| hasher.update(part.bytes()));
        let from = required(tx.from).and_then(hex::fixed::<20>).map_err(|bad| bad_field(("from", bad)))?;
        match recover(tx, hasher.finalize()).map_err(bad_field)? {
            Some(sender) if sender == from => Ok(()),
            Some(sender) => Err(format!("the signature is that of {sender}, not of `from`")),
            None => Err("the signature is nobody's".into()),
        }
    }

    /// Encodes the receipts, and checks them and the blooms.
    fn receipts(
        &mut self,
        body: &Body<'_>,
        receipts: &[Receipt<'_>],
        is_foreign: bool,
    ) -> Result<(), Problem> {
        self.items.clear();
        let mut block_bloom = Bloom::EMPTY;
        for (index, receipt) in receipts.iter().enumerate() {
            let wrong = |why: Wrong| Problem::Malformed(format!("of receipt {index} {why}"));
            let bloom = self.logs_of(receipt).map_err(|field| wrong(bad_field(field)))?;
            block_bloom.add(&bloom);
            same_bloom(receipt.logs_bloom, &bloom).map_err(wrong)?;
            let Some(kind) = self.kinds[index] else { continue };
            if !is_foreign {
                let encode = |rlp: &mut Rlp| encode::receipt(receipt, kind, &bloom, &self.logs, rlp);
                self.items.push(encode).map_err(|field| wrong(bad_field(field)))?;
            }
        }
        same_bloom(body.block.logs_bloom, &block_bloom).map_err(Problem::Malformed)?;
        if is_foreign {
            return Ok(());
        }
        same_root("receipts", "receiptsRoot", body.block.receipts_root, ordered_root(&self.items))?;
        derived::receipts(body, receipts, &self.kinds).map_err(Problem::Malformed)
    }

    /// Encodes the logs of a receipt, and gives their bloom.
    fn logs_of(&mut self, receipt: &Receipt<'_>) -> Result<Bloom, BadField> {
        let Self { logs, bloom_bits, .. } = self;
        let given = receipt.logs.as_deref().ok_or(("logs", Bad::Missing))?;
        let mut bloom = Bloom::EMPTY;
        logs.clear();
        logs.list(|rlp| {
            given.iter().try_for_each(|log| {
                bloom_bits.accrue(&encode::log(log, rlp)?, &mut bloom);
                Ok(())
            })
        })?;
        Ok(bloom)
    }

    /// A list that is left out is not looked at: what that means is for the caller to say.
    fn withdrawals(&mut self, block: &Block<'_>, is_foreign: bool) -> Result<(), Problem> {
        let Some(withdrawals) = block.withdrawals.as_deref() else { return Ok(()) };
        // Chains without withdrawals use the root for other things.
        if withdrawals.is_empty() && (is_foreign || block.withdrawals_root.is_none()) {
            return Ok(());
        }
        self.items.clear();
        for (index, withdrawal) in withdrawals.iter().enumerate() {
            self.items
                .push(|rlp| encode::withdrawal(withdrawal, rlp))
                .map_err(|field| Problem::Malformed(format!("of withdrawal {index} {}", bad_field(field))))?;
        }
        same_root("withdrawals", "withdrawalsRoot", block.withdrawals_root, ordered_root(&self.items))
    }
}

/// Whether a block leaves out the withdrawals that its header commits to.
pub(crate) fn leaves_out_withdrawals(block: &Block<'_>) -> bool {
    block.withdrawals.is_none()
        && block.withdrawals_root.is_some_and(|root| hex::fixed::<32>(root) != Ok(EMPTY_ROOT.0))
}

/// Appends a transaction as it is hashed.
fn whole(kind: Kind, fields: &Rlp, signature: &Rlp, rlp: &mut Rlp) {
    kind.put(rlp);
    rlp.list_header(fields.bytes().len() + signature.bytes().len());
    rlp.raw(fields.bytes());
    rlp.raw(signature.bytes());
}

fn recover(tx: &Tx<'_>, hash: B256) -> Result<Option<Address>, BadField> {
    let word = |name, text| required(text).and_then(hex::quantity_word).map_err(|bad| (name, bad));
    let Some(y_is_odd) = y_parity(tx).map_err(|bad| ("v", bad))? else { return Ok(None) };
    Ok(senders::recover(hash, &Signature { r: word("r", tx.r)?, s: word("s", tx.s)?, y_is_odd }))
}

fn bad_field((name, bad): BadField) -> Wrong {
    format!("`{name}` {bad}")
}

fn same_bloom(given: Option<&str>, computed: &Bloom) -> Result<(), Wrong> {
    match given.map(hex::fixed::<256>) {
        Some(Ok(given)) if given != computed.0 => Err("`logsBloom` is not that of the logs".into()),
        Some(Err(bad)) => Err(bad_field(("logsBloom", bad))),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn same_root(what: &str, name: &'static str, given: Option<&str>, computed: B256) -> Result<(), Problem> {
    match rlp::hash(name, given) {
        Ok(root) if root == computed => Ok(()),
        Ok(root) => {
            let why = if computed == EMPTY_ROOT {
                format!(": its {what} were not in what the source gave")
            } else {
                String::new()
            };
            Err(Problem::Malformed(format!(
                "its {what} have the root {computed}, but the header has the {name} {root}{why}{ADVICE}\
                 encodes its {what} in another way, say \"verify\": \"header\" in the manifest"
            )))
        }
        Err(field) => {
            Err(Problem::Malformed(format!("its {what} cannot be checked, as {}", bad_field(field))))
        }
    }
}
