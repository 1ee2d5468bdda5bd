use super::*;
use crate::content::TreeBuilder;
use crate::content::bencode::{BencodeFault, parse};
use crate::limits::BLOCK_LEN;
use alloc::collections::BTreeMap;
use alloc::format;

fn layer(length: u64, piece_length: u32) -> PieceLayer {
    let geometry = Geometry::new(length, piece_length).unwrap();
    let mut tree = TreeBuilder::new(geometry);
    for piece in 0..geometry.pieces() {
        let leaves: Vec<_> = (0..geometry.blocks_in(piece))
            .map(|block| Digest::of(format!("{piece}/{block}").as_bytes()))
            .collect();
        tree.piece(piece, &leaves).unwrap();
    }
    tree.finish().unwrap()
}

fn sample() -> Metainfo {
    Metainfo::for_content(
        "a file.iso",
        layer(u64::from(BLOCK_LEN) * 5 - 1, BLOCK_LEN * 2),
        vec!["http://a/f".into(), "https://b/f".into()],
        vec!["http://t/announce".into(), "udp://u".into()],
    )
    .unwrap()
}

/// The sample's dictionary, to be spoilt.
fn top() -> BTreeMap<Vec<u8>, Tree> {
    entries(parse(&sample().encode()).unwrap().to_tree())
}

fn entries(tree: Tree) -> BTreeMap<Vec<u8>, Tree> {
    match tree {
        Tree::Dict(entries) => entries,
        other => panic!("{other:?} is no dictionary"),
    }
}

fn spoilt(spoil: impl FnOnce(&mut BTreeMap<Vec<u8>, Tree>)) -> MetainfoError {
    let mut top = top();
    spoil(&mut top);
    Metainfo::parse(&Tree::Dict(top).encode()).expect_err("must be refused")
}

fn spoilt_info(spoil: impl FnOnce(&mut BTreeMap<Vec<u8>, Tree>)) -> MetainfoError {
    spoilt(|top| {
        let mut info = entries(top.remove(&b"info"[..]).unwrap());
        spoil(&mut info);
        top.insert(b"info".to_vec(), Tree::Dict(info));
    })
}

fn with_tree(tree: Tree) -> MetainfoError {
    spoilt_info(|info| drop(info.insert(b"file tree".to_vec(), tree)))
}

fn file(entries: [(&[u8], Tree); 2]) -> Tree {
    Tree::dict([(b"", Tree::dict(entries))])
}

fn a_file() -> Tree {
    file([
        (b"length", Tree::Integer(1)),
        (b"pieces root", Tree::Bytes(vec![1; 32])),
    ])
}

#[test]
fn what_is_written_is_read_back() {
    for length in [0, 1, 16384, 32768, 32769, 81919] {
        let mut meta = Metainfo::for_content(
            "f",
            layer(length, BLOCK_LEN * 2),
            vec!["http://a/f".into()],
            vec![],
        )
        .unwrap();
        meta.comment = Some("by hand".into());
        meta.created_by = Some("dovetail".into());
        assert_eq!(Metainfo::parse(&meta.encode()).unwrap(), meta);
    }
    let meta = sample();
    assert_eq!(Metainfo::parse(&meta.encode()).unwrap(), meta);
}

#[test]
fn the_info_dict_is_fixed_by_name_root_length_and_piece_length() {
    let meta = sample();
    let root = meta.id.root.0;
    let mut expected = b"d9:file treed10:a file.isod0:d6:lengthi81919e11:pieces root32:".to_vec();
    expected.extend_from_slice(&root);
    expected.extend_from_slice(b"eee12:meta versioni2e4:name10:a file.iso12:piece lengthi32768ee");
    assert_eq!(&meta.info()[..], &expected[..]);
    assert_eq!(meta.info_hash.0, Digest::of(&expected).0);
    assert_eq!(meta.info_hash.truncated(), meta.info_hash.0[..20]);
    let other = Metainfo::for_root("a file.iso", meta.geometry, meta.id.root).unwrap();
    assert_eq!(other.info_hash, meta.info_hash);
    assert_eq!(other.layer, None);
}

