//! A block of the type `sf.ethereum.type.v2.Block` as it lies in a response: borrowed bytes, nothing
//! converted yet, and of it only what is wanted. The numbers of the fields are those of
//! `proto/sf/ethereum/type/v2/type.proto`.
//!
//! A field that is absent has the format's default: 0, no bytes, no items. What must be there is asked for
//! where it is used.

use super::{
    bad::BadWire,
    wire::{Fields, Value},
};
use crate::evm::trie::EMPTY_ROOT;

/// The level of detail without calls: blocks that are made of answers of JSON-RPC, which leave out more.
const DETAIL_BASE: u64 = 2;
/// The type of a call that creates a contract.
const CALL_CREATE: u64 = 5;

/// What of a block is wanted, beside its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The transactions.
    pub transactions: bool,
    /// The logs of the receipts of the transactions.
    pub logs: bool,
    /// The calls within the transactions.
    pub calls: bool,
}

/// A block.
#[derive(Debug, Default)]
pub(crate) struct Block<'a> {
    pub hash: &'a [u8],
    pub number: u64,
    pub header: Header<'a>,
    pub transactions: Vec<Trace<'a>>,
    pub withdrawals: Vec<Withdrawal<'a>>,
    /// Whether it is of the level of detail without calls.
    pub is_base: bool,
}

/// A header.
#[derive(Debug, Default)]
pub(crate) struct Header<'a> {
    pub parent_hash: &'a [u8],
    pub ommers_hash: &'a [u8],
    pub miner: &'a [u8],
    pub state_root: &'a [u8],
    pub transactions_root: &'a [u8],
    pub receipt_root: &'a [u8],
    pub logs_bloom: &'a [u8],
    pub difficulty: Option<&'a [u8]>,
    pub total_difficulty: Option<&'a [u8]>,
    pub number: u64,
    pub gas_limit: u64,
    pub gas_used: u64,
    /// Seconds since 1970, as the format has them: negative ones are great numbers.
    pub timestamp: u64,
    pub extra_data: &'a [u8],
    pub mix_hash: &'a [u8],
    pub nonce: u64,
    pub hash: &'a [u8],
    pub base_fee_per_gas: Option<&'a [u8]>,
    pub withdrawals_root: &'a [u8],
    pub blob_gas_used: Option<u64>,
    pub excess_blob_gas: Option<u64>,
    pub parent_beacon_root: &'a [u8],
    pub requests_hash: &'a [u8],
}

/// A transaction.
#[derive(Debug, Default)]
pub(crate) struct Trace<'a> {
    /// Of a creation the address of the contract.
    pub to: &'a [u8],
    pub nonce: u64,
    pub gas_price: Option<&'a [u8]>,
    pub gas_limit: u64,
    pub value: Option<&'a [u8]>,
    pub input: &'a [u8],
    pub v: &'a [u8],
    pub r: &'a [u8],
    pub s: &'a [u8],
    pub gas_used: u64,
    pub tx_type: u64,
    pub max_fee_per_gas: Option<&'a [u8]>,
    pub max_priority_fee_per_gas: Option<&'a [u8]>,
    pub access_list: Vec<&'a [u8]>,
    pub index: u64,
    pub hash: &'a [u8],
    pub from: &'a [u8],
    pub return_data: &'a [u8],
    pub begin_ordinal: u64,
    pub end_ordinal: u64,
    pub status: u64,
    pub receipt: Option<Receipt<'a>>,
    pub calls: Vec<Call<'a>>,
    /// Whether the first call creates a contract; `None` where there is no call.
    pub is_creation: Option<bool>,
    pub blob_gas: Option<u64>,
    pub blob_gas_fee_cap: Option<&'a [u8]>,
    pub blob_hashes: Vec<&'a [u8]>,
    pub authorizations: Vec<&'a [u8]>,
    /// Whether it is of a block that is: what is absent may have been left out, and is not 0 or empty.
    pub is_base: bool,
}

