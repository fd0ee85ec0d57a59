//! A file of lines in pieces, each of whole lines.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use context_manager_protocol::message::ExportEnd;

use crate::error::Error;

/// Bytes of a piece: less than a sidecar takes by default, and little enough for its time.
const BYTES: usize = 1 << 20;

/// The file.
pub(super) struct Pieces {
    path: PathBuf,
    file: BufReader<File>,
    /// Bytes of a piece at most, if a line is not longer.
    most: usize,
    /// Bytes and lines that were dealt with.
    bytes: u64,
    lines: usize,
}

/// Some lines.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: Vec<u8>,
    pub(super) lines: usize,
    /// How many lines of the file come before.
    pub(super) after: usize,
}

impl Pieces {
    /// Opens the file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| input(path, &error))?;
        Ok(Self { path: path.to_owned(), file: BufReader::new(file), most: BYTES, bytes: 0, lines: 0 })
    }

    /// Whether the last line says that it is the last one.
    pub(super) fn is_whole(&mut self) -> Result<bool, Error> {
        let (mut line, mut last) = (Vec::new(), Vec::new());
        while self.read(&mut line)? > 0 {
            std::mem::swap(&mut line, &mut last);
            line.clear();
        }
        Ok(serde_json::from_slice::<ExportEnd>(&last).is_ok())
    }

    /// The lines that come next, as many as are sent at once. It is the same piece until it was dealt with.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Error> {
        self.file.seek(SeekFrom::Start(self.bytes)).map_err(|error| input(&self.path, &error))?;
        let mut piece = Piece { text: Vec::new(), lines: 0, after: self.lines };
        let mut line = Vec::new();
        while self.read(&mut line)? > 0 {
            if piece.lines > 0 && piece.text.len() + line.len() > self.most {
                break;
            }
            piece.text.append(&mut line);
            piece.lines += 1;
        }
        Ok((piece.lines > 0).then_some(piece))
    }

    /// Goes on after the first lines of a piece.
    pub(super) fn took(&mut self, piece: &Piece, lines: usize) {
        let taken = piece.text.split_inclusive(|byte| *byte == b'\n').take(lines);
        self.bytes += taken.map(|line| line.len() as u64).sum::<u64>();
        self.lines += lines;
    }

    /// Makes smaller pieces: this one is larger than the sidecar takes.
    ///
    /// # Errors
    /// When it has one line only.
    pub(super) fn make_smaller(&mut self, piece: &Piece, error: &Error) -> Result<(), Error> {
        if piece.lines == 1 {
            return Err(Error::Refused(format!("line {}: {error}", piece.after + 1)));
        }
        self.most = piece.text.len() / 2;
        Ok(())
    }

    fn read(&mut self, line: &mut Vec<u8>) -> Result<usize, Error> {
        self.file.read_until(b'\n', line).map_err(|error| input(&self.path, &error))
    }
}

fn input(path: &Path, error: &std::io::Error) -> Error {
    Error::Input { file: path.display().to_string(), what: error.to_string() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_line_is_in_one_piece_whatever_was_taken_of_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("team.jsonl");
        let lines: Vec<String> = (0..1_000).map(|number| format!("{{\"n\":{number}}}\n")).collect();
        let text = lines.concat();
        fs::write(&path, text.clone() + "{\"exported\":1000}").unwrap();
        let mut pieces = Pieces::open(&path).unwrap();
        assert!(pieces.is_whole().unwrap());
        pieces.most = 1_000;
        let (mut sent, mut count) = (Vec::new(), 0);
        while let Some(piece) = pieces.next().unwrap() {
            assert!(piece.text.len() <= 1_000 && piece.after == pieces.lines);
            if count == 1 {
                pieces.make_smaller(&piece, &Error::Refused("too large".to_owned())).unwrap();
            } else {
                let taken = piece.lines.min(40);
                sent.extend(piece.text.split_inclusive(|byte| *byte == b'\n').take(taken).flatten());
                pieces.took(&piece, taken);
            }
            count += 1;
        }
        assert_eq!(String::from_utf8(sent).unwrap(), text + "{\"exported\":1000}");
        assert!(pieces.most < 600 && pieces.lines == 1_001 && count > 25, "{count}");
    }

    #[test]
    fn half_an_export_and_a_line_that_is_too_long_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("team.jsonl");
        fs::write(&path, "{\"n\":0}\n{\"n\":1}\n").unwrap();
        let mut pieces = Pieces::open(&path).unwrap();
        assert!(!pieces.is_whole().unwrap());
        pieces.most = 1;
        let piece = pieces.next().unwrap().unwrap();
        assert_eq!((piece.lines, piece.text.as_slice()), (1, b"{\"n\":0}\n".as_slice()));
        pieces.took(&piece, 1);
        let piece = pieces.next().unwrap().unwrap();
        let refused = pieces.make_smaller(&piece, &Error::Refused("too large".to_owned())).unwrap_err();
        assert_eq!(refused.to_string(), "line 2: too large");
    }
}