#[test]
fn keys_we_do_not_know_stay_in_the_info_dict_and_its_hash() {
    let mut top = top();
    let mut info = entries(top.remove(&b"info"[..]).unwrap());
    info.insert(b"source".to_vec(), Tree::text("somewhere"));
    info.insert(b"private".to_vec(), Tree::Integer(1));
    let raw = Tree::Dict(info.clone()).encode();
    top.insert(b"info".to_vec(), Tree::Dict(info));
    let meta = Metainfo::parse(&Tree::Dict(top).encode()).unwrap();
    assert!(meta.private);
    assert_eq!(meta.info_hash.0, Digest::of(&raw).0);
    assert_eq!(Metainfo::parse(&meta.encode()).unwrap(), meta);
}

#[test]
fn a_hybrid_is_read_as_v2() {
    let mut top = top();
    let mut info = entries(top.remove(&b"info"[..]).unwrap());
    info.insert(b"pieces".to_vec(), Tree::Bytes(vec![0; 60]));
    info.insert(b"length".to_vec(), Tree::Integer(81919));
    top.insert(b"info".to_vec(), Tree::Dict(info));
    let meta = Metainfo::parse(&Tree::Dict(top).encode()).unwrap();
    assert_eq!(meta.id, sample().id);
    let other = spoilt_info(|info| drop(info.insert(b"length".to_vec(), Tree::Integer(5))));
    assert_eq!(other, MetainfoError::Malformed("length"));
}

#[test]
fn one_web_seed_may_stand_alone_and_trackers_come_in_tiers() {
    let mut top = top();
    top.insert(b"url-list".to_vec(), Tree::text("http://only/one"));
    top.insert(
        b"announce-list".to_vec(),
        Tree::List(vec![
            Tree::List(vec![Tree::text("udp://u"), Tree::text("x")]),
            Tree::List(vec![Tree::text("y")]),
        ]),
    );
    let meta = Metainfo::parse(&Tree::Dict(top).encode()).unwrap();
    assert_eq!(meta.urls, ["http://only/one"]);
    assert_eq!(meta.announce, ["http://t/announce", "udp://u", "x", "y"]);
}

#[test]
fn a_web_seed_that_is_a_folder_gets_the_name() {
    let mut meta = sample();
    meta.urls = ["http://a/f", "HTTPS://a/d/", "ftp://a/f", "http:", ""]
        .map(String::from)
        .to_vec();
    meta.name = "a ü%.iso".into();
    let seeds: Vec<String> = meta.web_seeds().collect();
    assert_eq!(seeds, ["http://a/f", "HTTPS://a/d/a%20%C3%BC%25.iso"]);
}

#[test]
fn other_kinds_of_torrents_are_named() {
    let v1 = spoilt_info(|info| {
        info.remove(&b"meta version"[..]);
        info.insert(b"pieces".to_vec(), Tree::Bytes(vec![0; 20]));
    });
    assert_eq!(v1, MetainfoError::VersionOne);
    let v3 = spoilt_info(|info| drop(info.insert(b"meta version".to_vec(), Tree::Integer(3))));
    assert_eq!(v3, MetainfoError::Version(3));
    let two = with_tree(Tree::dict([(b"a file.iso", a_file()), (b"b", a_file())]));
    assert_eq!(two, MetainfoError::Folder { entries: 2 });
    let nested = Tree::dict([(b"x", a_file()), (b"y", a_file()), (b"z", a_file())]);
    let nested = with_tree(Tree::dict([(b"a file.iso", nested)]));
    assert_eq!(nested, MetainfoError::Folder { entries: 1 });
    let other_name = with_tree(Tree::dict([(b"b", a_file())]));
    assert_eq!(other_name, MetainfoError::Folder { entries: 1 });
    let link = file([
        (b"attr", Tree::text("l")),
        (b"symlink path", Tree::List(vec![])),
    ]);
    let link = with_tree(Tree::dict([(b"a file.iso", link)]));
    assert_eq!(link, MetainfoError::Link);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let geometry = Geometry::new(1, BLOCK_LEN).unwrap();
    let long = "x".repeat(256);
    for name in [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        &long,
    ] {
        let made = Metainfo::for_root(name, geometry, Digest([1; 32]));
        assert_eq!(made, Err(MetainfoError::Name(name.into())));
        let read = spoilt_info(|info| drop(info.insert(b"name".to_vec(), Tree::text(name))));
        assert_eq!(read, MetainfoError::Name(name.into()));
    }
    assert!(Metainfo::for_root("..x é 日本.iso", geometry, Digest([1; 32])).is_ok());
}

