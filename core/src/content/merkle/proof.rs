//! Hash requests (BEP 52): which hashes are asked for, which uncles prove them, and the proof itself.
//!
//! A request names a range of one layer: a power of two of nodes, aligned, so that the range is the bottom of
//! one subtree. The uncles are the siblings on the way from that subtree's root up. Of the proof layers asked
//! for, those the range itself determines are counted but not sent.

use super::{MerkleError, parent, piece_height, root_height};
use crate::content::{Digest, Geometry};
use crate::limits::{HASHES_MAX, HASHES_PER_REQUEST};
use alloc::vec::Vec;

/// The body of messages 21 and 23, and the head of 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashRequest {
    /// Of the file.
    pub root: Digest,
    /// The layer asked for; 0 are the leaves.
    pub base_layer: u32,
    /// First node.
    pub index: u32,
    /// Number of nodes.
    pub count: u32,
    /// Layers above the base layer for which a proof is wanted.
    pub proof_layers: u32,
}

impl HashRequest {
    /// The request for the part of the piece layer that holds this piece, with its proof up to the root:
    /// at most 512 hashes, aligned as libtorrent asks. `None` when the file has fewer than two pieces.
    pub fn for_piece(geometry: &Geometry, root: Digest, piece: u32) -> Option<Self> {
        let pieces = geometry.pieces();
        if pieces < 2 || piece >= pieces {
            return None;
        }
        let index = piece - piece % HASHES_PER_REQUEST;
        let count = (pieces - index)
            .next_power_of_two()
            .clamp(2, HASHES_PER_REQUEST);
        let base_layer = piece_height(geometry);
        Some(Self {
            root,
            base_layer,
            index,
            count,
            proof_layers: root_height(geometry) - base_layer - 1,
        })
    }

    /// Whether this is a range that can be proved: a power of two of nodes, aligned, within the padded layer, with
    /// fewer proof layers than there are layers above. BEP 52 says at least two nodes, but libtorrent asks for the
    /// last piece alone when it is the first of its 512.
    pub fn is_valid(&self, geometry: &Geometry) -> bool {
        let Some(above) = root_height(geometry).checked_sub(self.base_layer) else {
            return false;
        };
        self.count.is_power_of_two()
            && self.count <= HASHES_MAX
            && self.index.is_multiple_of(self.count)
            && u64::from(self.index) + u64::from(self.count) <= 1_u64 << above
            && self.proof_layers < above
    }

    /// The piece whose leaves (or nodes between them and the piece layer) are asked for, if the request is
    /// about the inside of a single piece.
    pub fn piece_within(&self, geometry: &Geometry) -> Option<u32> {
        let levels = piece_height(geometry).checked_sub(self.base_layer)?;
        let width = 1_u32.checked_shl(levels)?;
        let inside = levels > 0 && self.count <= width && self.is_valid(geometry);
        let piece = self.index / width;
        (inside && piece < geometry.pieces()).then_some(piece)
    }

    /// Number of hashes in a right answer: the range and its uncles.
    pub fn answer_len(&self) -> usize {
        self.count as usize + self.uncle_count() as usize
    }

    /// Layer and index of each node on the way up whose sibling is an uncle, bottom to top.
    pub(super) fn uncles(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let levels = self.count.max(1).ilog2();
        let (layer, index) = (self.base_layer + levels, self.index >> levels);
        (0..self.uncle_count()).map(move |up| (layer + up, index >> up))
    }

    /// Two nodes determine the layer above them without being asked for it; a lone node lacks even its sibling.
    fn uncle_count(&self) -> u32 {
        (self.proof_layers.saturating_add(1)).saturating_sub(self.count.max(1).ilog2())
    }
}

