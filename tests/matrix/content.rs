//! The bytes of files. Every byte of an upload follows from its number, its offset and its kind, and no two
//! kinds have the same byte at any offset, so all stored bytes can be traced to the request that sent them.

use crate::dice::Dice;
use crate::script::Content;

/// The maximum length of a file, including bytes that are sent beyond its end.
pub const MOST_BYTES: usize = 34 << 10;

/// The difference between the other bytes and those of the file.
const OTHER: u8 = 0x5a;

/// A file, up to the highest offset that a client may send.
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

    /// Returns the first position, from `start` on, of a byte that no client has sent there. `may` holds the
    /// possible contents of each position.
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

/// The contents that may be at a position.
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
