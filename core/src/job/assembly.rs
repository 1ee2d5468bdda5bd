//! Bytes of pieces that are begun, kept as the slices they arrived in: nothing is copied.

use crate::content::{Block, Geometry, Run};
use crate::limits::BLOCK_LEN;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::{Buf as _, Bytes};

/// The slices that make up one block or more, in order.
pub(super) type Slices = Vec<Bytes>;

/// Blocks that have arrived, by piece.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pieces: BTreeMap<u32, BTreeMap<u32, Slices>>,
}

impl Assembly {
    pub(super) fn put(&mut self, block: Block, data: Slices) {
        self.pieces
            .entry(block.piece)
            .or_default()
            .insert(block.index, data);
    }

    /// The whole piece in order.
    pub(super) fn take(&mut self, piece: u32) -> Slices {
        self.pieces
            .remove(&piece)
            .into_iter()
            .flatten()
            .flat_map(|(_, data)| data)
            .collect()
    }

    /// Bytes of all blocks here.
    pub(super) fn bytes(&self) -> u64 {
        let slices = self.pieces.values().flat_map(BTreeMap::values).flatten();
        slices.map(|slice| slice.len() as u64).sum()
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }
}

/// Cuts a run's payload into its blocks.
pub(super) fn blocks_of(run: Run, geometry: &Geometry, data: Slices) -> Vec<(Block, Slices)> {
    let mut rope = Rope::default();
    data.into_iter().for_each(|slice| rope.push(slice));
    (run.first..run.first + run.count)
        .map(|index| Block {
            piece: run.piece,
            index,
        })
        .map(|block| (block, rope.take(geometry.block_len(block) as usize)))
        .collect()
}

/// Turns the bytes of an HTTP body, which come in any cut, into blocks.
#[derive(Debug)]
pub(super) struct Cursor {
    offset: u64,
    rope: Rope,
}

impl Cursor {
    /// `offset` must be a block boundary.
    pub(super) fn at(offset: u64) -> Self {
        Self {
            offset,
            rope: Rope::default(),
        }
    }

    /// Where the next byte belongs.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.rope.len as u64
    }

    /// Bytes of a block that is not whole yet.
    pub(super) fn unfinished(&self) -> u64 {
        self.rope.len as u64
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.rope.push(bytes);
    }

    /// The next whole block, if it is here.
    pub(super) fn next(&mut self, geometry: &Geometry) -> Option<(Block, Slices)> {
        let piece = u32::try_from(self.offset / u64::from(geometry.piece_length())).ok()?;
        let index = (self.offset % u64::from(geometry.piece_length())) as u32 / BLOCK_LEN;
        let block = Block { piece, index };
        let len = geometry.block_len(block);
        if len == 0 || self.rope.len < len as usize {
            return None;
        }
        self.offset += u64::from(len);
        Some((block, self.rope.take(len as usize)))
    }
}

/// A queue of slices.
#[derive(Debug, Default)]
struct Rope {
    slices: alloc::collections::VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// The first `len` bytes, or as many as there are.
    fn take(&mut self, len: usize) -> Slices {
        let mut out = Slices::new();
        let mut left = len;
        while left > 0 {
            let Some(front) = self.slices.front_mut() else {
                break;
            };
            let part = front.split_to(left.min(front.remaining()));
            left -= part.len();
            self.len -= part.len();
            out.push(part);
            if self.slices.front().is_some_and(Bytes::is_empty) {
                self.slices.pop_front();
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn geometry() -> Geometry {
        Geometry::new(5 * u64::from(BLOCK_LEN) + 100, 2 * BLOCK_LEN).unwrap()
    }

    fn content() -> Bytes {
        (0..geometry().length())
            .map(|i| (i % 251) as u8)
            .collect::<Vec<_>>()
            .into()
    }

    #[test]
    fn any_cut_of_the_body_gives_the_same_blocks() {
        for cut in [1, 100, 16383, 16384, 16385, 50_000, usize::MAX] {
            let (mut cursor, mut assembly) = (Cursor::at(0), Assembly::default());
            let mut rest = content();
            let mut blocks = vec![];
            while !rest.is_empty() {
                cursor.push(rest.split_to(cut.min(rest.len())));
                while let Some((block, data)) = cursor.next(&geometry()) {
                    blocks.push(block);
                    assembly.put(block, data);
                }
            }
            assert_eq!(
                (blocks.len(), cursor.end(), cursor.unfinished()),
                (6, geometry().length(), 0)
            );
            let whole: Vec<u8> = (0..3).flat_map(|p| assembly.take(p)).flatten().collect();
            assert_eq!(whole, content());
        }
    }

    #[test]
    fn a_run_is_cut_into_its_blocks() {
        let run = Run {
            piece: 2,
            first: 0,
            count: 2,
        };
        let bytes = content().slice(4 * BLOCK_LEN as usize..);
        let blocks = blocks_of(run, &geometry(), vec![bytes.slice(..7), bytes.slice(7..)]);
        let lens: Vec<usize> = blocks
            .iter()
            .map(|(_, d)| d.iter().map(Bytes::len).sum())
            .collect();
        assert_eq!(lens, [BLOCK_LEN as usize, 100]);
    }
}
