//! What one peer has asked us for and has not got yet.

use crate::content::Geometry;
use crate::limits::{BLOCK_LEN, RANGE_LEN_MAX, UPLOAD_QUEUE_BLOCKS, UPLOAD_READ_LEN};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// One request as it came: bytes of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub piece: u32,
    pub begin: u32,
    pub len: u32,
    /// Asked with the range extension: answered in runs of blocks, as long as they can be had at once.
    pub ranged: bool,
}

impl Asked {
    /// As BEP 3 has it: one block, answered with one message.
    pub(super) const fn block(piece: u32, begin: u32, len: u32) -> Self {
        Self {
            piece,
            begin,
            len,
            ranged: false,
        }
    }
}

/// Requests that lie next to each other in one piece, to be read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub piece: u32,
    pub begin: u32,
    pub len: u32,
    pub parts: Vec<Asked>,
}

#[derive(Debug, Default)]
pub(super) struct Uploads {
    queue: VecDeque<Asked>,
    queued_bytes: u64,
}

impl Uploads {
    /// Queue a request; false if it must be rejected (nonsense, or too many).
    pub(super) fn push(&mut self, asked: Asked, geometry: &Geometry) -> bool {
        let longest = if asked.ranged {
            RANGE_LEN_MAX
        } else {
            BLOCK_LEN
        };
        let end = u64::from(asked.begin) + u64::from(asked.len);
        let fits =
            asked.len > 0 && asked.len <= longest && end <= geometry.piece_len(asked.piece).into();
        let full = self.queued_bytes >= u64::from(UPLOAD_QUEUE_BLOCKS) * u64::from(BLOCK_LEN)
            || self.queue.len() >= UPLOAD_QUEUE_BLOCKS as usize;
        if fits && !full {
            self.queued_bytes += u64::from(asked.len);
            self.queue.push_back(asked);
        }
        fits && !full
    }

    /// The next read: the oldest request and those that continue it, about `most` bytes and at least a block. Of a
    /// longer range that is the beginning, and the rest stays first in the queue.
    pub(super) fn pop(&mut self, most: u32) -> Option<Upload> {
        let most = most.clamp(1, UPLOAD_READ_LEN).next_multiple_of(BLOCK_LEN);
        let mut first = self.queue.pop_front()?;
        if first.ranged && first.len > most {
            let rest = Asked {
                begin: first.begin + most,
                len: first.len - most,
                ..first
            };
            self.queue.push_front(rest);
            first.len = most;
        }
        let mut upload = Upload {
            piece: first.piece,
            begin: first.begin,
            len: first.len,
            parts: Vec::from([first]),
        };
        while let Some(next) = self.queue.front()
            && next.piece == upload.piece
            && next.begin == upload.begin + upload.len
            && upload.len + next.len <= most
        {
            upload.len += next.len;
            upload.parts.extend(self.queue.pop_front());
        }
        self.queued_bytes -= u64::from(upload.len);
        Some(upload)
    }

    /// Withdraw a request, or the ends of ranges that it covers: the parts that will not be sent.
    pub(super) fn cancel(&mut self, asked: Asked) -> Vec<Asked> {
        let mut cancelled = Vec::new();
        for queued in &mut self.queue {
            let end = queued.begin + queued.len;
            let same = queued.piece == asked.piece && queued.ranged == asked.ranged;
            let covers_end = asked.begin < end && end <= asked.begin.saturating_add(asked.len);
            if !same || !covers_end || (!asked.ranged && *queued != asked) {
                continue;
            }
            let keep = asked.begin.saturating_sub(queued.begin);
            cancelled.push(Asked {
                begin: queued.begin + keep,
                len: queued.len - keep,
                ..*queued
            });
            queued.len = keep;
        }
        self.queue.retain(|queued| queued.len > 0);
        self.queued_bytes -= cancelled.iter().map(|c| u64::from(c.len)).sum::<u64>();
        cancelled
    }

