//! HdrHistogram V2, plain and zlib-compressed, straight from and to the sparse form.
//!
//! ```text
//!  0       4        8        12       16       24        32       40
//!  | cookie | length | offset | digits | lowest | highest | ratio | counts ...
//! ```
//!
//! All big-endian; `length` is that of the counts. A count is a zig-zag LEB128 of at most nine bytes (the ninth holds eight bits); a
//! negative one skips so many empty buckets. Compressed: another cookie, a length, then a zlib stream of the above.
//! Source: `HdrHistogram/src/main/java/org/HdrHistogram/AbstractHistogram.java`, `encodeIntoByteBuffer`.

use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};

use super::{Buckets, INDEXES, SparseHistogram};
use crate::Error;

const COOKIE: u32 = 0x1c84_9313;
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
const HEADER: usize = 40;
const COMPRESSED_HEADER: usize = 8;
const VARINT: usize = 9;
/// A dense histogram of our bounds with a nine-byte count in every bucket; nothing longer is read.
const LONGEST: usize = HEADER + VARINT * INDEXES;

impl SparseHistogram {
    /// The V2 encoding: the very bytes that `hdrhistogram`'s `V2Serializer` writes for the same counts.
    pub fn to_v2(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 160);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&[0; 8]); // length, filled in below; normalizing index offset
        bytes.extend_from_slice(&u32::from(Self::DIGITS).to_be_bytes());
        bytes.extend_from_slice(&Self::LOWEST.to_be_bytes());
        bytes.extend_from_slice(&Self::HIGHEST.to_be_bytes());
        bytes.extend_from_slice(&1.0_f64.to_be_bytes());
        let mut next = 0_i64;
        for (index, count) in self.buckets() {
            match i64::from(index) - next {
                0 => {}
                1 => write_varint(&mut bytes, 0),
                empty => write_varint(&mut bytes, -empty),
            }
            write_varint(&mut bytes, count as i64);
            next = i64::from(index) + 1;
        }
        if next == 0 {
            write_varint(&mut bytes, 0); // an empty histogram is one empty bucket
        }
        let length = (bytes.len() - HEADER) as u32;
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The compressed V2 encoding, which interval logs hold.
    pub fn to_v2_compressed(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&COMPRESSED_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let mut encoder = ZlibEncoder::new(bytes, Compression::default());
        let written = encoder.write_all(&self.to_v2()).and_then(|()| encoder.finish());
        let mut bytes = written.expect("writing to memory does not fail");
        let length = (bytes.len() - COMPRESSED_HEADER) as u32;
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The V2 encoding as base64: what `sessions.jsonl` holds.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_v2())
    }

    /// The compressed V2 encoding as base64: what an interval log holds.
    pub fn to_base64_compressed(&self) -> String {
        STANDARD.encode(self.to_v2_compressed())
    }

    /// Reads base64 of either encoding.
    ///
    /// # Errors
    /// As [`from_v2`](Self::from_v2).
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        // Base64 takes four characters for three bytes; deflate may add a few bytes to what it cannot shrink.
        if text.len() > LONGEST / 3 * 4 + 1024 {
            return Err(bad("is longer than any histogram of 1 ns to 60 s can be"));
        }
        let bytes = STANDARD.decode(text).map_err(|error| Error::Histogram(format!("is not base64: {error}")))?;
        Self::from_v2(&bytes)
    }

    /// Reads either encoding. Any declared highest value will do; bytes from a stranger neither panic nor make it allocate more than
    /// a dense histogram would take.
    ///
    /// # Errors
    /// [`Error::Histogram`] for bytes that are no V2 histogram, that are cut short or too long, that were recorded with another
    /// lowest value or other digits, or that count something above 60 s.
    pub fn from_v2(bytes: &[u8]) -> Result<Self, Error> {
        match be_u32(bytes, 0)? {
            COOKIE => decode(bytes),
            COMPRESSED_COOKIE => {
                let length = be_u32(bytes, 4)? as usize;
                let stream = &bytes[COMPRESSED_HEADER..];
                if stream.len() != length {
                    return Err(bad(&format!("declares {length} compressed bytes and has {}", stream.len())));
                }
                let mut plain = Vec::with_capacity(HEADER + 4 * stream.len().min(1024));
                let inflated = ZlibDecoder::new(stream).take(LONGEST as u64 + 1).read_to_end(&mut plain);
                inflated.map_err(|error| Error::Histogram(format!("does not inflate: {error}")))?;
                decode(&plain)
            }
            cookie => Err(bad(&format!("starts with {cookie:#010x}, which is no HdrHistogram V2"))),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<SparseHistogram, Error> {
    if bytes.len() > LONGEST {
        return Err(bad("is longer than any histogram of 1 ns to 60 s can be"));
    }
    let header = |at| be_u32(bytes, at);
    let wide = |at| Ok::<_, Error>(u64::from(header(at)?) << 32 | u64::from(header(at + 4)?));
    if header(0)? != COOKIE {
        return Err(bad("has a second compressed layer"));
    }
    let (length, offset, digits) = (header(4)? as usize, header(8)?, header(12)?);
    let (lowest, highest, ratio) = (wide(16)?, wide(24)?, wide(32)?);
    if lowest != SparseHistogram::LOWEST || digits != u32::from(SparseHistogram::DIGITS) || highest < 2 {
        return Err(bad(&format!(
            "counts from {lowest} to {highest} with {digits} digits; record 1 ns to 60 s with 3"
        )));
    }
    if offset != 0 || ratio != 1.0_f64.to_bits() {
        return Err(bad("has a shifted index or a conversion ratio, which is not supported"));
    }
    let mut counts = &bytes[HEADER..];
    if counts.len() != length {
        return Err(bad(&format!("declares {length} bytes of counts and has {}", counts.len())));
    }
    let mut entries: Vec<(u16, u64)> = Vec::new();
    let mut index = 0_usize;
    while !counts.is_empty() {
        let count = read_varint(&mut counts)?;
        if count < 0 {
            index = index.saturating_add(usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX));
            continue;
        }
        if count > 0 {
            match u16::try_from(index) {
                Ok(at) if index < INDEXES => entries.push((at, count as u64)),
                _ => return Err(bad("counts a value above 60 s")),
            }
        }
        index = index.saturating_add(1);
    }
    Ok(SparseHistogram(packed(&entries)))
}

/// The smallest form that holds these counts, with no spare capacity.
fn packed(entries: &[(u16, u64)]) -> Buckets {
    let narrow = |&(index, count): &(u16, u64)| Some((index, u16::try_from(count).ok()?));
    match entries.iter().map(narrow).collect::<Option<Vec<_>>>() {
        Some(mut buckets) => {
            buckets.shrink_to_fit();
            Buckets::Narrow(buckets)
        }
        None => Buckets::Wide(entries.to_vec()),
    }
}

fn bad(what: &str) -> Error {
    Error::Histogram(what.to_owned())
}

fn be_u32(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_be_bytes).ok_or_else(|| bad(&format!("ends after {} bytes, inside its header", bytes.len())))
}