#[test]
fn layers_that_do_not_belong_to_the_file_are_refused() {
    let root = sample().id.root.0.to_vec();
    let layers = |entries: Vec<(Vec<u8>, Vec<u8>)>| {
        spoilt(|top| {
            let entries = entries.into_iter().map(|(k, v)| (k, Tree::Bytes(v)));
            top.insert(b"piece layers".to_vec(), Tree::Dict(entries.collect()));
        })
    };
    let good: Vec<u8> = sample()
        .layer
        .unwrap()
        .hashes()
        .iter()
        .flat_map(|h| h.0)
        .collect();
    let mut wrong = good.clone();
    wrong[40] ^= 1;
    assert_eq!(
        layers(vec![(root.clone(), wrong)]),
        MetainfoError::Layer(MerkleError::WrongRoot)
    );
    assert_eq!(
        layers(vec![(root.clone(), good[..64].to_vec())]),
        MetainfoError::Layer(MerkleError::Count {
            found: 2,
            expected: 3
        })
    );
    assert_eq!(
        layers(vec![(root.clone(), good[..95].to_vec())]),
        MetainfoError::Malformed("piece layers")
    );
    assert_eq!(
        layers(vec![(vec![7; 32], good.clone())]),
        MetainfoError::StrayLayer
    );
    assert_eq!(
        layers(vec![(root, good.clone()), (vec![0xff; 32], good)]),
        MetainfoError::StrayLayer
    );
}

#[test]
fn a_missing_layer_is_no_error_because_peers_have_it() {
    let mut top = top();
    top.remove(&b"piece layers"[..]);
    assert_eq!(
        Metainfo::parse(&Tree::Dict(top).encode()).unwrap().layer,
        None
    );
}

#[test]
fn malformed_fields_are_named() {
    let set = |key: &'static str, value: Tree| {
        spoilt_info(|info| drop(info.insert(key.as_bytes().to_vec(), value)))
    };
    assert_eq!(
        set("piece length", Tree::Integer(16385)),
        MetainfoError::Geometry(GeometryError::PieceLength(16385))
    );
    assert_eq!(
        set("piece length", Tree::Integer(1 << 40)),
        MetainfoError::Geometry(GeometryError::PieceLength(1 << 40))
    );
    assert_eq!(
        set("piece length", Tree::Integer(-1)),
        MetainfoError::Malformed("piece length")
    );
    assert_eq!(
        set("file tree", Tree::dict([])),
        MetainfoError::Malformed("file tree")
    );
    let zero_root = file([
        (b"length", Tree::Integer(1)),
        (b"pieces root", Tree::Bytes(vec![0; 32])),
    ]);
    assert_eq!(
        with_tree(Tree::dict([(b"a file.iso", zero_root)])),
        MetainfoError::Malformed("pieces root")
    );
    let negative = file([
        (b"length", Tree::Integer(-1)),
        (b"pieces root", Tree::Bytes(vec![1; 32])),
    ]);
    assert_eq!(
        with_tree(Tree::dict([(b"a file.iso", negative)])),
        MetainfoError::Malformed("length")
    );
    assert_eq!(
        spoilt(|top| drop(top.remove(&b"info"[..]))),
        MetainfoError::Missing("info")
    );
    assert_eq!(
        spoilt(|top| drop(top.insert(b"url-list".to_vec(), Tree::Integer(1)))),
        MetainfoError::Malformed("url-list")
    );
    assert_eq!(
        Metainfo::parse(b"<html>"),
        Err(MetainfoError::Bencode(BencodeError {
            at: 0,
            fault: BencodeFault::Unexpected(b'<')
        }))
    );
}
