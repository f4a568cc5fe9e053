//! Keys and signatures on secp256k1, made cheap by counting instead of drawing: keys and nonces are
//! consecutive numbers, so that one point is an addition away from the one before. Senders recover
//! as they should; that the keys are no secret does not matter here.

use alloy_primitives::{Address, B256, keccak256};
use k256::{
    AffinePoint, FieldBytes, ProjectivePoint, Scalar, U256,
    elliptic_curve::{
        BatchNormalize,
        ops::{BatchInvert, MulByGenerator, Reduce},
        point::AffineCoordinates,
        scalar::IsHigh,
        sec1::ToEncodedPoint,
    },
};

/// Keys that follow one upon the other, with their addresses.
#[derive(Debug)]
pub(super) struct Keys {
    first: Scalar,
    addresses: Vec<Address>,
}

/// A signature with a low `s`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signature {
    pub(super) r: B256,
    pub(super) s: B256,
    pub(super) y_odd: bool,
}

/// Signs as often as was said when it was made; no two signatures have the same `r`.
#[derive(Debug)]
pub(super) struct Signer {
    points: Vec<AffinePoint>,
    inverses: Vec<Scalar>,
}

impl Keys {
    pub(super) fn new(seed: &[u8], count: usize) -> Self {
        let first = scalar(keccak256(seed));
        let addresses = consecutive_points(first, count).iter().map(address).collect();
        Self { first, addresses }
    }

    pub(super) fn address(&self, index: usize) -> Address {
        self.addresses[index]
    }

    fn secret(&self, index: usize) -> Scalar {
        self.first + Scalar::from(index as u64)
    }
}

impl Signer {
    pub(super) fn new(seed: B256, count: usize) -> Self {
        // The inversion of nothing fails.
        let count = count.max(1);
        let first = scalar(keccak256(seed));
        let nonces: Vec<Scalar> = (0..count).map(|index| first + Scalar::from(index as u64)).collect();
        let inverses: Option<Vec<Scalar>> = Scalar::batch_invert(nonces.as_slice()).into();
        let inverses = inverses.expect("a hash is not within a few thousand of the order of the curve");
        Self { points: consecutive_points(first, count), inverses }
    }

    /// Signs `hash` with the key at `index`.
    pub(super) fn sign(&mut self, keys: &Keys, index: usize, hash: B256) -> Signature {
        let (point, inverse) =
            self.points.pop().zip(self.inverses.pop()).expect("all signatures were counted beforehand");
        let r = scalar(B256::from_slice(&point.x()));
        let s = inverse * (scalar(hash) + r * keys.secret(index));
        let high = bool::from(s.is_high());
        let s = if high { -s } else { s };
        let y_odd = bool::from(point.y_is_odd()) != high;
        Signature { r: bytes(&r), s: bytes(&s), y_odd }
    }
}

fn scalar(hash: B256) -> Scalar {
    <Scalar as Reduce<U256>>::reduce_bytes(&FieldBytes::from(hash.0))
}

fn bytes(scalar: &Scalar) -> B256 {
    B256::from_slice(&scalar.to_bytes())
}

/// The public points of `first`, `first + 1` and so on.
fn consecutive_points(first: Scalar, count: usize) -> Vec<AffinePoint> {
    let start = ProjectivePoint::mul_by_generator(&first);
    let points: Vec<ProjectivePoint> =
        std::iter::successors(Some(start), |point| Some(point + &AffinePoint::GENERATOR))
            .take(count)
            .collect();
    <ProjectivePoint as BatchNormalize<[ProjectivePoint]>>::batch_normalize(points.as_slice())
}

fn address(point: &AffinePoint) -> Address {
    let encoded = point.to_encoded_point(false);
    Address::from_word(keccak256(&encoded.as_bytes()[1..]))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::address;

    use super::*;

    #[test]
    fn the_address_of_a_known_key() {
        let point = consecutive_points(Scalar::ONE, 2);
        assert_eq!(super::address(&point[0]), address!("7e5f4552091a69125d5dfcb7b8c2659029395bdf"));
        assert_eq!(super::address(&point[1]), address!("2b5ad5c4795c026514f8317c7a215e218dccd6cf"));
    }
}
