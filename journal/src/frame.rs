//! How a record lies in a file: a head of [`HEAD`] bytes, then the payload.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the payload, little endian |
//! | 4 | CRC-32 (ISO-HDLC) of number, kind and payload, little endian |
//! | 8 | number, little endian |
//! | 1 | kind: 0 a record, 1 the mark that all records up to this number are complete; others are a later version's |
//!
//! Reading is a pure function of the bytes, and takes any bytes.

/// Bytes before the payload.
pub const HEAD: usize = 17;
/// The largest payload.
pub const LARGEST: usize = 64 << 20;
/// The highest number. No journal ever gets there, so that counting on from a number that was read cannot overflow.
pub const HIGHEST: u64 = u64::MAX >> 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A record.
    Record,
    /// All records up to the frame's number are complete.
    Completed,
    /// What only a later version knows.
    Other(u8),
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Record => 0,
            Self::Completed => 1,
            Self::Other(code) => code,
        }
    }

    const fn of(code: u8) -> Self {
        match code {
            0 => Self::Record,
            1 => Self::Completed,
            _ => Self::Other(code),
        }
    }
}

/// A frame in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub number: u64,
    /// Its content.
    pub payload: &'a [u8],
}

/// Appends a frame to `bytes`. The payload has at most [`LARGEST`] bytes.
pub fn write(bytes: &mut Vec<u8>, kind: Kind, number: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let kind = kind.code();
    bytes.reserve(HEAD + payload.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(number, kind, payload).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(payload);
}

/// The whole frames at the beginning of `bytes`, and how many bytes they take: what follows is torn or damaged.
///
/// ```
/// use context_manager_journal::frame::{Kind, read, write};
///
/// let mut bytes = Vec::new();
/// write(&mut bytes, Kind::Record, 7, b"tea");
/// let whole = bytes.len();
/// bytes.extend_from_slice(b"torn");
/// let (frames, length) = read(&bytes);
/// assert_eq!((frames[0].number, frames[0].payload, length), (7, &b"tea"[..], whole));
/// ```
#[must_use]
pub fn read(bytes: &[u8]) -> (Vec<Frame<'_>>, usize) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some((frame, length)) = first(&bytes[at..]) {
        frames.push(frame);
        at += length;
    }
    (frames, at)
}

fn first(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (&kind, rest) = rest.split_first()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= LARGEST)?;
    let payload = rest.get(..length)?;
    let number = u64::from_le_bytes(*number);
    if number > HIGHEST || checksum(number, kind, payload) != u32::from_le_bytes(*expected) {
        return None;
    }
    Some((Frame { kind: Kind::of(kind), number, payload }, HEAD + length))
}

fn checksum(number: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_no_journal_reaches_is_damage() {
        for (number, expected) in [(HIGHEST, 1), (HIGHEST + 1, 0), (u64::MAX, 0)] {
            let mut bytes = Vec::new();
            write(&mut bytes, Kind::Record, number, b"tea");
            assert_eq!(read(&bytes).0.len(), expected, "{number}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_, length) = read(&bytes);
            prop_assert!(length <= bytes.len());
        }

        #[test]
        fn a_cut_or_a_changed_byte_costs_no_frame_before_it(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6),
            at in any::<prop::sample::Index>(),
            change in 1_u8..,
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for (number, payload) in (0..).zip(&payloads) {
                write(&mut bytes, Kind::Record, number, payload);
                ends.push(bytes.len());
            }
            let at = at.index(bytes.len());
            let untouched = ends.iter().filter(|end| **end <= at).count();
            let (frames, _) = read(&bytes[..at]);
            prop_assert_eq!(frames.len(), untouched);
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let (frames, length) = read(&changed);
            prop_assert_eq!(frames.len(), untouched);
            prop_assert_eq!(length, if untouched == 0 { 0 } else { ends[untouched - 1] });
        }
    }
}
