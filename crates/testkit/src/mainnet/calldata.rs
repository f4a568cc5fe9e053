//! Calldata: a selector and words, as an ABI lays them out, or bytes of no structure.

use super::{accounts::Cast, plan::Action};
use crate::rng::Rng;

/// The functions that actions call; the first is usual.
fn selectors(action: Action) -> &'static [[u8; 4]] {
    match action {
        Action::Transfer => &[[0xa9, 0x05, 0x9c, 0xbb]],
        Action::Approve => &[[0x09, 0x5e, 0xa7, 0xb3]],
        Action::Swap => &[
            [0x7f, 0xf3, 0x6a, 0xb5],
            [0x38, 0xed, 0x17, 0x39],
            [0x35, 0x93, 0x56, 0x4c],
            [0x5a, 0xe4, 0x01, 0xdc],
        ],
        Action::Collect => &[[0x23, 0xb8, 0x72, 0xdd], [0x42, 0x84, 0x2e, 0x0e], [0xa2, 0x2c, 0xb4, 0x65]],
        _ => &[
            [0xd0, 0xe3, 0x0d, 0xb0],
            [0x2e, 0x1a, 0x7d, 0x4d],
            [0x4e, 0x71, 0xd9, 0x2d],
            [0xb6, 0xb5, 0x5f, 0x25],
            [0xac, 0x96, 0x50, 0xd8],
        ],
    }
}

/// `length` bytes of calldata for an action.
pub(super) fn input(action: Action, length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 32);
    match action {
        // No ABI: code, compressed data, packed arguments.
        Action::Create => out.extend([0x60, 0x80, 0x60, 0x40, 0x52]),
        Action::Trade if length > 0 => out.push(rng.below(8) as u8),
        _ if length == 0 => {}
        Action::Transfer if length == 100 => out.extend([0x23, 0xb8, 0x72, 0xdd]),
        _ => out.extend(rng.pick(selectors(action))),
    }
    while out.len() < length {
        match action {
            Action::Create | Action::Post => out.extend(rng.bytes::<32>()),
            Action::Transfer | Action::Approve if out.len() + 32 >= length => out.extend(amount(rng)),
            Action::Transfer | Action::Approve => out.extend(account(rng)),
            Action::Trade => out.extend(&rng.bytes::<32>()[..4 + rng.below(28) as usize]),
            Action::Spread if (out.len() / 32).is_multiple_of(2) => out.extend(amount(rng)),
            Action::Spread => out.extend(account(rng)),
            _ => out.extend(word(rng)),
        }
    }
    out.truncate(length);
    out
}

/// An amount of a token or of coins: few of its digits are random.
pub(super) fn amount(rng: &mut Rng) -> [u8; 32] {
    let mut word = [0; 32];
    let round = rng.below(3) == 0;
    let number = if round {
        (1 + u128::from(rng.below(1000))) * 10u128.pow(*rng.pick(&[6, 15, 18]))
    } else {
        u128::from(rng.next_u64()) << rng.below(24) >> rng.below(40)
    };
    word[16..].copy_from_slice(&number.to_be_bytes());
    word
}

fn account(rng: &mut Rng) -> [u8; 32] {
    Cast::get().draw_recipient(rng).into_word().0
}

/// An offset, a length, an account, an amount or a hash.
fn word(rng: &mut Rng) -> [u8; 32] {
    let mut word = [0; 32];
    match rng.below(8) {
        0 => {}
        1..4 => word[30..].copy_from_slice(&(32 * rng.below(40) as u16).to_be_bytes()),
        4..6 => return account(rng),
        6 => return amount(rng),
        _ => return rng.bytes(),
    }
    word
}
