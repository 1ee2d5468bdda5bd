//! Bodies for bencode, metainfo files and Merkle proofs.

use arbitrary::{Arbitrary, Unstructured};
use dovetail_core::content::bencode::{self, Keys, Value};
use dovetail_core::content::merkle::{piece_height, root_height, verify_hashes};
use dovetail_core::content::{
    Digest, Geometry, HashRequest, LayerBuilder, Metainfo, PieceLayer, TreeBuilder,
};
use dovetail_core::limits::BLOCK_LEN;

/// What is accepted is written again as it came, and its parts lie where they say.
pub fn bencode(data: &[u8]) {
    if let Ok(value) = bencode::parse(data) {
        assert_eq!(value.to_tree().encode(), data);
        parts(value, data);
    }
    if let Ok((value, rest)) = bencode::parse_prefix(data, Keys::AnyOrder) {
        assert_eq!([value.raw(), rest].concat(), data);
        let sorted = value.to_tree().encode();
        assert_eq!(bencode::parse(&sorted).map(Value::raw), Ok(&sorted[..]));
    }
}

/// What is accepted is safe, and is the same when written and read again.
pub fn metainfo(data: &[u8]) {
    let Ok(meta) = Metainfo::parse(data) else {
        return;
    };
    assert!(!meta.name.is_empty() && !meta.name.contains(['/', '\\', '\0']));
    assert!(meta.name != "." && meta.name != "..");
    assert_eq!(meta.info_hash.0, Digest::of(meta.info()).0);
    assert_eq!(meta.id.length, meta.geometry.length());
    if let Some(layer) = &meta.layer {
        assert_eq!(layer.id(), meta.id);
    }
    assert_eq!(Metainfo::parse(&meta.encode()), Ok(meta.clone()));
    let ours = Metainfo::for_root(&meta.name, meta.geometry, meta.id.root);
    assert_eq!(ours.map(|ours| ours.id), Ok(meta.id));
}

/// A small tree, and peers that ask and answer as they like.
pub fn merkle(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(tree) = Tree::arbitrary(&mut input) else {
        return;
    };
    let mut known = LayerBuilder::new(tree.geometry, tree.layer.root());
    while !input.is_empty() {
        let Ok(ask) = Ask::arbitrary(&mut input) else {
            return;
        };
        tree.step(&ask, &mut known);
    }
    while let Some(request) = known.next_request(|_| false) {
        let answer = tree.layer.hashes_for(&request).expect("we ask rightly");
        known.accept(&request, &answer).expect("a true answer");
    }
    assert!(known.finish().as_ref() == Some(&tree.layer));
}

fn parts(value: Value<'_>, of: &[u8]) {
    assert!(of[value.offset()..].starts_with(value.raw()));
    if let Some(items) = value.list() {
        items.for_each(|item| parts(item, of));
    }
    if let Some(dict) = value.dict() {
        for (key, inner) in dict.entries() {
            assert_eq!(dict.get(key), Some(inner));
            parts(inner, of);
        }
    }
}

struct Tree {
    geometry: Geometry,
    leaves: Vec<Digest>,
    layer: PieceLayer,
}

/// A request, and what is done to the answer before it is believed.
#[derive(Debug, Arbitrary)]
struct Ask {
    base_layer: u32,
    index: u32,
    count: u32,
    proof_layers: u32,
    /// Make the request one that could be answered, from the same numbers.
    tame: bool,
    spoil: Spoil,
}

#[derive(Debug, Arbitrary)]
enum Spoil {
    Nothing,
    FlipBit { hash: u8, bit: u8 },
    DropLast,
    AddOne,
    Swap { a: u8, b: u8 },
}

impl<'a> Arbitrary<'a> for Tree {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let blocks = input.int_in_range(1..=300_u32)?;
        let per_piece = 1 << input.int_in_range(0..=5_u32)?;
        let length = u64::from(blocks) * u64::from(BLOCK_LEN) - 1;
        let geometry = Geometry::new(length, per_piece * BLOCK_LEN)
            .map_err(|_| arbitrary::Error::IncorrectFormat)?;
        let leaves: Vec<Digest> = (0..blocks)
            .map(|block| Digest::of(&block.to_be_bytes()))
            .collect();
        let mut builder = TreeBuilder::new(geometry);
        for (piece, leaves) in (0..).zip(leaves.chunks(per_piece as usize)) {
            builder.piece(piece, leaves).expect("the right count");
        }
        let layer = builder.finish().expect("all pieces given");
        Ok(Self {
            geometry,
            leaves,
            layer,
        })
    }
}

impl Tree {
    fn step(&self, ask: &Ask, known: &mut LayerBuilder) {
        let request = self.request(ask);
        let answer = match request.piece_within(&self.geometry) {
            Some(piece) => self.layer.hashes_within(&request, self.piece(piece)),
            None => self.layer.hashes_for(&request),
        };
        let Some(mut hashes) = answer else {
            return;
        };
        assert_eq!(hashes.len(), request.answer_len());
        let true_hashes = hashes.clone();
        spoil(&ask.spoil, &mut hashes);
        let proved = verify_hashes(&self.geometry, &request, &hashes).is_ok();
        let to_the_root =
            request.proof_layers + 1 == root_height(&self.geometry) - request.base_layer;
        assert!(
            !proved || hashes == true_hashes,
            "a spoilt answer is proved"
        );
        assert!(proved || hashes != true_hashes || !to_the_root);
        let before = known.clone();
        let accepted = known.accept(&request, &hashes);
        let of_layer = request.base_layer == piece_height(&self.geometry);
        assert_eq!(accepted.is_ok(), proved && of_layer);
        for piece in 0..self.geometry.pieces() {
            let hash = known.piece(piece);
            assert!(hash.is_none() || hash == self.layer.piece(piece));
            assert!(hash.is_some() || before.piece(piece).is_none());
        }
    }

    fn request(&self, ask: &Ask) -> HashRequest {
        let mut request = HashRequest {
            root: self.layer.root(),
            base_layer: ask.base_layer,
            index: ask.index,
            count: ask.count,
            proof_layers: ask.proof_layers,
        };
        let height = root_height(&self.geometry);
        if ask.tame && height > 0 {
            request.base_layer %= height;
            let above = height - request.base_layer;
            request.count = 2 << (request.count % above);
            request.index %= 1 << above;
            request.index -= request.index % request.count;
            request.proof_layers = above - 1;
            assert!(request.is_valid(&self.geometry));
        }
        request
    }

    fn piece(&self, piece: u32) -> &[Digest] {
        let first = (piece * self.geometry.blocks_per_piece()) as usize;
        &self.leaves[first..][..self.geometry.blocks_in(piece) as usize]
    }
}

fn spoil(how: &Spoil, hashes: &mut Vec<Digest>) {
    let len = hashes.len();
    match *how {
        Spoil::Nothing => {}
        Spoil::FlipBit { hash, bit } => {
            hashes[usize::from(hash) % len].0[usize::from(bit / 8)] ^= 1 << (bit % 8);
        }
        Spoil::DropLast => drop(hashes.pop()),
        Spoil::AddOne => hashes.push(Digest::default()),
        Spoil::Swap { a, b } => hashes.swap(usize::from(a) % len, usize::from(b) % len),
    }
}