/// A receipt.
#[derive(Debug, Default)]
pub(crate) struct Receipt<'a> {
    pub state_root: &'a [u8],
    pub cumulative_gas_used: u64,
    pub logs_bloom: &'a [u8],
    pub logs: Vec<Log<'a>>,
    pub blob_gas_used: Option<u64>,
    pub blob_gas_price: Option<&'a [u8]>,
}

/// A log.
#[derive(Debug, Default)]
pub(crate) struct Log<'a> {
    pub address: &'a [u8],
    pub topics: [Option<&'a [u8]>; 4],
    /// Whether there are more topics than a log can have.
    pub has_too_many_topics: bool,
    pub data: &'a [u8],
    /// The place in the block.
    pub block_index: u64,
}

/// A call.
#[derive(Debug, Default)]
pub(crate) struct Call<'a> {
    pub index: u64,
    pub parent_index: u64,
    pub depth: u64,
    pub call_type: u64,
    pub caller: &'a [u8],
    pub address: &'a [u8],
    pub value: Option<&'a [u8]>,
    pub gas_limit: u64,
    pub gas_consumed: u64,
    pub return_data: &'a [u8],
    pub input: &'a [u8],
    pub executed_code: bool,
    pub selfdestruct: bool,
    pub state_reverted: bool,
    pub begin_ordinal: u64,
    pub end_ordinal: u64,
}

/// A withdrawal.
#[derive(Debug, Default)]
pub(crate) struct Withdrawal<'a> {
    pub index: u64,
    pub validator_index: u64,
    pub address: &'a [u8],
    pub amount_gwei: u64,
}

/// An entry of an access list.
#[derive(Debug, Default)]
pub(crate) struct Access<'a> {
    pub address: &'a [u8],
    pub storage_keys: Vec<&'a [u8]>,
}

/// An entry of an authorization list.
#[derive(Debug, Default)]
pub(crate) struct Authorization<'a> {
    pub chain_id: &'a [u8],
    pub nonce: u64,
    pub v: u64,
    pub r: &'a [u8],
    pub s: &'a [u8],
    pub address: &'a [u8],
}

/// Calls `read` with each field of a message.
#[inline]
fn each_field<'a>(
    message: &'a [u8],
    mut read: impl FnMut(u32, Value<'a>) -> Result<(), BadWire>,
) -> Result<(), BadWire> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        read(number, value)?;
    }
    Ok(())
}

/// The bytes of a `BigInt`.
fn big_int(message: &[u8]) -> Result<Option<&[u8]>, BadWire> {
    let mut bytes: &[u8] = &[];
    each_field(message, |number, value| {
        if number == 1 {
            bytes = value.bytes();
        }
        Ok(())
    })?;
    Ok(Some(bytes))
}

/// Reads a block, and of it what is wanted.
///
/// What takes more room when it is read than in the message must have the bytes that it cannot do without,
/// so that no message can ask for many times its size.
///
/// Genesis has a transaction that is none, as its root says: it holds the balances that the chain begins with.
pub(crate) fn block(message: &[u8], wanted: Wanted) -> Result<Block<'_>, BadWire> {
    let mut block = Block::default();
    each_field(message, |number, value| {
        match number {
            2 => block.hash = value.bytes(),
            3 => block.number = value.number(),
            5 => block.header = header(value.bytes())?,
            10 if wanted.transactions && block.header.transactions_root != EMPTY_ROOT => {
                block.transactions.push(trace(value.bytes(), wanted)?);
            }
            12 => block.is_base = value.number() == DETAIL_BASE,
            22 => block.withdrawals.push(withdrawal(value.bytes())?),
            _ => {}
        }
        Ok(())
    })?;
    if block.header.transactions_root == EMPTY_ROOT {
        block.transactions.clear();
    }
    if block.is_base {
        block.transactions.iter_mut().for_each(|trace| trace.is_base = true);
        // What they do not have they send as 0, which no chain's total difficulty is.
        block.header.total_difficulty = block.header.total_difficulty.filter(|number| !number.is_empty());
    }
    Ok(block)
}

