//! The steps of RFC 1321, 3.4, for 1, 4 or 8 messages at once, in vectors of four.

use std::ops::{BitAnd, BitOr, BitXor, Not};
use wide::u32x4;

pub(super) const BLOCK: usize = 64;

pub(super) type State = [u32; 4];

/// The whole part of 2^32 times |sin(step + 1)|.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// By how many bits each step of a round turns.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// Runs `blocks` blocks of each of 1, 4 or 8 messages.
pub(super) fn run<const N: usize>(states: &mut [&mut State; N], data: &[&[u8]; N], blocks: usize) {
    #[cfg(target_arch = "x86_64")]
    if N > 1 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
        // SAFETY: the processor was just asked.
        return unsafe { run_avx512(states, data, blocks) };
    }
    run_any(states, data, blocks);
}

/// These processors turn a word in one instruction and mix three in one: a third faster.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn run_avx512<const N: usize>(states: &mut [&mut State; N], data: &[&[u8]; N], blocks: usize) {
    run_any(states, data, blocks);
}

#[inline(always)]
fn run_any<const N: usize>(states: &mut [&mut State; N], data: &[&[u8]; N], blocks: usize) {
    match N {
        1 => run_groups::<u32, 1, N>(states, data, blocks),
        4 => run_groups::<u32x4, 1, N>(states, data, blocks),
        8 => run_groups::<u32x4, 2, N>(states, data, blocks),
        _ => unreachable!("there are 1, 4 or 8 lanes"),
    }
}

/// `GROUPS` vectors beside each other: one fills the time in which the other waits.
#[inline(always)]
fn run_groups<W: Word, const GROUPS: usize, const N: usize>(
    states: &mut [&mut State; N],
    data: &[&[u8]; N],
    blocks: usize,
) {
    let width = W::WIDTH;
    let mut groups: [[W; 4]; GROUPS] = std::array::from_fn(|group| {
        std::array::from_fn(|word| W::of(|lane| states[group * width + lane][word]))
    });
    // Loops where each block comes by: the closures of `from_fn` become calls, as they lack this function's target features.
    let mut words = [[W::of(|_| 0); 16]; GROUPS];
    for block in 0..blocks {
        for (group, words) in words.iter_mut().enumerate() {
            *words = W::block(&data[group * width..], block * BLOCK);
        }
        compress(&mut groups, &words);
    }
    for (at, state) in states.iter_mut().enumerate() {
        **state = groups[at / width].map(|word| word.lane(at % width));
    }
}

#[inline(always)]
fn compress<W: Word, const GROUPS: usize>(groups: &mut [[W; 4]; GROUPS], words: &[[W; 16]; GROUPS]) {
    let mut turned = *groups;
    macro_rules! round {
        ($round:literal: $($at:literal)*) => {$(
            // The numbers of a step are constants: as variables they make it several times slower.
            step::<W, GROUPS, $round, $at, { TURNS[$round][$at % 4] }, { 32 - TURNS[$round][$at % 4] }>(
                &mut turned,
                words,
            );
        )*};
    }
    round!(0: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    round!(1: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    round!(2: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    round!(3: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    for (group, turned) in groups.iter_mut().zip(turned) {
        for (sum, word) in group.iter_mut().zip(turned) {
            *sum = sum.plus(word);
        }
    }
}

#[inline(always)]
fn step<
    W: Word,
    const GROUPS: usize,
    const ROUND: usize,
    const AT: usize,
    const LEFT: u32,
    const RIGHT: u32,
>(
    groups: &mut [[W; 4]; GROUPS],
    words: &[[W; 16]; GROUPS],
) {
    for (group, words) in groups.iter_mut().zip(words) {
        let [a, b, c, d] = *group;
        let word = words[const { [AT, 5 * AT + 1, 3 * AT + 5, 7 * AT][ROUND] % 16 }];
        let sine = W::of(|_| const { SINES[16 * ROUND + AT] });
        let mixed = match ROUND {
            0 => d ^ (b & (c ^ d)),
            1 => c ^ (d & (b ^ c)),
            2 => b ^ c ^ d,
            _ => c ^ (b | !d),
        };
        let turned = a.plus(word.plus(sine)).plus(mixed).turn::<LEFT, RIGHT>();
        *group = [d, turned.plus(b), b, c];
    }
}

/// A word of one message, or the same word of four.
trait Word:
    Copy + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    const WIDTH: usize;
    fn of(word: impl Fn(usize) -> u32) -> Self;
    fn lane(self, lane: usize) -> u32;
    fn plus(self, other: Self) -> Self;
    fn turn<const LEFT: u32, const RIGHT: u32>(self) -> Self;
    /// The words of the block at that offset of each message.
    fn block(messages: &[&[u8]], offset: usize) -> [Self; 16];
}

impl Word for u32 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn of(word: impl Fn(usize) -> u32) -> Self {
        word(0)
    }

    #[inline(always)]
    fn lane(self, _: usize) -> u32 {
        self
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    fn turn<const LEFT: u32, const RIGHT: u32>(self) -> Self {
        self.rotate_left(LEFT)
    }

    #[inline(always)]
    fn block(messages: &[&[u8]], offset: usize) -> [Self; 16] {
        words(&messages[0][offset..][..BLOCK])
    }
}

impl Word for u32x4 {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn of(word: impl Fn(usize) -> u32) -> Self {
        u32x4::new(std::array::from_fn(word))
    }

    #[inline(always)]
    fn lane(self, lane: usize) -> u32 {
        self.to_array()[lane]
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn turn<const LEFT: u32, const RIGHT: u32>(self) -> Self {
        (self << LEFT) | (self >> RIGHT)
    }

    #[inline(always)]
    fn block(messages: &[&[u8]], offset: usize) -> [Self; 16] {
        let mut block = [u32x4::ZERO; 16];
        for (quarter, out) in block.chunks_exact_mut(4).enumerate() {
            let mut lanes = [u32x4::ZERO; 4];
            for (lane, message) in lanes.iter_mut().zip(messages) {
                *lane = u32x4::new(words(&message[offset + 16 * quarter..][..16]));
            }
            out.copy_from_slice(&u32x4::transpose(lanes));
        }
        block
    }
}

#[inline(always)]
fn words<const WORDS: usize>(bytes: &[u8]) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}
