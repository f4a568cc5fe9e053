//! Who signed a transaction, recovered from its signature on secp256k1. (SEC 1, 4.1.6.)

use alloy_primitives::{Address, B256, keccak256};
use k256::{
    AffinePoint, FieldBytes, ProjectivePoint, Scalar, U256,
    elliptic_curve::{
        PrimeField,
        ops::{Invert, LinearCombination, Reduce},
        point::DecompressPoint,
        sec1::ToEncodedPoint,
        subtle::Choice,
    },
};

/// A signature; `r` and `s` are big-endian.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signature {
    pub r: [u8; 32],
    pub s: [u8; 32],
    /// Whether the y of the point with the x `r` is odd.
    pub y_is_odd: bool,
}

/// The address whose key signed `hash`; `None` where the signature is none. A high `s`, which
/// Frontier allowed, is one.
pub(crate) fn recover(hash: B256, signature: &Signature) -> Option<Address> {
    let r = scalar(&signature.r)?;
    let s = scalar(&signature.s)?;
    let y_is_odd = Choice::from(u8::from(signature.y_is_odd));
    let point = AffinePoint::decompress(&FieldBytes::from(signature.r), y_is_odd);
    let point = Option::<AffinePoint>::from(point)?;
    let hash = <Scalar as Reduce<U256>>::reduce_bytes(&FieldBytes::from(hash.0));
    let inverse = Option::<Scalar>::from(Invert::invert(&r))?;
    let key = ProjectivePoint::lincomb(
        &ProjectivePoint::GENERATOR,
        &-(inverse * hash),
        &ProjectivePoint::from(point),
        &(inverse * s),
    );
    let key = key.to_affine().to_encoded_point(false);
    // The point at infinity has no coordinates.
    let coordinates = key.as_bytes().get(1..65)?;
    Some(Address::from_word(keccak256(coordinates)))
}

/// A number from 1 to below the order of the curve.
fn scalar(bytes: &[u8; 32]) -> Option<Scalar> {
    Option::<Scalar>::from(Scalar::from_repr(FieldBytes::from(*bytes)))
        .filter(|scalar| *scalar != Scalar::ZERO)
}
