//! The file that the demo spreads, in the folder that its origin serves.
//!
//! Decides: which file, and its name. Tests: below.

use super::super::home::utf8;
use crate::host::words;
use dovetail_core::failure::{Failure, FailureKind};
use dovetail_core::rng::Rng;
use dovetail_core::stats::Bytes;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// A file ready to be served.
#[derive(Debug)]
pub(super) struct Source {
    /// In the origin's folder.
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) length: u64,
    /// What it is, in words.
    pub(super) is: &'static str,
}

/// Below this the program itself is too small to show anything.
const DEFAULT_SIZE: u64 = 64 << 20;

/// Put the file into `folder`: the one given, or a generated one of the size given, or this program if it is
/// large enough, or a generated one.
pub(super) fn prepare(
    given: Option<&Path>,
    size: Option<u64>,
    folder: &Path,
) -> Result<Source, Failure> {
    if let Some(file) = given {
        return take(file, folder, "your file");
    }
    if let Some(size) = size {
        return generate(size, folder);
    }
    match std::env::current_exe() {
        Ok(program) if fs::metadata(&program).is_ok_and(|found| found.len() >= DEFAULT_SIZE) => {
            take(&program, folder, "this program")
        }
        _ => generate(DEFAULT_SIZE, folder),
    }
}

fn take(file: &Path, folder: &Path, is: &'static str) -> Result<Source, Failure> {
    let cannot = |why: String| {
        let what = format!("cannot use the file {}", file.display());
        Failure::new(FailureKind::Disk, what, why)
    };
    let found = fs::metadata(file).map_err(|e| cannot(words(&e)))?;
    if !found.is_file() {
        return Err(cannot("it is not a regular file".into()));
    }
    if found.len() == 0 {
        return Err(cannot("it is empty: there is nothing to spread".into()));
    }
    let name = utf8(Path::new(file.file_name().unwrap_or_default()))?;
    let path = folder.join(&name);
    // A link costs nothing; across file systems it takes a copy.
    let real = fs::canonicalize(file).map_err(|e| cannot(words(&e)))?;
    fs::hard_link(&real, &path)
        .or_else(|_| fs::copy(&real, &path).map(|_| ()))
        .map_err(|e| cannot(words(&e)))?;
    Ok(Source {
        path,
        name,
        length: found.len(),
        is,
    })
}

fn generate(size: u64, folder: &Path) -> Result<Source, Failure> {
    if size == 0 {
        let what = "cannot generate a file of 0 bytes";
        return Err(Failure::new(
            FailureKind::Usage,
            what,
            "there would be nothing to spread",
        ));
    }
    let name = format!("demo-{}.bin", Bytes(size)).replace(' ', "");
    let path = folder.join(&name);
    write_noise(&path, size).map_err(|e| {
        let what = format!("cannot write {}", path.display());
        Failure::new(FailureKind::Disk, what, words(&e))
            .remedy("choose a folder with more room with the environment variable TMPDIR")
    })?;
    Ok(Source {
        path,
        name,
        length: size,
        is: "a generated file",
    })
}

/// Bytes that no compression and no repetition makes easier.
fn write_noise(path: &Path, size: u64) -> io::Result<()> {
    const CHUNK: usize = 64 * 1024;
    let mut rng = Rng::from_u64(size);
    let mut file = BufWriter::new(File::create(path)?);
    let mut left = size;
    while left > 0 {
        let chunk: [u8; CHUNK] = rng.bytes();
        let len = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        file.write_all(&chunk[..len])?;
        left -= len as u64;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("dovetail-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_generated_file_has_its_size_and_says_it() {
        let folder = scratch("generate");
        let source = prepare(None, Some((3 << 19) + 1), &folder).unwrap();
        assert_eq!(source.name, "demo-1.5MiB.bin");
        assert_eq!(fs::metadata(&source.path).unwrap().len(), (3 << 19) + 1);
        let refused = prepare(None, Some(0), &folder).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Usage);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_given_file_is_served_under_its_own_name() {
        let (here, folder) = (scratch("given"), scratch("served"));
        fs::write(here.join("a b.iso"), "hello").unwrap();
        let source = prepare(Some(&here.join("a b.iso")), None, &folder).unwrap();
        assert_eq!((source.name.as_str(), source.length), ("a b.iso", 5));
        assert_eq!(fs::read(source.path).unwrap(), b"hello");
        for unusable in [here.clone(), here.join("missing")] {
            let refused = prepare(Some(&unusable), None, &folder).unwrap_err();
            assert_eq!(refused.kind, FailureKind::Disk);
        }
        fs::remove_dir_all(here).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
