//! The bytes of files. Every byte of an upload is known from its number, its place and its kind, and no two
//! kinds agree anywhere, so whatever is stored can be traced to who sent it.

use crate::dice::Dice;
use crate::script::Content;

/// Files are no longer than this, with what is sent beyond their ends.
pub const MOST_BYTES: usize = 34 << 10;

/// How the other bytes differ from those of the file.
const OTHER: u8 = 0x5a;

/// A file, as far as anybody may send it.
#[derive(Debug, Clone)]
pub struct File {
    bytes: [Vec<u8>; 2],
}

impl File {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut file = b"a file of the matrix: ".to_vec();
        while file.len() < MOST_BYTES {
            file.extend_from_slice(&dice.next().to_le_bytes());
        }
        file.truncate(MOST_BYTES);
        let other = file.iter().map(|byte| byte ^ OTHER).collect();
        Self { bytes: [file, other] }
    }

    pub fn bytes(&self, content: Content) -> &[u8] {
        &self.bytes[content as usize]
    }

    /// Where, from `start` on, bytes are that nobody has sent there: `may` says
    /// for each place which contents could be.
    pub fn first_stranger(&self, start: usize, bytes: &[u8], may: &[May]) -> Option<usize> {
        let fits = |(index, byte): (usize, &u8)| {
            let place = start + index;
            [Content::File, Content::Other]
                .into_iter()
                .any(|content| may[place].has(content) && self.bytes(content)[place] == *byte)
        };
        bytes.iter().enumerate().position(|item| !fits(item)).map(|index| start + index)
    }
}

/// Which contents may stand in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct May(u8);

impl May {
    pub fn only(content: Content) -> Self {
        Self(1 << content as u8)
    }

    pub fn has(self, content: Content) -> bool {
        self.0 & (1 << content as u8) != 0
    }

    pub fn or(self, content: Content) -> Self {
        Self(self.0 | 1 << content as u8)
    }
}
