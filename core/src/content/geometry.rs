//! How a file is cut: pieces (announced, verified) and blocks (requested, hashed).

use crate::limits::{BLOCK_LEN, PIECE_LEN, PIECE_LEN_MAX, PIECES_MAX};
use core::fmt;
use core::ops::Range;

/// The cut of one file. Every piece but the last is `piece_length` long, every block but the last 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    piece_length: u32,
}

/// One 16 KiB block (the last of the file may be shorter): piece index and block index within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    pub piece: u32,
    pub index: u32,
}

/// Consecutive blocks of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    pub piece: u32,
    pub first: u32,
    pub count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeometryError {
    /// BEP 52: a power of two, at least 16 KiB.
    PieceLength(u64),
    TooManyPieces(u64),
}

impl Geometry {
    /// # Errors
    /// If the piece length is not a power of two in `16 KiB..=PIECE_LEN_MAX`, or there would be more
    /// than `PIECES_MAX` pieces.
    pub fn new(length: u64, piece_length: u32) -> Result<Self, GeometryError> {
        if !piece_length.is_power_of_two() || !(BLOCK_LEN..=PIECE_LEN_MAX).contains(&piece_length) {
            return Err(GeometryError::PieceLength(piece_length.into()));
        }
        let pieces = length.div_ceil(piece_length.into());
        if pieces > PIECES_MAX.into() {
            return Err(GeometryError::TooManyPieces(pieces));
        }
        Ok(Self {
            length,
            piece_length,
        })
    }

    /// The cut Dovetail gives a file of this length: 1 MiB pieces, larger only when there would be too many.
    ///
    /// # Errors
    /// If the file is too long even for the largest piece length (32 TiB).
    pub fn for_length(length: u64) -> Result<Self, GeometryError> {
        let mut piece_length = PIECE_LEN;
        while length.div_ceil(piece_length.into()) > PIECES_MAX.into()
            && piece_length < PIECE_LEN_MAX
        {
            piece_length *= 2;
        }
        Self::new(length, piece_length)
    }

    pub const fn length(&self) -> u64 {
        self.length
    }

    pub const fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Number of pieces; 0 for an empty file.
    pub const fn pieces(&self) -> u32 {
        self.length.div_ceil(self.piece_length as u64) as u32
    }

    /// Blocks in a full piece.
    pub const fn blocks_per_piece(&self) -> u32 {
        self.piece_length / BLOCK_LEN
    }

    /// Length of this piece in bytes; 0 past the end.
    pub fn piece_len(&self, piece: u32) -> u32 {
        let left = self.length.saturating_sub(self.piece_offset(piece));
        left.min(self.piece_length.into()) as u32
    }

    pub const fn piece_offset(&self, piece: u32) -> u64 {
        piece as u64 * self.piece_length as u64
    }

    /// Blocks in this piece; 0 past the end.
    pub fn blocks_in(&self, piece: u32) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_LEN)
    }

    /// Length of this block in bytes; 0 past the end.
    pub fn block_len(&self, block: Block) -> u32 {
        let within = block.index.saturating_mul(BLOCK_LEN);
        self.piece_len(block.piece)
            .saturating_sub(within)
            .min(BLOCK_LEN)
    }

    /// Length of this run in bytes.
    pub fn run_len(&self, run: Run) -> u32 {
        let within = run.first.saturating_mul(BLOCK_LEN);
        let asked = run.count.saturating_mul(BLOCK_LEN);
        self.piece_len(run.piece).saturating_sub(within).min(asked)
    }

    /// Where this run lies in the file.
    pub fn run_range(&self, run: Run) -> Range<u64> {
        let start = self.piece_offset(run.piece) + u64::from(run.first) * u64::from(BLOCK_LEN);
        start..start + u64::from(self.run_len(run))
    }

    pub fn piece_range(&self, piece: u32) -> Range<u64> {
        let start = self.piece_offset(piece);
        start..start + u64::from(self.piece_len(piece))
    }

    pub fn whole_piece(&self, piece: u32) -> Run {
        Run {
            piece,
            first: 0,
            count: self.blocks_in(piece),
        }
    }
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PieceLength(n) => {
                write!(
                    f,
                    "piece length {n} is not a power of two between {BLOCK_LEN} and {PIECE_LEN_MAX} bytes"
                )
            }
            Self::TooManyPieces(n) => {
                write!(f, "{n} pieces are more than the {PIECES_MAX} allowed")
            }
        }
    }
}