fn header(message: &[u8]) -> Result<Header<'_>, BadWire> {
    let mut header = Header::default();
    each_field(message, |number, value| {
        match number {
            1 => header.parent_hash = value.bytes(),
            2 => header.ommers_hash = value.bytes(),
            3 => header.miner = value.bytes(),
            4 => header.state_root = value.bytes(),
            5 => header.transactions_root = value.bytes(),
            6 => header.receipt_root = value.bytes(),
            7 => header.logs_bloom = value.bytes(),
            8 => header.difficulty = big_int(value.bytes())?,
            9 => header.number = value.number(),
            10 => header.gas_limit = value.number(),
            11 => header.gas_used = value.number(),
            12 => header.timestamp = seconds(value.bytes())?,
            13 => header.extra_data = value.bytes(),
            14 => header.mix_hash = value.bytes(),
            15 => header.nonce = value.number(),
            16 => header.hash = value.bytes(),
            17 => header.total_difficulty = big_int(value.bytes())?,
            18 => header.base_fee_per_gas = big_int(value.bytes())?,
            19 => header.withdrawals_root = value.bytes(),
            22 => header.blob_gas_used = Some(value.number()),
            23 => header.excess_blob_gas = Some(value.number()),
            24 => header.parent_beacon_root = value.bytes(),
            25 => header.requests_hash = value.bytes(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(header)
}

/// The seconds of a `google.protobuf.Timestamp`; blocks have no parts of seconds.
fn seconds(message: &[u8]) -> Result<u64, BadWire> {
    let mut seconds = 0;
    each_field(message, |number, value| {
        if number == 1 {
            seconds = value.number();
        }
        Ok(())
    })?;
    Ok(seconds)
}

fn trace(message: &[u8], wanted: Wanted) -> Result<Trace<'_>, BadWire> {
    let mut trace = Trace::default();
    each_field(message, |number, value| {
        match number {
            1 => trace.to = value.bytes(),
            2 => trace.nonce = value.number(),
            3 => trace.gas_price = big_int(value.bytes())?,
            4 => trace.gas_limit = value.number(),
            5 => trace.value = big_int(value.bytes())?,
            6 => trace.input = value.bytes(),
            7 => trace.v = value.bytes(),
            8 => trace.r = value.bytes(),
            9 => trace.s = value.bytes(),
            10 => trace.gas_used = value.number(),
            11 => trace.max_fee_per_gas = big_int(value.bytes())?,
            12 => trace.tx_type = value.number(),
            13 => trace.max_priority_fee_per_gas = big_int(value.bytes())?,
            14 => trace.access_list.push(value.bytes()),
            20 => trace.index = value.number(),
            21 => trace.hash = value.bytes(),
            22 => trace.from = value.bytes(),
            23 => trace.return_data = value.bytes(),
            25 => trace.begin_ordinal = value.number(),
            26 => trace.end_ordinal = value.number(),
            30 => trace.status = value.number(),
            31 => trace.receipt = Some(receipt(value.bytes(), wanted)?),
            32 => {
                if trace.is_creation.is_none() {
                    trace.is_creation = Some(call_type(value.bytes())? == CALL_CREATE);
                }
                if wanted.calls {
                    trace.calls.push(call(value.bytes())?);
                }
            }
            33 => trace.blob_gas = Some(value.number()),
            34 => trace.blob_gas_fee_cap = big_int(value.bytes())?,
            35 => trace.blob_hashes.push(value.bytes()),
            36 => trace.authorizations.push(value.bytes()),
            _ => {}
        }
        Ok(())
    })?;
    if trace.hash.len() != 32 {
        return Err(BadWire("a transaction without a hash"));
    }
    Ok(trace)
}

fn receipt(message: &[u8], wanted: Wanted) -> Result<Receipt<'_>, BadWire> {
    let mut receipt = Receipt::default();
    each_field(message, |number, value| {
        match number {
            1 => receipt.state_root = value.bytes(),
            2 => receipt.cumulative_gas_used = value.number(),
            3 => receipt.logs_bloom = value.bytes(),
            4 if wanted.logs => receipt.logs.push(log(value.bytes())?),
            5 => receipt.blob_gas_used = Some(value.number()),
            6 => receipt.blob_gas_price = big_int(value.bytes())?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(receipt)
}

fn log(message: &[u8]) -> Result<Log<'_>, BadWire> {
    let mut log = Log::default();
    let mut topics = 0;
    each_field(message, |number, value| {
        match number {
            1 => log.address = value.bytes(),
            2 => {
                match log.topics.get_mut(topics) {
                    Some(topic) => *topic = Some(value.bytes()),
                    None => log.has_too_many_topics = true,
                }
                topics += 1;
            }
            3 => log.data = value.bytes(),
            6 => log.block_index = value.number(),
            _ => {}
        }
        Ok(())
    })?;
    if log.address.len() != 20 {
        return Err(BadWire("a log without an address"));
    }
    Ok(log)
}

/// The type of a call, which stands near its beginning: the rest, often most of a block, is not looked at.
fn call_type(message: &[u8]) -> Result<u64, BadWire> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if number == 4 {
            return Ok(value.number());
        }
    }
    Ok(0)
}

fn call(message: &[u8]) -> Result<Call<'_>, BadWire> {
    let mut call = Call::default();
    each_field(message, |number, value| {
        match number {
            1 => call.index = value.number(),
            2 => call.parent_index = value.number(),
            3 => call.depth = value.number(),
            4 => call.call_type = value.number(),
            5 => call.caller = value.bytes(),
            6 => call.address = value.bytes(),
            7 => call.value = big_int(value.bytes())?,
            8 => call.gas_limit = value.number(),
            9 => call.gas_consumed = value.number(),
            13 => call.return_data = value.bytes(),
            14 => call.input = value.bytes(),
            15 => call.executed_code = value.number() != 0,
            16 => call.selfdestruct = value.number() != 0,
            30 => call.state_reverted = value.number() != 0,
            31 => call.begin_ordinal = value.number(),
            32 => call.end_ordinal = value.number(),
            _ => {}
        }
        Ok(())
    })?;
    if call.caller.len() != 20 {
        return Err(BadWire("a call without a caller"));
    }
    Ok(call)
}

