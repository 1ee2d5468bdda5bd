//! Metainfo files made by libtorrent (`tests/vectors/libtorrent`): they load, our tree of the same bytes is
//! theirs, and our own metainfo is the same to the byte.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use dovetail_core::content::{
    Digest, Geometry, HashJob, HashRequest, LayerBuilder, Metainfo, MetainfoError, PieceLayer,
    TreeBuilder,
};
use std::path::PathBuf;

struct Fact {
    name: String,
    geometry: Geometry,
    root: String,
    info_hash: String,
}

fn facts() -> Vec<Fact> {
    let fact = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, length, piece_length, root, info_hash] = words[..] else {
            panic!("{line}");
        };
        Fact {
            name: name.into(),
            geometry: Geometry::new(length.parse().unwrap(), piece_length.parse().unwrap())
                .unwrap(),
            root: root.into(),
            info_hash: info_hash.into(),
        }
    };
    let facts: Vec<Fact> = include_str!("vectors/libtorrent/facts.txt")
        .lines()
        .map(fact)
        .collect();
    assert_eq!(facts.len(), 7);
    facts
}

fn torrent(name: &str) -> Vec<u8> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "vectors", "libtorrent"]
        .iter()
        .collect();
    std::fs::read(folder.join(format!("{name}.torrent"))).unwrap()
}

/// The rule of `make.py`.
fn content(length: u64) -> Vec<u8> {
    (0..length).map(|i| ((i * i / 7 + i) % 251) as u8).collect()
}

fn tree(geometry: Geometry) -> PieceLayer {
    let bytes = Bytes::from(content(geometry.length()));
    let mut builder = TreeBuilder::new(geometry);
    for piece in (0..geometry.pieces()).rev() {
        let range = geometry.piece_range(piece);
        let job = HashJob {
            chunks: vec![bytes.slice(range.start as usize..range.end as usize)],
            leaves: true,
            flat: None,
        };
        builder.piece(piece, &job.run().leaves).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn libtorrent_files_load_with_the_facts_libtorrent_told() {
    for fact in facts() {
        let meta = Metainfo::parse(&torrent(&fact.name)).unwrap();
        assert_eq!(meta.name, fact.name);
        assert_eq!(meta.geometry, fact.geometry, "{}", fact.name);
        assert_eq!(meta.id.length, fact.geometry.length());
        assert_eq!(meta.id.root.to_string(), fact.root, "{}", fact.name);
        assert_eq!(meta.info_hash.to_string(), fact.info_hash, "{}", fact.name);
        assert!(meta.layer.is_some());
    }
}

#[test]
fn our_tree_of_the_same_bytes_is_libtorrents() {
    for fact in facts() {
        let meta = Metainfo::parse(&torrent(&fact.name)).unwrap();
        assert_eq!(meta.layer, Some(tree(fact.geometry)), "{}", fact.name);
    }
}

#[test]
fn our_metainfo_of_the_same_file_has_the_same_info_hash_and_bytes() {
    for fact in facts().iter().filter(|fact| fact.name != "hybrid.bin") {
        let theirs = torrent(&fact.name);
        let read = Metainfo::parse(&theirs).unwrap();
        let mut ours = Metainfo::for_content(
            &fact.name,
            tree(fact.geometry),
            read.urls.clone(),
            read.announce.clone(),
        )
        .unwrap();
        ours.comment = read.comment.clone();
        assert_eq!(ours.info_hash.to_string(), fact.info_hash, "{}", fact.name);
        assert_eq!(ours, read);
        assert!(ours.encode() == theirs, "{} differs", fact.name);
    }
}

#[test]
fn web_seeds_trackers_and_comment_are_read() {
    let meta = Metainfo::parse(&torrent("short-tail.bin")).unwrap();
    assert_eq!(
        meta.urls,
        [
            "http://example.org/short-tail.bin",
            "https://mirror.example.org/short-tail.bin"
        ]
    );
    assert_eq!(
        meta.announce,
        [
            "http://tracker.example.org/announce",
            "udp://tracker.example.org:6969"
        ]
    );
    assert_eq!(meta.comment.as_deref(), Some("made by libtorrent"));
}

#[test]
fn what_is_not_a_single_v2_file_is_refused_by_name() {
    assert_eq!(
        Metainfo::parse(&torrent("v1.bin")),
        Err(MetainfoError::VersionOne)
    );
    assert_eq!(
        Metainfo::parse(&torrent("folder")),
        Err(MetainfoError::Folder { entries: 2 })
    );
}

/// A layer made by libtorrent, sent over in proofs and put together again.
#[test]
fn libtorrents_layer_survives_the_hash_exchange() {
    let meta = Metainfo::parse(&torrent("many.bin")).unwrap();
    let layer = meta.layer.unwrap();
    let mut builder = LayerBuilder::new(meta.geometry, meta.id.root);
    for index in (0..128).step_by(8) {
        let request = HashRequest {
            root: meta.id.root,
            base_layer: 0,
            index,
            count: 8,
            proof_layers: 6,
        };
        let answer = layer.hashes_for(&request);
        if index < 68 {
            builder.accept(&request, &answer.unwrap()).unwrap();
        }
    }
    assert!(builder.is_complete());
    assert_eq!(builder.finish(), Some(layer));
}

#[test]
fn the_empty_file_has_no_root() {
    let geometry = Geometry::new(0, 16384).unwrap();
    let meta = Metainfo::for_content("empty", tree(geometry), vec![], vec![]).unwrap();
    assert_eq!(
        &meta.info()[..],
        b"d9:file treed5:emptyd0:d6:lengthi0eeee12:meta versioni2e4:name5:empty12:piece lengthi16384ee"
    );
    assert_eq!(
        Metainfo::parse(&meta.encode()).unwrap().id.root,
        Digest::default()
    );
}
