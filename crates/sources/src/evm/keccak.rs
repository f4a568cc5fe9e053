//! Keccak-256 of many messages, as many side by side as the processor's vectors have lanes. (FIPS
//! 202, 3.2, with the padding of before that standard, as Ethereum has it: Yellow Paper, appendix D.)

use alloy_primitives::{B256, keccak256};

/// The hash of each message, in order.
pub(crate) fn keccak256_each<'a>(messages: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<B256> {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(
                #[inline(always)]
                || wide::hash_each(wide::Eight(simd.avx512f), messages),
            );
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(
                #[inline(always)]
                || wide::hash_each(wide::Four(simd.avx2), messages),
            );
        }
    }
    messages.map(keccak256).collect()
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{__m256i, __m512i};

    use alloy_primitives::B256;
    use pulp::{
        cast,
        core_arch::x86::{Avx2, Avx512f},
    };

    /// Words of a state.
    const WORDS: usize = 25;
    /// Words of a message that one permutation takes in.
    const RATE: usize = 17;
    const RATE_BYTES: usize = 8 * RATE;

    #[rustfmt::skip]
    const ROUND_CONSTANTS: [u64; 24] = [
        0x0000_0000_0000_0001, 0x0000_0000_0000_8082, 0x8000_0000_0000_808a, 0x8000_0000_8000_8000,
        0x0000_0000_0000_808b, 0x0000_0000_8000_0001, 0x8000_0000_8000_8081, 0x8000_0000_0000_8009,
        0x0000_0000_0000_008a, 0x0000_0000_0000_0088, 0x0000_0000_8000_8009, 0x0000_0000_8000_000a,
        0x0000_0000_8000_808b, 0x8000_0000_0000_008b, 0x8000_0000_0000_8089, 0x8000_0000_0000_8003,
        0x8000_0000_0000_8002, 0x8000_0000_0000_0080, 0x0000_0000_0000_800a, 0x8000_0000_8000_000a,
        0x8000_0000_8000_8081, 0x8000_0000_0000_8080, 0x0000_0000_8000_0001, 0x8000_0000_8000_8008,
    ];

    /// Vectors of `N` words, and what a permutation does with them.
    pub(super) trait Lanes<const N: usize>: Copy {
        type Words: Copy;

        fn of(self, words: [u64; N]) -> Self::Words;
        fn to(self, words: Self::Words) -> [u64; N];
        fn xor(self, a: Self::Words, b: Self::Words) -> Self::Words;
        /// `a ^ b ^ c`
        fn xor3(self, a: Self::Words, b: Self::Words, c: Self::Words) -> Self::Words;
        /// `a ^ (!b & c)`
        fn chi(self, a: Self::Words, b: Self::Words, c: Self::Words) -> Self::Words;
        /// To the left; `RIGHT` is 64 less `LEFT`.
        fn rotate<const LEFT: i32, const RIGHT: i32>(self, a: Self::Words) -> Self::Words;
    }

    #[derive(Clone, Copy)]
    pub(super) struct Four(pub Avx2);

    impl Lanes<4> for Four {
        type Words = __m256i;

        #[inline(always)]
        fn of(self, words: [u64; 4]) -> __m256i {
            cast::<[u64; 4], __m256i>(words)
        }
        #[inline(always)]
        fn to(self, words: __m256i) -> [u64; 4] {
            cast::<__m256i, [u64; 4]>(words)
        }
        #[inline(always)]
        fn xor(self, a: __m256i, b: __m256i) -> __m256i {
            self.0._mm256_xor_si256(a, b)
        }
        #[inline(always)]
        fn xor3(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
            self.xor(a, self.xor(b, c))
        }
        #[inline(always)]
        fn chi(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
            self.xor(a, self.0._mm256_andnot_si256(b, c))
        }
        #[inline(always)]
        fn rotate<const LEFT: i32, const RIGHT: i32>(self, a: __m256i) -> __m256i {
            let (left, right) = (self.0._mm256_slli_epi64::<LEFT>(a), self.0._mm256_srli_epi64::<RIGHT>(a));
            self.0._mm256_or_si256(left, right)
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Eight(pub Avx512f);

    impl Lanes<8> for Eight {
        type Words = __m512i;

        #[inline(always)]
        fn of(self, words: [u64; 8]) -> __m512i {
            cast::<[u64; 8], __m512i>(words)
        }
        #[inline(always)]
        fn to(self, words: __m512i) -> [u64; 8] {
            cast::<__m512i, [u64; 8]>(words)
        }
        #[inline(always)]
        fn xor(self, a: __m512i, b: __m512i) -> __m512i {
            self.0._mm512_xor_si512(a, b)
        }
        #[inline(always)]
        fn xor3(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
            self.0._mm512_ternarylogic_epi64::<0x96>(a, b, c)
        }
        #[inline(always)]
        fn chi(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
            self.0._mm512_ternarylogic_epi64::<0xd2>(a, b, c)
        }
        #[inline(always)]
        fn rotate<const LEFT: i32, const RIGHT: i32>(self, a: __m512i) -> __m512i {
            self.0._mm512_rol_epi64::<LEFT>(a)
        }
    }

    #[inline(always)]
    fn permute<const N: usize, L: Lanes<N>>(lanes: L, state: &mut [[u64; N]; WORDS]) {
        let mut a = state.map(
            #[inline(always)]
            |words| lanes.of(words),
        );
        for constant in ROUND_CONSTANTS {
            // Theta.
            macro_rules! column {
                ($x:literal) => {
                    lanes.xor3(lanes.xor3(a[$x], a[$x + 5], a[$x + 10]), a[$x + 15], a[$x + 20])
                };
            }
            let c = [column!(0), column!(1), column!(2), column!(3), column!(4)];
            macro_rules! theta {
                ($x:literal, $before:literal, $after:literal) => {
                    let d = lanes.rotate::<1, 63>(c[$after]);
                    a[$x] = lanes.xor3(a[$x], c[$before], d);
                    a[$x + 5] = lanes.xor3(a[$x + 5], c[$before], d);
                    a[$x + 10] = lanes.xor3(a[$x + 10], c[$before], d);
                    a[$x + 15] = lanes.xor3(a[$x + 15], c[$before], d);
                    a[$x + 20] = lanes.xor3(a[$x + 20], c[$before], d);
                };
            }
            theta!(0, 4, 1);
            theta!(1, 0, 2);
            theta!(2, 1, 3);
            theta!(3, 2, 4);
            theta!(4, 3, 0);
            // Rho and pi.
            let mut moving = a[1];
            macro_rules! rho_pi {
                ($($to:literal $left:literal $right:literal),*) => {
                    $(
                        let next = a[$to];
                        a[$to] = lanes.rotate::<$left, $right>(moving);
                        moving = next;
                    )*
                };
            }
            rho_pi!(
                10 1 63, 7 3 61, 11 6 58, 17 10 54, 18 15 49, 3 21 43, 5 28 36, 16 36 28, 8 45 19, 21 55 9,
                24 2 62, 4 14 50, 15 27 37, 23 41 23, 19 56 8, 13 8 56, 12 25 39, 2 43 21, 20 62 2, 14 18 46,
                22 39 25, 9 61 3, 6 20 44, 1 44 20
            );
            let _ = moving;
            // Chi.
            macro_rules! chi {
                ($($y:literal),*) => {
                    $(
                        let row = [a[$y], a[$y + 1], a[$y + 2], a[$y + 3], a[$y + 4]];
                        a[$y] = lanes.chi(row[0], row[1], row[2]);
                        a[$y + 1] = lanes.chi(row[1], row[2], row[3]);
                        a[$y + 2] = lanes.chi(row[2], row[3], row[4]);
                        a[$y + 3] = lanes.chi(row[3], row[4], row[0]);
                        a[$y + 4] = lanes.chi(row[4], row[0], row[1]);
                    )*
                };
            }
            chi!(0, 5, 10, 15, 20);
            // Iota.
            a[0] = lanes.xor(a[0], lanes.of([constant; N]));
        }
        *state = a.map(
            #[inline(always)]
            |words| lanes.to(words),
        );
    }

    /// A message in its lane.
    #[derive(Clone, Copy)]
    struct Taken<'a> {
        index: usize,
        rest: &'a [u8],
    }

    /// A lane takes the next message as soon as its own has ended, so that their lengths may differ.
    #[inline(always)]
    pub(super) fn hash_each<'a, const N: usize, L: Lanes<N>>(
        lanes: L,
        messages: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Vec<B256> {
        let mut hashes = vec![B256::ZERO; messages.clone().count()];
        let mut messages = messages.enumerate().map(|(index, rest)| Taken { index, rest });
        let mut taken: [Option<Taken<'_>>; N] = std::array::from_fn(|_| messages.next());
        let mut state = [[0; N]; WORDS];
        while taken.iter().any(Option::is_some) {
            let mut ended = [false; N];
            for (lane, (taken, ended)) in taken.iter_mut().zip(&mut ended).enumerate() {
                let Some(taken) = taken else { continue };
                if let Some((block, rest)) = taken.rest.split_first_chunk::<RATE_BYTES>() {
                    taken.rest = rest;
                    absorb(&mut state, lane, block);
                } else {
                    let mut block = [0; RATE_BYTES];
                    block[..taken.rest.len()].copy_from_slice(taken.rest);
                    block[taken.rest.len()] = 1;
                    block[RATE_BYTES - 1] |= 0x80;
                    absorb(&mut state, lane, &block);
                    *ended = true;
                }
            }
            permute(lanes, &mut state);
            for (lane, (taken, ended)) in taken.iter_mut().zip(ended).enumerate() {
                let Some(done) = taken.filter(|_| ended) else { continue };
                for (word, bytes) in state.iter().zip(hashes[done.index].chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&word[lane].to_le_bytes());
                }
                state.iter_mut().for_each(|word| word[lane] = 0);
                *taken = messages.next();
            }
        }
        hashes
    }

    #[inline(always)]
    fn absorb<const N: usize>(state: &mut [[u64; N]; WORDS], lane: usize, block: &[u8; RATE_BYTES]) {
        let (words, _) = block.as_chunks::<8>();
        for (state, word) in state.iter_mut().zip(words) {
            state[lane] ^= u64::from_le_bytes(*word);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Messages of all lengths up to three permutations, in no order, and some long ones.
    fn messages() -> Vec<Vec<u8>> {
        let length = |index: usize| if index % 50 == 49 { 20 * index } else { index * 173 % 410 };
        (0..410).map(|index| (0..length(index)).map(|at| (at * 7 + index) as u8).collect()).collect()
    }

    #[test]
    fn hashes_are_those_of_another_implementation() {
        let messages = messages();
        let each = || messages.iter().map(Vec::as_slice);
        let expected: Vec<B256> = each().map(keccak256).collect();
        assert_eq!(keccak256_each(each()), expected);
        for count in [0, 1, 3, 4, 5, 7, 8, 9] {
            assert_eq!(keccak256_each(each().take(count)), expected[..count]);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_vector_of_this_processor_gives_the_same_hashes() {
        let messages = messages();
        let each = || messages.iter().map(Vec::as_slice);
        let expected: Vec<B256> = each().map(keccak256).collect();
        if let Some(simd) = pulp::x86::V3::try_new() {
            assert_eq!(simd.vectorize(|| wide::hash_each(wide::Four(simd.avx2), each())), expected);
        }
        if let Some(simd) = pulp::x86::V4::try_new() {
            assert_eq!(simd.vectorize(|| wide::hash_each(wide::Eight(simd.avx512f), each())), expected);
        }
    }
}
