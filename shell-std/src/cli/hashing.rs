//! What a file on this disk is: its Merkle tree and SHA-256, computed on several threads.
//!
//! Never does: decide what to do with it. Invariant: at most a few pieces are in memory; a file that changes
//! meanwhile is refused. Tests: below.

use crate::host::{words, workers};
use bytes::Bytes;
use dovetail_core::content::{Digest, FlatHash, Geometry, HashJob, PieceLayer, TreeBuilder};
use dovetail_core::failure::{Failure, FailureKind};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A file as its hashes.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) layer: PieceLayer,
    pub(crate) sha256: Digest,
}

/// Pieces read ahead of the hashing.
const AHEAD: usize = 4;

/// Hash the whole file; `progress` hears how many of how many bytes were read.
///
/// # Errors
/// If it cannot be read, is no regular file, is too long for BitTorrent, or changes meanwhile.
pub(crate) fn hash_file(
    path: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<Hashed, Failure> {
    let cannot = |why: String| {
        let what = format!("cannot read {}", path.display());
        Failure::new(FailureKind::Disk, what, why)
    };
    let file = File::open(path).map_err(|e| cannot(words(&e)))?;
    let before = file.metadata().map_err(|e| cannot(words(&e)))?;
    if !before.is_file() {
        return Err(cannot("it is not a regular file".into()));
    }
    let geometry = Geometry::for_length(before.len()).map_err(|e| cannot(e.to_string()))?;
    let (layer, sha256) = thread::scope(|scope| {
        let (to_flat, flat_pieces) = sync_channel(AHEAD);
        let (to_leaves, leaf_pieces) = sync_channel(AHEAD);
        let leaf_pieces = Arc::new(Mutex::new(leaf_pieces));
        let (to_tree, done) = channel();
        let flat = scope.spawn(|| flat(flat_pieces));
        for _ in 0..workers() {
            let (leaf_pieces, to_tree) = (Arc::clone(&leaf_pieces), to_tree.clone());
            scope.spawn(move || leaves(&leaf_pieces, &to_tree));
        }
        drop(to_tree);
        let read = read_pieces(&file, geometry, to_flat, to_leaves, &mut progress);
        let mut tree = TreeBuilder::new(geometry);
        for (piece, leaves) in done {
            tree.piece(piece, &leaves)
                .map_err(|e| cannot(e.to_string()))?;
        }
        read.map_err(cannot)?;
        let layer = tree.finish();
        let sha256 = flat.join().ok();
        layer
            .zip(sha256)
            .ok_or_else(|| cannot("a hashing thread ended early".into()))
    })?;
    let after = file.metadata().map_err(|e| cannot(words(&e)))?;
    if after.len() != before.len() || after.modified().ok() != before.modified().ok() {
        return Err(cannot("it changed while it was read".into())
            .remedy("publish it once nothing writes to it any more"));
    }
    Ok(Hashed { layer, sha256 })
}

fn read_pieces(
    mut file: &File,
    geometry: Geometry,
    to_flat: SyncSender<Bytes>,
    to_leaves: SyncSender<(u32, Bytes)>,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), String> {
    for piece in 0..geometry.pieces() {
        let mut bytes = vec![0; geometry.piece_len(piece) as usize];
        file.read_exact(&mut bytes).map_err(|e| words(&e))?;
        let bytes = Bytes::from(bytes);
        // The receivers live until these senders are dropped.
        _ = to_flat.send(bytes.clone());
        _ = to_leaves.send((piece, bytes));
        progress(geometry.piece_range(piece).end, geometry.length());
    }
    Ok(())
}

fn flat(pieces: Receiver<Bytes>) -> Digest {
    let mut flat = FlatHash::default();
    for piece in pieces {
        let job = HashJob {
            chunks: vec![piece],
            leaves: false,
            flat: Some(flat),
        };
        flat = job.run().flat.unwrap_or_default();
    }
    flat.digest()
}

fn leaves(pieces: &Mutex<Receiver<(u32, Bytes)>>, to_tree: &Sender<(u32, Vec<Digest>)>) {
    loop {
        let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((piece, bytes)) = next else { return };
        let job = HashJob {
            chunks: vec![bytes],
            leaves: true,
            flat: None,
        };
        _ = to_tree.send((piece, job.run().leaves));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("dovetail-hashing-{}-{name}", std::process::id()))
    }

    #[test]
    fn many_threads_give_the_hashes_of_one() {
        let path = scratch("file");
        for len in [0, 1, 16_384, 1 << 20, (5 << 20) + 12_345] {
            let bytes: Vec<u8> = (0..len as u32).map(|n| (n % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let mut heard = 0;
            let hashed = hash_file(&path, |done, total| {
                assert_eq!(total, len);
                heard = done;
            })
            .unwrap();
            assert_eq!(heard, len);
            assert_eq!(hashed.sha256, Digest::of(&bytes));
            let geometry = Geometry::for_length(len).unwrap();
            let mut tree = TreeBuilder::new(geometry);
            for (piece, chunk) in (0..).zip(bytes.chunks(geometry.piece_length() as usize)) {
                let leaves: Vec<_> = chunk.chunks(16_384).map(Digest::of).collect();
                tree.piece(piece, &leaves).unwrap();
            }
            assert_eq!(hashed.layer, tree.finish().unwrap());
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_cannot_be_hashed_is_said() {
        let missing = hash_file(&scratch("missing"), |_, _| {}).unwrap_err();
        assert_eq!(missing.kind, FailureKind::Disk);
        assert_eq!(missing.why, "no such file or directory");
        let folder = hash_file(&std::env::temp_dir(), |_, _| {}).unwrap_err();
        assert_eq!(folder.why, "it is not a regular file");
    }
}
