//! MD5 (RFC 1321) of several messages in lock step. Each of its steps waits for the one before, so one message leaves most
//! of a core idle; four or eight take hardly longer than one. Format v1 has an MD5 for each object, which was the largest
//! part of the work of a full backup and of a restore (docs/decisions/0011-md5-in-lanes.md).
//!
//! A package of its own, so that builds for tests optimise it as they do other people's digests.

mod lanes;

use lanes::{BLOCK, State, run};

/// RFC 1321, 3.3.
const START: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Of that many messages at once each costs the least.
pub const LANES: usize = 8;

/// One message, fed bit by bit.
#[derive(Clone, Debug)]
pub struct Md5 {
    state: State,
    length: u64,
    /// What does not fill a block yet: `length % 64` bytes.
    rest: [u8; BLOCK],
}

impl Default for Md5 {
    fn default() -> Self {
        Md5 { state: START, length: 0, rest: [0; BLOCK] }
    }
}

impl Md5 {
    pub fn update(&mut self, data: &[u8]) {
        let blocks = self.take(data);
        run(&mut [&mut self.state], &[blocks], blocks.len() / BLOCK);
    }

    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let used = (self.length % BLOCK as u64) as usize;
        // One bit that is set, zeros, and the length in bits, to the end of a block.
        let zeros = (2 * BLOCK - 9 - used) % BLOCK;
        let mut end = [0; BLOCK + 9];
        end[0] = 0x80;
        end[1 + zeros..9 + zeros].copy_from_slice(&bits.to_le_bytes());
        self.update(&end[..9 + zeros]);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    /// Takes in all of `data` but its whole blocks, which are given back and are still to be run.
    fn take<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let used = (self.length % BLOCK as u64) as usize;
        self.length = self.length.wrapping_add(data.len() as u64);
        let missing = if used == 0 { 0 } else { BLOCK - used };
        let (head, data) = data.split_at(data.len().min(missing));
        self.rest[used..used + head.len()].copy_from_slice(head);
        if head.len() < missing {
            return &[];
        }
        if missing > 0 {
            run(&mut [&mut self.state], &[&self.rest], 1);
        }
        let (blocks, tail) = data.split_at(data.len() - data.len() % BLOCK);
        self.rest[..tail.len()].copy_from_slice(tail);
        blocks
    }
}

/// The MD5 of one.
pub fn md5(message: &[u8]) -> [u8; 16] {
    let mut md5 = Md5::default();
    md5.update(message);
    md5.finish()
}

/// Feeds each message its next bytes, all in lock step. Lengths may differ; the more they are alike, the better.
pub fn update_together(messages: &mut [(&mut Md5, &[u8])]) {
    let mut lanes: Vec<Lane<'_>> = messages
        .iter_mut()
        .map(|(message, data)| Lane { blocks: message.take(data), state: &mut message.state })
        .filter(|lane| !lane.blocks.is_empty())
        .collect();
    while !lanes.is_empty() {
        // The longest, so that none is left to run alone for long.
        lanes.sort_by_key(|lane| lane.blocks.len());
        let from = lanes.len().saturating_sub(LANES);
        advance(&mut lanes[from..]);
        lanes.retain(|lane| !lane.blocks.is_empty());
    }
}

/// The MD5 of each.
pub fn md5_many(messages: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut states = vec![Md5::default(); messages.len()];
    let mut fed: Vec<_> = states.iter_mut().zip(messages.iter().copied()).collect();
    update_together(&mut fed);
    states.into_iter().map(Md5::finish).collect()
}

#[derive(Debug)]
struct Lane<'a> {
    state: &'a mut State,
    /// Still to be run.
    blocks: &'a [u8],
}

/// Runs all lanes for as long as the shortest goes.
fn advance(lanes: &mut [Lane<'_>]) {
    match lanes.len() {
        0 => {}
        1 => run_lanes::<1>(lanes),
        2..=4 => run_lanes::<4>(lanes),
        _ => run_lanes::<LANES>(lanes),
    }
}

/// Lanes that are missing run along on the first one's bytes, for nobody.
fn run_lanes<const N: usize>(lanes: &mut [Lane<'_>]) {
    let blocks = lanes.iter().map(|lane| lane.blocks.len() / BLOCK).min().unwrap_or(0);
    let data: [&[u8]; N] = std::array::from_fn(|at| lanes.get(at).unwrap_or(&lanes[0]).blocks);
    let mut idle = [START; N];
    let mut states: Vec<&mut State> = lanes.iter_mut().map(|lane| &mut *lane.state).collect();
    let missing = N - states.len();
    states.extend(idle.iter_mut().take(missing));
    let states: &mut [&mut State; N] = states.as_mut_slice().try_into().expect("N of them");
    run(states, &data, blocks);
    for lane in lanes {
        lane.blocks = &lane.blocks[blocks * BLOCK..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_the_library(message: &[u8]) -> [u8; 16] {
        <md_5::Md5 as md_5::Digest>::digest(message).into()
    }

    fn message(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 7) as u8).collect()
    }

    /// RFC 1321, A.5.
    #[test]
    fn the_suite_of_the_rfc() {
        let of = |message: &str| u128::from_be_bytes(md5(message.as_bytes()));
        assert_eq!(of(""), 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
        assert_eq!(of("abc"), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
        assert_eq!(of(&"1234567890".repeat(8)), 0x57ed_f4a2_2be3_c955_ac49_da2e_2107_b67a);
    }

    /// Every length at which the end falls differently, and every number of lanes.
    #[test]
    fn each_is_what_the_library_says() {
        for count in 1..=2 * LANES + 1 {
            let messages: Vec<Vec<u8>> =
                (0..200).step_by(7).map(|length| message(length + count, count)).collect();
            let messages = &messages[..count.min(messages.len())];
            let parts: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let expected: Vec<_> = parts.iter().map(|part| by_the_library(part)).collect();
            assert_eq!(md5_many(&parts), expected, "{count} messages");
        }
    }

    proptest! {
        /// In whatever pieces they come, together or alone.
        #[test]
        fn fed_together_in_any_pieces(
            cuts in proptest::collection::vec(proptest::collection::vec(0usize..300, 1..6), 1..12),
        ) {
            let messages: Vec<Vec<u8>> =
                cuts.iter().enumerate().map(|(seed, cuts)| message(cuts.iter().sum(), seed)).collect();
            let mut states = vec![Md5::default(); messages.len()];
            let mut done = vec![0; messages.len()];
            for round in 0..6 {
                let mut fed = Vec::new();
                for (lane, state) in states.iter_mut().enumerate() {
                    let next = cuts[lane].get(round).copied().unwrap_or(0);
                    let piece = &messages[lane][done[lane]..done[lane] + next];
                    done[lane] += next;
                    match lane % 3 {
                        0 => state.update(piece),
                        _ => fed.push((state, piece)),
                    }
                }
                update_together(&mut fed);
            }
            for (state, message) in states.into_iter().zip(&messages) {
                prop_assert_eq!(state.finish(), by_the_library(message));
            }
        }
    }
}
