//! From the text of a file to keys and values with their lines, in both formats: TOML and Microsoft's JSON.
//!
//! Decides: which parts a file has. Never does: know settings (`layers` asks the table). A file that cannot be read
//! as a whole says why, and in which line. Tests: `layers_tests.rs`.

use super::kind::Shape;
use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) plain: Vec<Item>,
    /// The `[locked]` table, with its line.
    pub(super) locked: Option<(usize, Vec<Item>)>,
    /// The `[[network]]` tables, with their lines.
    pub(super) networks: Vec<(usize, Vec<Item>)>,
    /// The `[group.NAME]` tables, with their lines; `None`: it is no table.
    pub(super) groups: Vec<(String, usize, Option<Vec<Item>>)>,
}

/// One key and its value.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) line: usize,
    raw: Raw,
}

#[derive(Debug)]
enum Raw {
    Scalar(String),
    List(Vec<String>),
    Table(Vec<(String, String)>),
    Unusable(&'static str),
}

const NESTED: &str = "it holds other than plain values";

impl Item {
    pub(super) fn scalar(key: &str, text: &str) -> Self {
        Self {
            key: key.to_owned(),
            line: 0,
            raw: Raw::Scalar(text.to_owned()),
        }
    }

    /// The value as one text, if it looks as the setting needs it.
    pub(super) fn text(&self, shape: Shape) -> Result<String, String> {
        match (&self.raw, shape) {
            (Raw::Unusable(why), _) => Err((*why).to_owned()),
            (Raw::Scalar(text), _) => Ok(text.clone()),
            (Raw::List(parts), Shape::List) => match parts.iter().find(|p| p.contains(',')) {
                Some(part) => Err(format!("`{part}` has a comma")),
                None => Ok(parts.join(", ")),
            },
            (Raw::List(_), _) => Err("it is a list".to_owned()),
            (Raw::Table(parts), Shape::Hours) => hours(parts),
            (Raw::Table(_), _) => Err("it is a table".to_owned()),
        }
    }

    /// As somebody may have written it.
    pub(super) fn shown(&self) -> String {
        match &self.raw {
            Raw::Scalar(text) => text.clone(),
            Raw::List(parts) => format!("[{}]", parts.join(", ")),
            Raw::Table(_) | Raw::Unusable(_) => String::new(),
        }
    }
}

/// `{from = 8, to = 17, inside = 10, outside = 45}`; Microsoft's schema says `In` and `Out`.
fn hours(parts: &[(String, String)]) -> Result<String, String> {
    const PARTS: [(&str, &str); 4] = [
        ("from", "from"),
        ("to", "to"),
        ("inside", "in"),
        ("outside", "out"),
    ];
    let is = |key: &str, (name, short): (&str, &str)| {
        key.eq_ignore_ascii_case(name) || key.eq_ignore_ascii_case(short)
    };
    if let Some((key, _)) = parts
        .iter()
        .find(|(key, _)| !PARTS.iter().any(|p| is(key, *p)))
    {
        return Err(format!("`{key}` is none of from, to, inside and outside"));
    }
    let part = |wanted: (&str, &str)| {
        let found = parts.iter().find(|(key, _)| is(key, wanted));
        found
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| format!("`{}` is missing", wanted.0))
    };
    let [from, to, inside, outside] = PARTS.map(part);
    Ok(format!("{}-{} {} else {}", from?, to?, inside?, outside?))
}

/// A line of a file, and what is wrong there.
pub(super) type Unreadable = (usize, String);

pub(super) fn from_toml(text: &str) -> Result<Content, Unreadable> {
    let table = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        (line(text, at), e.message().replace('\n', ", "))
    })?;
    let mut content = Content::default();
    for (key, value) in table.into_inner() {
        let at = line(text, key.span().start);
        match (key.get_ref().as_ref(), value.into_inner()) {
            ("locked", DeValue::Table(table)) => {
                content.locked = Some((at, items(text, table)));
            }
            ("network", DeValue::Array(tables)) => {
                for table in tables {
                    let at = line(text, table.span().start);
                    let inner = match table.into_inner() {
                        DeValue::Table(table) => items(text, table),
                        _ => Vec::new(),
                    };
                    content.networks.push((at, inner));
                }
            }
            ("group", DeValue::Table(groups)) => {
                for (name, table) in groups {
                    let at = line(text, name.span().start);
                    let inner = match table.into_inner() {
                        DeValue::Table(table) => Some(items(text, table)),
                        _ => None,
                    };
                    content
                        .groups
                        .push((name.into_inner().into_owned(), at, inner));
                }
            }
            (key, value) => content.plain.push(Item {
                key: key.to_owned(),
                line: at,
                raw: raw(&value),
            }),
        }
    }
    content.plain.sort_by_key(|item| item.line);
    Ok(content)
}

fn items(text: &str, table: DeTable<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = table
        .into_iter()
        .map(|(key, value)| Item {
            line: line(text, key.span().start),
            key: key.into_inner().into_owned(),
            raw: raw(value.get_ref()),
        })
        .collect();
    items.sort_by_key(|item| item.line);
    items
}

fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::Array(parts) => {
            let parts: Option<Vec<String>> =
                parts.iter().map(|part| scalar(part.get_ref())).collect();
            parts.map_or(Raw::Unusable(NESTED), Raw::List)
        }
        DeValue::Table(parts) => {
            let part = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &alloc::borrow::Cow<'_, str> = key.get_ref();
                Some((key.to_string(), scalar(value.get_ref())?))
            };
            let parts: Option<Vec<_>> = parts.iter().map(part).collect();
            parts.map_or(Raw::Unusable(NESTED), Raw::Table)
        }
        value => scalar(value).map_or(Raw::Unusable(NESTED), Raw::Scalar),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(integer(number)),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is) => Some(is.to_string()),
        DeValue::Datetime(at) => Some(at.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// In decimal, whatever it was written in.
fn integer(number: &DeInteger<'_>) -> String {
    match i128::from_str_radix(number.as_str(), number.radix()) {
        Ok(value) => value.to_string(),
        Err(_) => number.as_str().to_owned(),
    }
}

/// Microsoft's `admin-config.json`: one flat object.
pub(super) fn from_json(text: &str) -> Result<Content, Unreadable> {
    use serde_json::Value;
    fn scalar(value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
    let map: serde_json::Map<String, Value> = serde_json::from_str(text).map_err(|e| {
        let said = e.to_string();
        let said = said.split(" at line ").next().unwrap_or_default();
        (e.line(), said.to_owned())
    })?;
    let mut plain: Vec<Item> = map
        .iter()
        .map(|(key, value)| {
            let raw = match value {
                Value::Array(parts) => {
                    let parts: Option<Vec<String>> = parts.iter().map(scalar).collect();
                    parts.map_or(Raw::Unusable(NESTED), Raw::List)
                }
                Value::Object(parts) => {
                    let part =
                        |(key, value): (&String, &Value)| Some((key.clone(), scalar(value)?));
                    let parts: Option<Vec<_>> = parts.iter().map(part).collect();
                    parts.map_or(Raw::Unusable(NESTED), Raw::Table)
                }
                value => scalar(value).map_or(Raw::Unusable("it is null"), Raw::Scalar),
            };
            let at = text.find(&format!("\"{key}\"")).unwrap_or_default();
            Item {
                key: key.clone(),
                line: line(text, at),
                raw,
            }
        })
        .collect();
    plain.sort_by_key(|item| item.line);
    Ok(Content {
        plain,
        ..Content::default()
    })
}
