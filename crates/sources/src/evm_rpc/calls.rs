//! Calls of contracts (`eth_call`): what of a node's answers is the contract's, and what the node's.

use bytes::Bytes;
use nozzle_core::{CallOutcome, ContractCall};

use super::{
    batch::Call,
    client::{CallError, Client, Reply},
};
use crate::{error::SourceError, evm};

const ETH_CALL: &str = "eth_call";

/// The codes of a call that did not come to its end: geth's and those who follow it, and OpenEthereum's.
const FAILED: [i64; 2] = [3, -32015];

/// What nodes say, in any case of letters, of a call that did not come to its end, under a code that says
/// nothing. All else, such as a state that a node does not have, is the node's failure and not the call's.
const ENDS_OF_CALLS: [&str; 15] = [
    "revert",
    "out of gas",
    "gas required exceeds",
    "gas uint64 overflow",
    "invalid opcode",
    "invalid jump",
    "bad jump",
    "bad instruction",
    "stack underflow",
    "stack overflow",
    "stack limit reached",
    "write protection",
    "insufficient balance",
    "insufficient funds",
    "vm execution error",
];

/// What has come of each call, in order. The caller has a turn.
pub(crate) async fn outcomes(
    client: &Client,
    calls: &[ContractCall],
) -> Vec<Result<CallOutcome, SourceError>> {
    let asked: Vec<_> = calls.iter().map(|call| Call { method: ETH_CALL, params: params(call) }).collect();
    let answers = client.call_all(&asked).await;
    calls.iter().zip(answers).map(|(call, answer)| outcome(client, call, answer)).collect()
}

fn params(ContractCall { from, to, input, block }: &ContractCall) -> String {
    let from = from.map(|from| format!(r#""from":"{from:#x}","#)).unwrap_or_default();
    // Newer nodes call it `input`, and all take `data`.
    let data = input.as_ref().map(|input| format!(r#","data":"{input:#x}""#)).unwrap_or_default();
    format!(r#"[{{{from}"to":"{to:#x}"{data}}},"{block}"]"#)
}

fn outcome(
    client: &Client,
    call: &ContractCall,
    answer: Result<Reply, CallError>,
) -> Result<CallOutcome, SourceError> {
    match answer {
        Ok(reply) => match evm::bytes_of_answer(&reply.body) {
            Ok(returned) => Ok(CallOutcome::Returned(returned.into())),
            Err(why) => Err(client.unavailable(format!("its answer to `{ETH_CALL}` {why}"))),
        },
        Err(CallError::Rpc { code, message, data }) if is_end_of_call(code, &message) => {
            Ok(CallOutcome::Failed { data: data.map(|data: Bytes| data.into()), message })
        }
        Err(error) => {
            Err(client.source_error(&format!("{ETH_CALL} to {} at block {}", call.to, call.block), error))
        }
    }
}

fn is_end_of_call(code: i64, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    FAILED.contains(&code) || ENDS_OF_CALLS.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, address, bytes};
    use nozzle_core::CallBlock;

    use super::*;

    #[test]
    fn parameters_are_those_of_the_execution_api() {
        let to = address!("0xdac17f958d2ee523a2206206994597c13d831ec7");
        let call = ContractCall {
            from: Some(Address::ZERO),
            to,
            input: Some(bytes!("0x18160ddd")),
            block: CallBlock::Number(17_000_000),
        };
        assert_eq!(
            params(&call),
            r#"[{"from":"0x0000000000000000000000000000000000000000","to":"0xdac17f958d2ee523a2206206994597c13d831ec7","data":"0x18160ddd"},"0x1036640"]"#
        );
        let call = ContractCall { from: None, to, input: None, block: CallBlock::Tag("latest") };
        assert_eq!(params(&call), r#"[{"to":"0xdac17f958d2ee523a2206206994597c13d831ec7"},"latest"]"#);
    }

    #[test]
    fn the_end_of_a_call_is_told_from_the_failure_of_a_node() {
        for (code, message) in [
            (3, "execution reverted: no"),
            (-32000, "execution reverted"),
            (-32015, "VM execution error."),
            (-32000, "out of gas"),
            (-32603, "EVM error: InvalidJump, Invalid jump destination"),
        ] {
            assert!(is_end_of_call(code, message), "{message}");
        }
        for (code, message) in [
            (-32000, "missing trie node 1234 (path ) state is not available"),
            (-32000, "header not found"),
            (-32001, "block not found"),
            (-32602, "invalid argument 0"),
            (-32601, "the method eth_call does not exist"),
        ] {
            assert!(!is_end_of_call(code, message), "{message}");
        }
    }
}
