//! Telling zeros.

/// Compared in steps that fit the first-level cache, at the speed of memory.
pub(super) fn is_zero(data: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    data.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
