//! SHA-256 (FIPS 180-4) of messages by pairs. The SHA instructions of x86-64 take several cycles each and one message waits
//! for every one of them, so that two messages in turn take little longer than one. On other processors, and of what is
//! left alone, the crate `sha2` is as good.

#[cfg(target_arch = "x86_64")]
mod pair;

use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Digest = [u8; 32];

/// Of one message.
pub fn sha256(message: &[u8]) -> Digest {
    Sha256::digest(message).into()
}

/// Of two messages; of equal lengths it costs the least.
pub fn sha256_pair(one: &[u8], other: &[u8]) -> [Digest; 2] {
    #[cfg(target_arch = "x86_64")]
    if one.len() == other.len()
        && is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
    {
        // SAFETY: the processor was just asked.
        return unsafe { pair::digests(one, other) };
    }
    [sha256(one), sha256(other)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(one: &[u8], other: &[u8]) {
        assert_eq!(sha256_pair(one, other), [sha256(one), sha256(other)], "{} bytes", one.len());
    }

    /// FIPS 180-4's own examples, side by side.
    #[test]
    fn known_digests() {
        let hex = |digest: Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let [one, other] = sha256_pair(b"abc", b"abd");
        assert_eq!(hex(one), abc);
        assert_ne!(one, other);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_pair(b"", b"").map(hex), [empty, empty]);
    }

    /// Each length of the last block, where padding takes one block or two.
    #[test]
    fn every_length_of_tail() {
        let bytes: Vec<u8> = (0..700u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for length in 0..=260 {
            check(&bytes[..length], &bytes[bytes.len() - length..]);
        }
    }

    proptest! {
        #[test]
        fn by_pairs_as_one_by_one(one in prop::collection::vec(any::<u8>(), 0..2000), seed in any::<u8>()) {
            let other: Vec<u8> = one.iter().map(|byte| byte.wrapping_mul(31) ^ seed).collect();
            check(&one, &other);
            check(&one, &other[..other.len() / 2]);
        }
    }
}