fn write_varint(bytes: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    for _ in 1..VARINT {
        if rest < 0x80 {
            break;
        }
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Result<i64, Error> {
    let mut value = 0_u64;
    for place in 0..VARINT {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| bad("ends inside a count"))?;
        *bytes = rest;
        if place == VARINT - 1 {
            value |= u64::from(byte) << (7 * place);
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};
    use proptest::prelude::*;

    use super::{super::tests::*, *};

    fn of(bytes: &[u8]) -> Result<SparseHistogram, Error> {
        SparseHistogram::from_v2(bytes)
    }

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        let stream = encoder.finish().unwrap();
        [&COMPRESSED_COOKIE.to_be_bytes()[..], &(stream.len() as u32).to_be_bytes(), &stream].concat()
    }

    fn says(result: Result<SparseHistogram, Error>, what: &str) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(what), "{text}");
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        let valid = both(&[(1_000, 3), (2_000_000, 70_000)]).0.to_v2();
        says(of(&compressed(&vec![0; 200 << 20])), "longer than any");
        says(of(&compressed(&compressed(&valid))), "second compressed layer");
        says(SparseHistogram::from_base64(&"A".repeat(1 << 20)), "longer than any");
        for at in 0..valid.len() {
            assert!(of(&valid[..at]).is_err(), "cut at {at}");
        }
        for (at, bytes, what) in [
            (4, [0xff; 4], "declares 4294967295"),
            (0, [0; 4], "no HdrHistogram V2"),
            (8, [0, 0, 0, 1], "shifted"),
            (12, [0, 0, 0, 5], "5 digits"),
            (20, [0, 0, 3, 232], "from 1000"),
        ] {
            let mut broken = valid.clone();
            broken[at..at + 4].copy_from_slice(&bytes);
            says(of(&broken), what);
        }
    }

    #[test]
    fn a_skip_past_the_end_is_only_wrong_when_something_follows() {
        let with = |counts: &[u8]| {
            let mut bytes = SparseHistogram::new().to_v2();
            bytes.truncate(HEADER);
            bytes.extend_from_slice(counts);
            let length = counts.len() as u32;
            bytes[4..8].copy_from_slice(&length.to_be_bytes());
            of(&bytes)
        };
        let furthest = [0xff; VARINT]; // i64::MIN
        assert!(with(&furthest).unwrap().is_empty());
        says(with(&[&furthest[..], &furthest, &[2]].concat()), "above 60 s");
        says(with(&[0x80, 0x80]), "inside a count");
        assert_eq!(with(&[0x82, 0x80, 0x00]).unwrap().count(), 1, "an overlong varint has the value of its bits");
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_dense_histogram(counts in any_counts()) {
            let (sparse, dense) = both(&counts);
            let (mut plain, mut deflated) = (Vec::new(), Vec::new());
            V2Serializer::new().serialize(&dense, &mut plain).unwrap();
            V2DeflateSerializer::new().serialize(&dense, &mut deflated).unwrap();
            prop_assert_eq!(&sparse.to_v2(), &plain);
            prop_assert_eq!(&sparse.to_v2_compressed(), &deflated);
            prop_assert_eq!(&of(&plain).unwrap(), &sparse);
            prop_assert_eq!(&of(&deflated).unwrap(), &sparse);
            for bytes in [sparse.to_v2(), sparse.to_v2_compressed()] {
                let theirs: hdrhistogram::Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                prop_assert_eq!(&theirs, &dense);
            }
        }

        #[test]
        fn varints_survive(value in any::<i64>()) {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= VARINT);
            prop_assert_eq!(read_varint(&mut bytes.as_slice()).unwrap(), value);
        }

        #[test]
        fn no_bytes_panic(counts in any_counts(), noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
                          tail in prop::collection::vec(any::<u8>(), 0..64), deflated in any::<bool>()) {
            let sparse = both(&counts).0;
            let mut bytes = if deflated { sparse.to_v2_compressed() } else { sparse.to_v2() };
            for (at, byte) in noise {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend_from_slice(&tail);
            if let Ok(read) = of(&bytes) {
                prop_assert_eq!(of(&read.to_v2()).unwrap(), read);
            }
            // The same noise with the length put right reaches the counts.
            if !deflated && bytes.len() > HEADER {
                let length = (bytes.len() - HEADER) as u32;
                bytes[4..8].copy_from_slice(&length.to_be_bytes());
                if let Ok(read) = of(&bytes) {
                    prop_assert_eq!(of(&read.to_v2()).unwrap(), read);
                }
            }
        }
    }
}
