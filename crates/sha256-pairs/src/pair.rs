//! Two messages in turn, by the SHA instructions.

use super::Digest;
use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_loadu_si128, _mm_set_epi8, _mm_set_epi32,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

const BLOCK: usize = 64;

/// FIPS 180-4, 4.2.2.
const K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// One message's state, in the order that the instructions want.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// Of two messages of equal lengths.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) fn digests(one: &[u8], other: &[u8]) -> [Digest; 2] {
    let mut states = [start(); 2];
    let ((one, one_rest), (other, other_rest)) = (one.as_chunks::<BLOCK>(), other.as_chunks::<BLOCK>());
    for (one, other) in one.iter().zip(other) {
        compress(&mut states, [one, other]);
    }
    let length = one.len() * BLOCK + one_rest.len();
    let ends = [end(one_rest, length), end(other_rest, length)];
    let (first, second) = (ends[0].as_chunks::<BLOCK>().0, ends[1].as_chunks::<BLOCK>().0);
    let blocks = if one_rest.len() < BLOCK - 8 { 1 } else { 2 };
    for (one, other) in first.iter().zip(second).take(blocks) {
        compress(&mut states, [one, other]);
    }
    [digest(states[0]), digest(states[1])]
}

/// The last bytes with their padding: one bit that is set, zeros, and the length in bits, to the end of a block.
fn end(rest: &[u8], length: usize) -> [u8; 2 * BLOCK] {
    let mut end = [0; 2 * BLOCK];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let blocks = if rest.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
    end[blocks - 8..blocks].copy_from_slice(&(length as u64 * 8).to_be_bytes());
    end
}

/// FIPS 180-4, 5.3.3.
#[target_feature(enable = "sse2")]
fn start() -> State {
    let words = |words: [u32; 4]| {
        let [a, b, c, d] = words.map(u32::cast_signed);
        _mm_set_epi32(a, b, c, d)
    };
    State {
        abef: words([0x6a09_e667, 0xbb67_ae85, 0x510e_527f, 0x9b05_688c]),
        cdgh: words([0x3c6e_f372, 0xa54f_f53a, 0x1f83_d9ab, 0x5be0_cd19]),
    }
}

#[target_feature(enable = "sse2,sse4.1")]
fn digest(State { abef, cdgh }: State) -> Digest {
    let words = [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ];
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

/// Four words of a block.
#[target_feature(enable = "sse2,ssse3")]
#[inline]
fn words(block: &[u8; BLOCK], at: usize) -> __m128i {
    let bytes: &[u8] = &block[16 * at..16 * at + 16];
    // SAFETY: 16 bytes are read of a slice that has as many.
    let words = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm_shuffle_epi8(words, _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3))
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
#[inline]
fn compress(states: &mut [State; 2], blocks: [&[u8; BLOCK]; 2]) {
    let before = *states;
    let [mut one, mut other] = before;
    let mut words_of_one =
        [words(blocks[0], 0), words(blocks[0], 1), words(blocks[0], 2), words(blocks[0], 3)];
    let mut words_of_other =
        [words(blocks[1], 0), words(blocks[1], 1), words(blocks[1], 2), words(blocks[1], 3)];
    // The numbers are constants: as variables they keep the words out of the registers.
    macro_rules! rounds {
        ($($at:literal)*) => {$(
            four_rounds::<$at>(&mut one, &mut words_of_one);
            four_rounds::<$at>(&mut other, &mut words_of_other);
        )*};
    }
    rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    for (state, (before, after)) in states.iter_mut().zip(before.into_iter().zip([one, other])) {
        state.abef = _mm_add_epi32(before.abef, after.abef);
        state.cdgh = _mm_add_epi32(before.cdgh, after.cdgh);
    }
}

#[target_feature(enable = "sha,sse2,ssse3")]
#[inline]
fn four_rounds<const AT: usize>(state: &mut State, words: &mut [__m128i; 4]) {
    if AT >= 4 {
        let (now, last) = (AT % 4, words[(AT + 3) % 4]);
        let early = _mm_sha256msg1_epu32(words[now], words[(AT + 1) % 4]);
        let sum = _mm_add_epi32(early, _mm_alignr_epi8::<4>(last, words[(AT + 2) % 4]));
        words[now] = _mm_sha256msg2_epu32(sum, last);
    }
    let [a, b, c, d] = const { K[AT] }.map(u32::cast_signed);
    let mixed = _mm_add_epi32(words[AT % 4], _mm_set_epi32(d, c, b, a));
    state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, mixed);
    state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32::<0x0e>(mixed));
}