fn withdrawal(message: &[u8]) -> Result<Withdrawal<'_>, BadWire> {
    let mut withdrawal = Withdrawal::default();
    each_field(message, |number, value| {
        match number {
            1 => withdrawal.index = value.number(),
            2 => withdrawal.validator_index = value.number(),
            3 => withdrawal.address = value.bytes(),
            4 => withdrawal.amount_gwei = value.number(),
            _ => {}
        }
        Ok(())
    })?;
    if withdrawal.address.len() != 20 {
        return Err(BadWire("a withdrawal without an address"));
    }
    Ok(withdrawal)
}

/// Reads an entry of an access list.
pub(crate) fn access(message: &[u8]) -> Result<Access<'_>, BadWire> {
    let mut access = Access::default();
    each_field(message, |number, value| {
        match number {
            1 => access.address = value.bytes(),
            2 => access.storage_keys.push(value.bytes()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(access)
}

/// Reads an entry of an authorization list.
pub(crate) fn authorization(message: &[u8]) -> Result<Authorization<'_>, BadWire> {
    let mut authorization = Authorization::default();
    each_field(message, |number, value| {
        match number {
            2 => authorization.chain_id = value.bytes(),
            3 => authorization.nonce = value.number(),
            4 => authorization.v = value.number(),
            5 => authorization.r = value.bytes(),
            6 => authorization.s = value.bytes(),
            8 => authorization.address = value.bytes(),
            _ => {}
        }
        Ok(())
    })?;
    Ok(authorization)
}
