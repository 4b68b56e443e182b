//! Cuts a file into chunks of whole lines, and accounts for every byte of it on the way.

use std::io::{self, BufRead, Read};

use sha2::{Digest, Sha256};

use super::Input;

/// A line longer than this is not ours: 1 MiB. A chunk is at most as long.
pub(super) const LONGEST_LINE: usize = 1 << 20;

/// Lines next to each other.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// A line that is longer than any of ours, and was not kept.
    pub(super) too_long: bool,
}

impl Chunk {
    /// The lines, without blanks around them, and whether each one ended.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| (line.trim_ascii(), line.last() == Some(&b'\n')))
    }
}

/// The chunks of a file.
pub(super) struct Chunks<R> {
    reader: R,
    /// What was read of the next chunk.
    rest: Vec<u8>,
    hash: Sha256,
    bytes: u64,
}

impl<R: BufRead> Chunks<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, rest: Vec::new(), hash: Sha256::new(), bytes: 0 }
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut bytes = Vec::with_capacity(LONGEST_LINE);
        bytes.append(&mut self.rest);
        let missing = (LONGEST_LINE - bytes.len()) as u64;
        self.reader.by_ref().take(missing).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let full = bytes.len() == LONGEST_LINE;
        let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if full => last + 1,
            _ => bytes.len(),
        };
        self.rest = bytes.split_off(end);
        self.account(&bytes);
        let too_long = full && bytes.last() != Some(&b'\n');
        if too_long {
            bytes.clear();
            self.skip_line()?;
        }
        Ok(Some(Chunk { bytes, too_long }))
    }

    /// The file as it was read, under its name.
    pub(super) fn input(self, name: &str, lines: u64) -> Input {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Input { name: name.to_owned(), sha256, bytes: self.bytes, lines }
    }

    fn account(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Reads on to the end of a line without keeping it.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |at| at + 1);
            self.hash.update(&buffer[..length]);
            self.bytes += length as u64;
            self.reader.consume(length);
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Chunked = Vec<(Vec<u8>, bool)>;

    /// The lines of each chunk, and whether they ended; and the bytes of all.
    fn chunks(text: &[u8]) -> (Vec<Chunked>, u64) {
        let mut chunks = Chunks::new(text);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().unwrap() {
            assert!(!chunk.too_long || chunk.bytes.is_empty());
            all.push(chunk.lines().map(|(line, ended)| (line.to_vec(), ended)).collect());
        }
        (all, chunks.input("x", 0).bytes)
    }

    #[test]
    fn lines_stay_whole_across_blocks_and_the_last_may_not_have_ended() {
        let line = [b"x".repeat(300_000), b"\n".to_vec()].concat();
        let text = [line.repeat(5), b"end".to_vec()].concat();
        let (chunks, bytes) = chunks(&text);
        let lengths: Vec<Vec<usize>> = chunks.iter().map(|b| b.iter().map(|(line, _)| line.len()).collect()).collect();
        assert_eq!(lengths, [vec![300_000; 3], vec![300_000, 300_000, 3]]);
        assert_eq!((chunks[1][2].1, chunks[1][1].1), (false, true));
        assert_eq!(bytes, text.len() as u64);
    }

    #[test]
    fn a_line_that_is_too_long_is_a_block_of_its_own() {
        let text = [b"a\n".to_vec(), b"x".repeat(3 << 20), b"\nb\n".to_vec()].concat();
        let (chunks, bytes) = chunks(&text);
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!((chunks[2][0].0.as_slice(), bytes), (b"b".as_slice(), text.len() as u64));
        // The longest line that is one of ours.
        let longest = [b"x".repeat(LONGEST_LINE - 1), b"\n".to_vec()].concat();
        assert_eq!(self::chunks(&longest).0[0][0].0.len(), LONGEST_LINE - 1);
    }
}
