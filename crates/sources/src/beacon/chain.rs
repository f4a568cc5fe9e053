//! What is the same for all blocks of a network: its clock, its sizes, its ids.

use std::collections::BTreeMap;

use sonic_rs::LazyValue;

use super::{
    forks::{Fork, Preset, number_of},
    json::{Answer, Genesis},
    ssz::Type,
};

/// A network, as its node describes it.
#[derive(Debug)]
pub(crate) struct Chain {
    genesis_micros: u64,
    slot_micros: u64,
    preset: Preset,
    /// The id of the execution layer's chain.
    pub chain_id: Option<u64>,
}

impl Chain {
    /// The network of the answers to `/eth/v1/config/spec` and `/eth/v1/beacon/genesis`; the error goes
    /// on a sentence about them.
    pub fn of_answers(spec: &[u8], genesis: &[u8]) -> Result<Self, String> {
        let spec: Answer<BTreeMap<&str, LazyValue<'_>>> = parse(spec, "/eth/v1/config/spec")?;
        let genesis: Answer<Genesis> = parse(genesis, "/eth/v1/beacon/genesis")?;
        let number = |name: &str| number_of(&spec.data, name);
        // The time of a slot in seconds is on its way out of the specification.
        let slot_ms = number("SLOT_DURATION_MS").or_else(|| number("SECONDS_PER_SLOT")?.checked_mul(1000));
        let slot_micros = slot_ms.filter(|ms| *ms > 0).and_then(|ms| ms.checked_mul(1000));
        let genesis_micros = genesis.data.genesis_time.0.checked_mul(1_000_000);
        Ok(Self {
            genesis_micros: genesis_micros
                .ok_or("to `/eth/v1/beacon/genesis` has a time that is too large")?,
            slot_micros: slot_micros.ok_or("to `/eth/v1/config/spec` has no usable `SECONDS_PER_SLOT`")?,
            preset: Preset::of_spec(&spec.data),
            chain_id: number("DEPOSIT_CHAIN_ID").or_else(|| number("DEPOSIT_NETWORK_ID")),
        })
    }

    /// When a slot begins, in microseconds since 1970; `None` where that is out of range.
    pub fn timestamp_micros(&self, slot: u64) -> Option<i64> {
        let micros = slot.checked_mul(self.slot_micros)?.checked_add(self.genesis_micros)?;
        i64::try_from(micros).ok()
    }

    /// What a block's body is in a fork.
    pub fn body(&self, fork: Fork) -> Type {
        self.preset.body(fork)
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(answer: &'a [u8], path: &str) -> Result<T, String> {
    sonic_rs::from_slice(answer).map_err(|error| {
        // The library shows a piece of the input on the lines below.
        let why = error.to_string().lines().next().unwrap_or_default().trim_end().to_owned();
        format!("to `{path}` cannot be read: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(spec: &str, genesis: &str) -> Result<Chain, String> {
        Chain::of_answers(
            format!(r#"{{"data":{spec}}}"#).as_bytes(),
            format!(r#"{{"data":{genesis}}}"#).as_bytes(),
        )
    }

    #[test]
    fn slots_are_told_in_time_since_the_genesis() {
        let spec = r#"{"SECONDS_PER_SLOT":"12","DEPOSIT_CHAIN_ID":"1","BLOB_SCHEDULE":[{"EPOCH":"1"}]}"#;
        let mainnet = chain(spec, r#"{"genesis_time":"1606824023"}"#).expect("a chain");
        assert_eq!(mainnet.timestamp_micros(0), Some(1_606_824_023_000_000));
        assert_eq!(
            mainnet.timestamp_micros(7_378_495),
            Some(1_695_365_963_000_000),
            "its payload says so too"
        );
        assert_eq!(mainnet.timestamp_micros(u64::MAX), None);
        assert_eq!(mainnet.chain_id, Some(1));
        let fast = r#"{"SLOT_DURATION_MS":"500","SECONDS_PER_SLOT":"1","DEPOSIT_NETWORK_ID":"7"}"#;
        let fast = chain(fast, r#"{"genesis_time":"1"}"#).expect("a chain");
        assert_eq!((fast.timestamp_micros(1), fast.chain_id), (Some(1_500_000), Some(7)));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let genesis = r#"{"genesis_time":"1"}"#;
        for (spec, genesis, words) in [
            ("{}", genesis, "SECONDS_PER_SLOT"),
            (r#"{"SECONDS_PER_SLOT":"0"}"#, genesis, "SECONDS_PER_SLOT"),
            ("[]", genesis, "config/spec` cannot be read"),
            (r#"{"SECONDS_PER_SLOT":"1"}"#, "{}", "missing field `genesis_time`"),
            (r#"{"SECONDS_PER_SLOT":"1"}"#, r#"{"genesis_time":"18446744073709551615"}"#, "too large"),
        ] {
            let why = chain(spec, genesis).expect_err("it is bad");
            assert!(why.contains(words), "{why}");
        }
    }
}
