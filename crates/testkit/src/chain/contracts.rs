//! The contracts of `assets/Fixture.sol`: their bytecode, and calls of them in ABI encoding.

use std::{collections::BTreeMap, sync::LazyLock};

use alloy_primitives::{Address, U256};
use serde::Deserialize;

/// Bytecode and selectors of `assets/Fixture.sol` (solc, optimizer on, for prague, without
/// metadata hash).
static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../assets/fixture.json")).expect("the asset is what a test checks")
});

#[derive(Deserialize)]
struct Fixture {
    bytecode: BTreeMap<String, String>,
    selectors: BTreeMap<String, String>,
}

/// The input of a transaction in the making, as hexadecimal text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input(String);

impl Input {
    /// No input at all: a plain transfer of value.
    pub(super) fn none() -> Self {
        Self("0x".to_owned())
    }

    /// The bytecode of a contract of the fixture; its constructor's arguments follow.
    pub(super) fn deploy(contract: &str) -> Self {
        Self(FIXTURE.bytecode.get(contract).expect("a contract of the fixture").clone())
    }

    /// The selector of a function of the fixture; its arguments follow.
    pub(super) fn call(function: &str) -> Self {
        Self(FIXTURE.selectors.get(function).expect("a function of the fixture").clone())
    }

    /// One 32-byte word: a number, or an offset in bytes from the first argument.
    pub(super) fn word(mut self, value: impl TryInto<U256, Error: std::fmt::Debug>) -> Self {
        let value = value.try_into().expect("256 bits hold it");
        self.0.push_str(&format!("{value:064x}"));
        self
    }

    /// An address in a word.
    pub(super) fn address(mut self, address: Address) -> Self {
        self.0.push_str(&"0".repeat(24));
        self.0.push_str(&const_hex::encode(address));
        self
    }

    /// Bytes or a string where its offset points: the length, then the bytes up to whole words.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut input = self.word(bytes.len());
        input.0.push_str(&const_hex::encode(bytes));
        let padding = bytes.len().next_multiple_of(32) - bytes.len();
        input.0.push_str(&"00".repeat(padding));
        input
    }

    /// The text for JSON-RPC.
    pub(super) fn into_hex(self) -> String {
        self.0
    }
}

/// The deployment of a token with its name, symbol and supply.
pub(super) fn deploy_token(name: &str, symbol: &str, supply: U256) -> Input {
    let name_words = 1 + name.len().div_ceil(32);
    let symbol_offset = 32 * (3 + name_words);
    let head = Input::deploy("Token").word(96u64).word(symbol_offset).word(supply);
    head.bytes(name.as_bytes()).bytes(symbol.as_bytes())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::keccak256;

    use super::*;

    #[test]
    fn the_asset_holds_the_contracts_and_the_selectors_of_their_functions() {
        assert!(["Token", "Logger", "Child"].iter().all(|name| Input::deploy(name).0.len() > 100));
        for signature in ["transfer(address,uint256)", "airdrop(address[],uint256)", "fail(uint8)"] {
            let name = signature.split('(').next().expect("a name");
            let selector = const_hex::encode_prefixed(&keccak256(signature)[..4]);
            assert_eq!(Input::call(name).0, selector);
        }
    }

    #[test]
    fn arguments_are_words_and_padded_bytes() {
        let input = Input::call("topics").word(5u64).bytes(&[0xab; 33]).into_hex();
        let words: Vec<&str> = (0..4).map(|i| &input[10 + 64 * i..74 + 64 * i]).collect();
        assert_eq!(input.len(), 10 + 4 * 64);
        assert_eq!((&words[0][62..], &words[1][62..]), ("05", "21"));
        assert_eq!(words[2], "ab".repeat(32));
        assert_eq!(words[3], format!("ab{}", "00".repeat(31)));
        assert_eq!(Input::none().bytes(&[]).0.len(), 2 + 64);
    }
}
