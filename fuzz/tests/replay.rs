//! Every seed through every body, on stable: a finding once made cannot come back unseen.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dovetail_fuzz::BODIES;
use std::fs;
use std::path::{Path, PathBuf};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    out.sort();
    out
}

#[test]
fn every_seed_through_every_body() {
    for folder in entries(&here().join("seeds")) {
        for seed in entries(&folder) {
            let data = fs::read(&seed).unwrap();
            for (name, body) in BODIES {
                eprintln!("{name} of {}", seed.display());
                body(&data);
            }
        }
    }
}

#[test]
fn every_body_has_a_target_and_seeds_and_nothing_else_has() {
    let manifest = fs::read_to_string(here().join("Cargo.toml")).unwrap();
    let mut names: Vec<&str> = BODIES.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    for name in &names {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name} has no [[bin]]"
        );
        assert!(
            !entries(&here().join("seeds").join(name)).is_empty(),
            "{name} has no seeds"
        );
    }
    for folder in ["seeds", "fuzz_targets"] {
        let found: Vec<String> = entries(&here().join(folder))
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(found, names, "in {folder}");
    }
}
