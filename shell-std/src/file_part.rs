//! A part of a file on its way to a socket, without passing through memory of ours (sendfile).
//!
//! Decides nothing but how the system is asked: what is not in the page cache, or lies on a file system that cannot
//! do it, is left to somebody who may wait for a disk. Tests: at the foot of this file, `tests/e2e.rs`.

use crate::host::words;
use crate::net::lost;
use bytes::Bytes;
use dovetail_core::machine::Lost;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// So much of it is read at once where it has to be.
const READ_MAX: usize = 256 * 1024;

#[derive(Clone, Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub offset: u64,
    pub len: usize,
}

/// Why nothing was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum NotSent {
    /// The socket has no room.
    Full,
    /// The send window has none ([`crate::path::Shaping::room`]).
    Held,
    /// It has to be read first, which may take a disk's time.
    Cold,
    Lost(Lost),
}

impl FilePart {
    /// Send what the socket takes. A socket that blocks makes this wait. (There is no flag against SIGPIPE here: Rust's
    /// runtime ignores it.)
    ///
    /// # Errors
    ///
    /// See [`NotSent`].
    pub fn send(&self, socket: impl AsFd) -> Result<usize, NotSent> {
        let sent = retry_on_intr(|| {
            let mut offset = self.offset;
            rustix::fs::sendfile(&socket, &*self.file, Some(&mut offset), self.len)
        });
        match sent {
            Ok(0) => Err(NotSent::Lost(self.too_short())),
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => Err(NotSent::Full),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(NotSent::Cold),
            Err(Errno::IO) => Err(NotSent::Lost(Lost::File(words(&Errno::IO.into())))),
            Err(error) => Err(NotSent::Lost(lost(&error.into()))),
        }
    }

    /// The first bytes of it.
    #[must_use]
    pub fn beginning(&self, len: usize) -> Self {
        Self {
            file: Arc::clone(&self.file),
            offset: self.offset,
            len: len.min(self.len),
        }
    }

    /// Does the page cache have it, as far as its last byte can tell? Yes, where the file system does not say.
    pub fn is_warm(&self) -> bool {
        let last = self.offset + self.len.saturating_sub(1) as u64;
        let mut byte = [0];
        let slices = &mut [IoSliceMut::new(&mut byte)];
        let got = rustix::io::preadv2(&*self.file, slices, last, ReadWriteFlags::NOWAIT);
        got != Err(Errno::AGAIN)
    }

    /// Does `next` go on where this one ends?
    pub fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.file, &next.file) && self.offset + self.len as u64 == next.offset
    }

    /// Its first bytes, read.
    ///
    /// # Errors
    ///
    /// It cannot be read, or ends too soon.
    pub fn read(&self) -> Result<Bytes, Lost> {
        let mut bytes = vec![0; self.len.min(READ_MAX)];
        match self.file.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.too_short())
            }
            Err(error) => Err(Lost::File(words(&error))),
        }
    }

    fn too_short(&self) -> Lost {
        let end = self.offset + self.len as u64;
        Lost::File(format!("it ends before byte {end}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn part(offset: u64, len: usize) -> FilePart {
        let memory = rustix::fs::memfd_create("part", MemfdFlags::empty()).unwrap();
        let mut file = File::from(memory);
        file.write_all(b"0123456789").unwrap();
        FilePart {
            file: Arc::new(file),
            offset,
            len,
        }
    }

    #[test]
    fn a_part_leaves_as_it_is_in_the_file() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(part(3, 4).is_warm());
        assert_eq!(part(3, 4).send(&ours), Ok(4));
        assert_eq!(part(3, 4).read().as_deref(), Ok(&b"3456"[..]));
        drop(ours);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"3456");
    }

    #[test]
    fn a_file_that_ends_too_soon_is_an_error_not_an_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let why = Lost::File("it ends before byte 14".into());
        assert_eq!(part(10, 4).send(&ours), Err(NotSent::Lost(why.clone())));
        assert_eq!(part(10, 4).read(), Err(why));
    }

    #[test]
    fn a_full_socket_says_so() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let full = (0..1 << 20).find_map(|_| part(0, 10).send(&ours).err());
        assert_eq!(full, Some(NotSent::Full));
    }
}
