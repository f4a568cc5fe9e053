//! Bytes that are no blocks, or strange ones: errors or rows, never a panic.

use nozzle_testkit::firehose::made;
use proptest::prelude::*;

use super::*;

fn decode_at_all_levels(block: &[u8]) {
    for verify in Verify::ALL {
        let payload = Payload { number: 5, block: block.to_vec().into() };
        let decoded = decoder(tables(), verify).decode(&[payload]);
        assert!(decoded.rows.is_some() != decoded.error.is_some());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_at_all_levels(&bytes);
    }

    #[test]
    fn damaged_blocks_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut block = made(5, 5, 0)[0].payload.to_vec();
        for (place, byte) in changes {
            let place = place.index(block.len());
            block[place] = byte;
        }
        if is_cut {
            block.truncate(end.index(block.len()));
        }
        decode_at_all_levels(&block);
    }
}

#[test]
fn a_message_cannot_ask_for_many_times_its_size() {
    // A transaction, a log, a call or a withdrawal without content is two bytes.
    for field in [[0x52, 0x00].as_slice(), &[0xb2, 0x01, 0x00]] {
        let block = [made(5, 5, 0)[0].payload.to_vec(), field.repeat(1000)].concat();
        let payload = Payload { number: 5, block: block.into() };
        let error = decoder(tables(), Verify::None).decode(&[payload]).error.unwrap().to_string();
        assert!(error.contains("without"), "{error}");
    }
}

#[test]
fn a_column_that_cannot_be_filled_is_named() {
    use nozzle_testkit::firehose::pb::sf::ethereum::r#type::v2 as eth;
    use prost::Message;
    let mut block = eth::Block::decode(&made(5, 5, 0)[0].payload[..]).unwrap();
    block.transaction_traces[0].from.pop();
    let payload = Payload { number: 5, block: block.encode_to_vec().into() };
    let error = decoder(tables(), Verify::None).decode(&[payload]).error.unwrap().to_string();
    assert!(error.contains("`from` of row 0 of `transactions` is not 20 bytes long"), "{error}");
}