/// Check that these hashes (a range and its uncles, as in message 22) lead to the root named in the request.
/// A request whose uncles stop below the root proves nothing.
///
/// # Errors
/// If the request is not valid, the number of hashes is wrong, or they lead elsewhere.
pub fn verify_hashes(
    geometry: &Geometry,
    request: &HashRequest,
    hashes: &[Digest],
) -> Result<(), MerkleError> {
    if !request.is_valid(geometry) {
        return Err(MerkleError::Request);
    }
    let (Some((range, uncles)), true) = (
        hashes.split_at_checked(request.count as usize),
        hashes.len() == request.answer_len(),
    ) else {
        return Err(MerkleError::Count {
            found: hashes.len(),
            expected: request.answer_len(),
        });
    };
    let mut layer: Vec<Digest> = range.to_vec();
    while layer.len() > 1 {
        layer = layer
            .chunks_exact(2)
            .filter_map(|pair| Some(parent(pair.first()?, pair.get(1)?)))
            .collect();
    }
    let mut node = layer.first().copied().ok_or(MerkleError::Request)?;
    let mut height = request.base_layer + request.count.ilog2();
    for ((_, index), uncle) in request.uncles().zip(uncles) {
        node = if index % 2 == 0 {
            parent(&node, uncle)
        } else {
            parent(uncle, &node)
        };
        height += 1;
    }
    if height != root_height(geometry) {
        return Err(MerkleError::Request);
    }
    if node == request.root {
        Ok(())
    } else {
        Err(MerkleError::WrongRoot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LayerBuilder, PieceLayer, TreeBuilder};
    use super::*;
    use crate::limits::BLOCK_LEN;

    fn geometry(pieces: u32, blocks_per_piece: u32) -> Geometry {
        let piece = BLOCK_LEN * blocks_per_piece;
        Geometry::new(u64::from(pieces) * u64::from(piece) - 100, piece).unwrap()
    }

    fn leaf(block: u32) -> Digest {
        Digest::of(&block.to_be_bytes())
    }

    fn leaves_of(g: &Geometry, piece: u32) -> Vec<Digest> {
        let first = piece * g.blocks_per_piece();
        (first..first + g.blocks_in(piece)).map(leaf).collect()
    }

    fn layer(g: &Geometry) -> PieceLayer {
        let mut tree = TreeBuilder::new(*g);
        for piece in (0..g.pieces()).rev() {
            tree.piece(piece, &leaves_of(g, piece)).unwrap();
        }
        tree.finish().unwrap()
    }

    #[test]
    fn asks_as_libtorrent_does() {
        let g = geometry(641, 4);
        let ask = |piece| {
            let r = HashRequest::for_piece(&g, Digest::default(), piece).unwrap();
            (r.base_layer, r.index, r.count, r.proof_layers)
        };
        assert_eq!(ask(0), (2, 0, 512, 9));
        assert_eq!(ask(511), (2, 0, 512, 9));
        assert_eq!(ask(640), (2, 512, 256, 9));
        assert!(HashRequest::for_piece(&g, Digest::default(), 641).is_none());
        assert!(HashRequest::for_piece(&geometry(1, 4), Digest::default(), 0).is_none());
        let tail = HashRequest::for_piece(&geometry(513, 1), Digest::default(), 512).unwrap();
        assert_eq!((tail.index, tail.count, tail.proof_layers), (512, 2, 9));
        assert_eq!(tail.answer_len(), 2 + 9);
    }

    #[test]
    fn every_layer_goes_over_the_wire_piece_by_piece() {
        for pieces in [2, 3, 4, 5, 511, 512, 513, 641, 1025] {
            let g = geometry(pieces, 2);
            let whole = layer(&g);
            let mut got = LayerBuilder::new(g, whole.root());
            let mut asked = 0;
            while let Some(request) = got.next_request(|_| false) {
                let answer = whole.hashes_for(&request).unwrap();
                assert_eq!(answer.len(), request.answer_len());
                got.accept(&request, &answer).unwrap();
                asked += 1;
            }
            assert_eq!(asked, pieces.div_ceil(512));
            assert_eq!(got.finish().unwrap(), whole);
        }
    }

    #[test]
    fn every_valid_request_is_answered_with_a_proof() {
        for (pieces, per) in [(1, 4), (2, 1), (3, 4), (5, 2), (8, 4), (9, 1)] {
            let g = geometry(pieces, per);
            let whole = layer(&g);
            let top = root_height(&g);
            for base_layer in 0..top {
                for count in (0..=top - base_layer).map(|n| 1 << n) {
                    for index in (0..1_u32 << (top - base_layer)).step_by(count as usize) {
                        let request = HashRequest {
                            root: whole.root(),
                            base_layer,
                            index,
                            count,
                            proof_layers: top - base_layer - 1,
                        };
                        assert!(request.is_valid(&g));
                        let answer = match request.piece_within(&g) {
                            Some(p) => whole.hashes_within(&request, &leaves_of(&g, p)),
                            None => whole.hashes_for(&request),
                        };
                        if base_layer >= piece_height(&g) || request.piece_within(&g).is_some() {
                            verify_hashes(&g, &request, &answer.unwrap()).unwrap();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn one_wrong_bit_anywhere_is_refused_and_nothing_kept() {
        let g = geometry(13, 2);
        let whole = layer(&g);
        let mut got = LayerBuilder::new(g, whole.root());
        let request = HashRequest {
            count: 4,
            index: 8,
            ..HashRequest::for_piece(&g, whole.root(), 0).unwrap()
        };
        let good = whole.hashes_for(&request).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at].0[31] ^= 1;
            assert_eq!(got.accept(&request, &bad), Err(MerkleError::WrongRoot));
        }
        assert!(got.accept(&request, &good[1..]).is_err());
        assert_eq!(got.known(), 0);
        assert_eq!(got.accept(&request, &good), Ok(8..12));
        assert_eq!(got.piece(8), whole.piece(8));
        assert_eq!(got.piece(7), None);
    }

    #[test]
    fn requests_that_prove_nothing_are_rejected() {
        let g = geometry(13, 2);
        let whole = layer(&g);
        let good = HashRequest::for_piece(&g, whole.root(), 0).unwrap();
        let small = HashRequest { count: 4, ..good };
        let bad = [
            HashRequest { count: 0, ..good },
            HashRequest { count: 3, ..good },
            HashRequest {
                count: 16384,
                ..good
            },
            HashRequest { index: 2, ..small },
            HashRequest { index: 16, ..small },
            HashRequest {
                index: u32::MAX - 3,
                ..small
            },
            HashRequest {
                proof_layers: 4,
                ..good
            },
            HashRequest {
                base_layer: 5,
                ..good
            },
            HashRequest {
                base_layer: u32::MAX,
                ..good
            },
            HashRequest {
                root: Digest::default(),
                ..good
            },
            HashRequest {
                base_layer: 0,
                index: 0,
                count: 2,
                proof_layers: 4,
                ..good
            },
        ];
        for request in bad {
            assert_eq!(whole.hashes_for(&request), None, "{request:?}");
        }
        let short = HashRequest {
            proof_layers: 2,
            ..small
        };
        let answer = whole.hashes_for(&short).unwrap();
        assert_eq!(answer.len(), 5);
        assert_eq!(
            verify_hashes(&g, &short, &answer),
            Err(MerkleError::Request)
        );
    }
}
