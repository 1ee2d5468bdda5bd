//! Cutting the stream into messages: length first, against the limit of the message's kind, as soon as its
//! first bytes are there. The bytes wait in a rope of the chunks as they came.

use super::decode::{self, Head};
use super::{Message, WireError};
use crate::limits::{FRAME_LEN_MAX, ROPE_CHUNK_MIN};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bytes::Bytes;

/// Bytes of the length before each message.
pub(super) const LENGTH_LEN: usize = 4;

/// Turns chunks from the socket into messages.
#[derive(Debug, Default)]
pub struct Framer {
    rope: Rope,
}

impl Framer {
    pub fn on_bytes(&mut self, bytes: Bytes) {
        self.rope.push(bytes);
    }

    /// The next whole message; `None` until more bytes come. Drain it after each `on_bytes`: what is held
    /// is then less than one frame.
    ///
    /// # Errors
    /// A fault of the peer, as early as it shows; the stream cannot be used any further.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator ends for good at `None`, this does not"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        let mut front = [0; LENGTH_LEN + Head::LEN];
        let filled = self.rope.peek(&mut front);
        let (length, head) = front.split_at(LENGTH_LEN);
        let (Ok(length), true) = (length.try_into(), filled >= LENGTH_LEN) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length);
        if length > FRAME_LEN_MAX {
            return Err(WireError::TooLong(length));
        }
        let there = (filled - LENGTH_LEN).min(length as usize);
        let head = Head::new(length, head.get(..there).unwrap_or_default());
        head.check_length()?;
        if self.rope.len() < LENGTH_LEN + length as usize {
            return Ok(None);
        }
        self.rope.skip(LENGTH_LEN);
        decode::message(&head, &mut self.rope).map(Some)
    }

    /// Bytes held of the message that is still incomplete.
    pub const fn buffered(&self) -> usize {
        self.rope.len()
    }
}

/// Bytes in the chunks they came in.
#[derive(Debug, Default)]
pub(super) struct Rope {
    /// None is empty.
    chunks: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        match self.chunks.back_mut() {
            Some(last) if last.len().max(bytes.len()) < ROPE_CHUNK_MIN => {
                *last = [&last[..], &bytes[..]].concat().into();
            }
            _ => self.chunks.push_back(bytes),
        }
    }

    /// Copy bytes from the front without taking them; how many were there.
    fn peek(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        let bytes = self.chunks.iter().flatten();
        for (slot, byte) in out.iter_mut().zip(bytes) {
            *slot = *byte;
            filled += 1;
        }
        filled
    }

    /// Drop this many bytes (or all) from the front.
    fn skip(&mut self, count: usize) {
        self.take_with(count, |_| {});
    }

    /// This many bytes (or all) from the front, as slices of their chunks.
    pub(super) fn take(&mut self, count: usize) -> Vec<Bytes> {
        let mut out = Vec::new();
        self.take_with(count, |chunk| out.push(chunk));
        out
    }

    /// This many bytes (or all) from the front in one piece; copied only if they lie in several chunks.
    pub(super) fn take_joined(&mut self, count: usize) -> Bytes {
        let mut out = Bytes::new();
        let mut several = Vec::new();
        self.take_with(count, |chunk| {
            if out.is_empty() {
                out = chunk;
                return;
            }
            if several.is_empty() {
                several.reserve_exact(count);
                several.extend_from_slice(&out);
            }
            several.extend_from_slice(&chunk);
        });
        if several.is_empty() {
            out
        } else {
            several.into()
        }
    }

    fn take_with(&mut self, count: usize, mut each: impl FnMut(Bytes)) {
        let mut left = count;
        while left > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let part = if chunk.len() > left {
                chunk.split_to(left)
            } else {
                core::mem::take(chunk)
            };
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            left -= part.len();
            self.len -= part.len();
            each(part);
        }
    }
}