    pub(super) fn drain(&mut self) -> Vec<Asked> {
        self.queued_bytes = 0;
        self.queue.drain(..).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(piece: u32, block: u32) -> Asked {
        Asked {
            piece,
            begin: block * BLOCK_LEN,
            len: BLOCK_LEN,
            ranged: false,
        }
    }

    #[test]
    fn neighbours_are_read_together() {
        let geometry = Geometry::new(8 * 4 * u64::from(BLOCK_LEN), 4 * BLOCK_LEN).unwrap();
        let mut u = Uploads::default();
        for a in [asked(0, 1), asked(0, 2), asked(0, 0), asked(1, 0)] {
            assert!(u.push(a, &geometry));
        }
        let first = u.pop(UPLOAD_READ_LEN).unwrap();
        assert_eq!(
            (first.begin, first.len, first.parts.len()),
            (BLOCK_LEN, 2 * BLOCK_LEN, 2)
        );
        assert_eq!(u.cancel(asked(1, 0)), [asked(1, 0)]);
        assert_eq!(u.cancel(asked(1, 0)), []);
        assert_eq!(u.pop(UPLOAD_READ_LEN).map(|x| x.begin), Some(0));
        assert!(u.pop(UPLOAD_READ_LEN).is_none() && u.queued_bytes == 0);
    }

    #[test]
    fn the_end_of_a_range_can_be_cancelled() {
        let geometry = Geometry::new(8 * 4 * u64::from(BLOCK_LEN), 4 * BLOCK_LEN).unwrap();
        let range = |first: u32, blocks: u32| Asked {
            piece: 0,
            begin: first * BLOCK_LEN,
            len: blocks * BLOCK_LEN,
            ranged: true,
        };
        let mut u = Uploads::default();
        assert!(u.push(range(0, 4), &geometry));
        assert_eq!(u.cancel(range(2, 2)), [range(2, 2)]);
        assert_eq!(u.cancel(range(0, 1)), [], "not the end");
        assert_eq!(u.pop(UPLOAD_READ_LEN).map(|x| x.len), Some(2 * BLOCK_LEN));
        assert_eq!(u.queued_bytes, 0);
    }

    #[test]
    fn a_long_range_is_read_in_parts_where_little_may_go() {
        let geometry = Geometry::new(8 * 4 * u64::from(BLOCK_LEN), 4 * BLOCK_LEN).unwrap();
        let range = Asked {
            piece: 1,
            begin: 0,
            len: 4 * BLOCK_LEN,
            ranged: true,
        };
        let mut u = Uploads::default();
        assert!(u.push(range, &geometry) && u.push(asked(1, 0), &geometry));
        for (most, begin, blocks) in [(1, 0, 1), (BLOCK_LEN + 1, 1, 2), (u32::MAX, 3, 1)] {
            let upload = u.pop(most).unwrap();
            let expected = (begin * BLOCK_LEN, blocks * BLOCK_LEN, 1);
            assert_eq!((upload.begin, upload.len, upload.parts.len()), expected);
            assert_eq!(upload.parts[0].len, upload.len);
        }
        assert_eq!(u.queued_bytes, u64::from(BLOCK_LEN));
    }

    #[test]
    fn nonsense_and_floods_are_refused() {
        let geometry = Geometry::new(u64::from(BLOCK_LEN) + 5, BLOCK_LEN).unwrap();
        let mut u = Uploads::default();
        for (piece, begin, len) in [
            (2, 0, 1),
            (0, 0, 0),
            (1, 0, 6),
            (1, 6, 1),
            (0, u32::MAX, 2),
            (0, 1, BLOCK_LEN),
        ] {
            assert!(
                !u.push(
                    Asked {
                        piece,
                        begin,
                        len,
                        ranged: false
                    },
                    &geometry
                ),
                "{piece} {begin} {len}"
            );
        }
        assert!(u.push(
            Asked {
                piece: 1,
                begin: 0,
                len: 5,
                ranged: false
            },
            &geometry
        ));
        let pushed = (0..10_000)
            .filter(|_| u.push(asked(0, 0), &geometry))
            .count();
        assert!(pushed <= UPLOAD_QUEUE_BLOCKS as usize);
    }
}
