//! Networks that are known by name, by their EIP-155 chain id.

use nozzle_core::{DatasetName, Network};

/// Chain ids and the names that this field uses for them (ethereum-lists/chains, Firehose and
/// Substreams network names).
const KNOWN: [(u64, &str); 26] = [
    (1, "mainnet"),
    (10, "optimism"),
    (56, "bsc"),
    (100, "gnosis"),
    (130, "unichain"),
    (137, "matic"),
    (146, "sonic"),
    (250, "fantom"),
    (324, "zksync-era"),
    (480, "worldchain"),
    (1101, "polygon-zkevm"),
    (5000, "mantle"),
    (8453, "base"),
    (17000, "holesky"),
    (31337, "anvil"),
    (42161, "arbitrum-one"),
    (42170, "arbitrum-nova"),
    (42220, "celo"),
    (43114, "avalanche"),
    (59144, "linea"),
    (80094, "berachain"),
    (81457, "blast"),
    (84532, "base-sepolia"),
    (534352, "scroll"),
    (560048, "hoodi"),
    (11155111, "sepolia"),
];

/// The network of a chain id: its name, or `chain-<id>`.
pub fn network_of(chain_id: u64) -> Network {
    let known = KNOWN.iter().find(|(id, _)| *id == chain_id).map(|(_, name)| (*name).to_owned());
    let name = known.unwrap_or_else(|| format!("chain-{chain_id}"));
    name.parse().expect("known names and numbers are network names")
}

/// The chain id that a network must have; `None` where the name does not tell.
pub fn chain_id_of(network: &Network) -> Option<u64> {
    let known = KNOWN.iter().find(|(_, name)| *name == network.as_str()).map(|(id, _)| *id);
    known.or_else(|| network.as_str().strip_prefix("chain-")?.parse().ok())
}

/// The name that a network's dataset gets when nobody names one: `eth_mainnet` for Ethereum's own
/// networks, else the network's name.
pub fn dataset_name_of(network: &Network) -> DatasetName {
    let plain = network.as_str().to_ascii_lowercase().replace(['-', '.'], "_");
    let name = match network.as_str() {
        "mainnet" | "sepolia" | "holesky" | "hoodi" => format!("eth_{plain}"),
        _ if plain.starts_with(|first: char| first.is_ascii_digit()) => format!("_{plain}"),
        _ => plain,
    };
    name.chars().take(nozzle_core::name::MAX_NAME_LEN).collect::<String>().parse().expect("a dataset name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_chain_ids_go_both_ways() {
        for (id, name) in KNOWN {
            assert_eq!(network_of(id).as_str(), name);
            assert_eq!(chain_id_of(&network_of(id)), Some(id));
            assert!(!dataset_name_of(&network_of(id)).as_str().is_empty());
        }
        assert_eq!(network_of(777).as_str(), "chain-777");
        assert_eq!(chain_id_of(&network_of(777)), Some(777));
        assert_eq!(chain_id_of(&"mychain".parse().expect("a name")), None);
        assert_eq!(dataset_name_of(&network_of(1)).as_str(), "eth_mainnet");
        assert_eq!(dataset_name_of(&network_of(42161)).as_str(), "arbitrum_one");
        assert_eq!(dataset_name_of(&"1X.y".parse().expect("a name")).as_str(), "_1x_y");
    }
}
