//! The modules of the core stand in reading order: a module names only modules listed above it in `lib.rs`
//! (`crate::x`, and `super::x` that leads to the root). Tests within the sources and `sim` are free.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_module_uses_only_modules_listed_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = modules(&fs::read_to_string(src.join("lib.rs")).unwrap());
    assert!(order.len() > 10 && order.first().map(String::as_str) == Some("time"));
    let mut files = 0;
    let mut wrong = Vec::new();
    for (place, module) in order.iter().enumerate() {
        if module == "sim" {
            continue;
        }
        for file in sources(&src, module) {
            files += 1;
            let text = fs::read_to_string(&file).unwrap();
            for (line, used) in uses(&text, depth(&src, &file)) {
                let used_place = order.iter().position(|m| *m == used);
                if used_place.is_none_or(|used_place| used_place > place) {
                    wrong.push(format!("{}:{line} names {used}", file.display()));
                }
            }
        }
    }
    assert!(files > order.len() / 2, "sources were not found");
    assert!(wrong.is_empty(), "out of order:\n{}", wrong.join("\n"));
}

/// Names of the modules in the order of `lib.rs`.
fn modules(lib: &str) -> Vec<String> {
    let names = lib.lines().filter_map(|line| {
        line.trim()
            .trim_start_matches("pub ")
            .strip_prefix("mod ")?
            .strip_suffix(';')
    });
    names.map(str::to_owned).collect()
}

/// All files of a module but those that hold tests.
fn sources(src: &Path, module: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![src.join(format!("{module}.rs")), src.join(module)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            todo.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs")
            && !path
                .file_stem()
                .is_some_and(|s| s.to_string_lossy().ends_with("tests"))
            && path.exists()
        {
            out.push(path);
        }
    }
    out
}

/// How many `super::` lead from a file's own module to the crate's root.
fn depth(src: &Path, file: &Path) -> usize {
    let inside = file.strip_prefix(src).unwrap().with_extension("");
    let parts = inside.components().count();
    parts - usize::from(inside.ends_with("mod"))
}

/// Modules of the crate's root that the text names, with line numbers; comments and test modules left out.
fn uses(text: &str, depth: usize) -> Vec<(usize, String)> {
    let text = without_tests_and_comments(text);
    let roots = ["crate::".to_owned(), "super::".repeat(depth)];
    let mut out = Vec::new();
    for root in &roots {
        for (at, _) in text.match_indices(root.as_str()) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + root.len()..];
            out.extend(names(rest).into_iter().map(|name| (line, name)));
        }
    }
    out
}

/// The first segment of a path, or of each path in braces.
fn names(rest: &str) -> Vec<String> {
    let word = |s: &str| -> String {
        let s = s.trim_start();
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut out = Vec::new();
    let mut level = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => {
                out.push(word(&group[start..at]));
                break;
            }
            '}' => level -= 1,
            ',' if level == 0 => {
                out.push(word(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    out.retain(|name| !name.is_empty() && name != "self");
    out
}

/// The text with comments blanked and cut at its unit tests, which stand last in a file.
fn without_tests_and_comments(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reader_sees_what_it_should() {
    let text = "// crate::agent\nuse crate::{time::Mono, wire::{a, b}, ids};\nuse super::job;\n\
                use super::super::picker::P;\nlet x = crate::http::get(); dollar$crate::no\n\
                #[cfg(test)]\nmod tests {\nuse crate::sim::X;\n}";
    let seen = |depth| -> Vec<String> { uses(text, depth).into_iter().map(|(_, n)| n).collect() };
    assert_eq!(seen(1), ["time", "wire", "ids", "http", "job", "super"]);
    assert_eq!(seen(2), ["time", "wire", "ids", "http", "picker"]);
    assert_eq!(
        modules("pub mod a;\n#[cfg(x)]\npub mod b;\nmod c;\nuse d;"),
        ["a", "b", "c"]
    );
}
