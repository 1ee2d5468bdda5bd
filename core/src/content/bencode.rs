//! Bencode (BEP 3): a strict, borrowed decoder and a small encoder.
//!
//! Decides: whether bytes are one well-formed value. [`parse`] checks everything once; a [`Value`] is then a
//! view of the input that walks it again on demand, so a hostile file costs no memory but its own.
//! Never does: recursion on input (depth is counted against [`BENCODE_DEPTH_MAX`]).
//! Invariants: a [`Value`] exists only for checked bytes; [`Value::raw`] are exactly the bytes as found.
//! Spec: BEP 3; key order as BEP 52 wants it. Tests: below, `fuzz/src/content.rs`.

use crate::limits::BENCODE_DEPTH_MAX;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

/// A checked bencoded value: a view of the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
    at: usize,
}

/// A view of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dict<'a>(Value<'a>);

/// What is wrong, and at which byte of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BencodeError {
    pub at: usize,
    pub fault: BencodeFault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BencodeFault {
    /// The input ends within a value.
    Short,
    /// No value, key or end can start with this byte.
    Unexpected(u8),
    /// Empty, with leading zeros, minus zero, or larger than 64 bits.
    Integer,
    /// A string's length is malformed.
    StringLength,
    /// A key is not greater than the one before it.
    KeyOrder,
    /// Lists and dictionaries nested deeper than [`BENCODE_DEPTH_MAX`].
    TooDeep,
    /// More bytes after the value.
    Trailing,
}

/// Whether a dictionary's keys must be sorted and unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// As the specification says; anything that is hashed must be read so.
    Sorted,
    /// Any order (some peers' extension handshakes); of equal keys the first counts.
    AnyOrder,
}

/// Check that `bytes` are exactly one value with sorted keys.
///
/// # Errors
/// The first fault and its offset.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, BencodeError> {
    let (value, rest) = parse_prefix(bytes, Keys::Sorted)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(BencodeError {
            at: value.raw.len(),
            fault: BencodeFault::Trailing,
        })
    }
}

/// Check the value at the front of `bytes`; also gives what follows it (BEP 9 puts data there).
///
/// # Errors
/// The first fault and its offset.
pub fn parse_prefix(bytes: &[u8], keys: Keys) -> Result<(Value<'_>, &[u8]), BencodeError> {
    let mut check = Check { bytes, at: 0, keys };
    check.value()?;
    let (raw, rest) = bytes.split_at(check.at);
    Ok((Value { raw, at: 0 }, rest))
}

impl<'a> Value<'a> {
    /// The value's bytes exactly as found.
    pub const fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Where the value starts in the parsed input.
    pub const fn offset(self) -> usize {
        self.at
    }

    pub fn integer(self) -> Option<i64> {
        let digits = self.raw.strip_prefix(b"i")?.strip_suffix(b"e")?;
        core::str::from_utf8(digits).ok()?.parse().ok()
    }

    pub fn bytes(self) -> Option<&'a [u8]> {
        let colon = string_head(self.raw)?;
        self.raw.get(colon..)
    }

    /// A string that is UTF-8.
    pub fn text(self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }

    pub fn list(self) -> Option<impl Iterator<Item = Self>> {
        (self.raw.first() == Some(&b'l')).then_some(Items { of: self, next: 1 })
    }

    pub fn dict(self) -> Option<Dict<'a>> {
        (self.raw.first() == Some(&b'd')).then_some(Dict(self))
    }

    /// The same value in owned form.
    pub fn to_tree(self) -> Tree {
        if let Some(n) = self.integer() {
            Tree::Integer(n)
        } else if let Some(items) = self.list() {
            Tree::List(items.map(Value::to_tree).collect())
        } else if let Some(dict) = self.dict() {
            let mut entries = BTreeMap::new();
            for (key, value) in dict.entries() {
                let slot = entries.entry(key.to_vec());
                slot.or_insert_with(|| value.to_tree());
            }
            Tree::Dict(entries)
        } else {
            Tree::Bytes(self.bytes().unwrap_or_default().to_vec())
        }
    }
}

impl<'a> Dict<'a> {
    /// The value under this key. Walks the dictionary.
    pub fn get(self, key: &[u8]) -> Option<Value<'a>> {
        self.entries().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Keys and values in the order found.
    pub fn entries(self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> {
        let mut items = Items {
            of: self.0,
            next: 1,
        };
        core::iter::from_fn(move || Some((items.next()?.bytes()?, items.next()?)))
    }

    pub const fn value(self) -> Value<'a> {
        self.0
    }
}

/// Walks the values within a checked list or dictionary.
struct Items<'a> {
    of: Value<'a>,
    next: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let rest = self.of.raw.get(self.next..)?;
        let raw = rest.get(..value_len(rest)?)?;
        let at = self.of.at + self.next;
        self.next += raw.len();
        Some(Value { raw, at })
    }
}

/// Length of the checked value at the front of `bytes`; `None` at a container's end.
fn value_len(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let rest = bytes.get(at..)?;
        match rest.first()? {
            b'e' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b'l' | b'd' => {
                depth += 1;
                at += 1;
            }
            b'i' => at += rest.iter().position(|b| *b == b'e')? + 1,
            _ => at += string_len(rest)?,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Bytes up to and with the colon of the string at the front.
fn string_head(bytes: &[u8]) -> Option<usize> {
    if !bytes.first()?.is_ascii_digit() {
        return None;
    }
    Some(bytes.iter().position(|b| *b == b':')? + 1)
}

/// Length of the whole string at the front, with its head.
fn string_len(bytes: &[u8]) -> Option<usize> {
    let head = string_head(bytes)?;
    let digits = core::str::from_utf8(bytes.get(..head - 1)?).ok()?;
    head.checked_add(digits.parse().ok()?)
}

struct Check<'a> {
    bytes: &'a [u8],
    at: usize,
    keys: Keys,
}

enum Open<'a> {
    List,
    /// With its latest key.
    Dict(Option<&'a [u8]>),
}

impl<'a> Check<'a> {
    fn value(&mut self) -> Result<(), BencodeError> {
        let mut open = Vec::new();
        loop {
            match open.last_mut() {
                Some(_) if self.peek()? == b'e' => {
                    self.at += 1;
                    open.pop();
                }
                Some(Open::Dict(latest)) => {
                    let at = self.at;
                    let key = self.string()?;
                    if self.keys == Keys::Sorted && latest.is_some_and(|l| l >= key) {
                        return fault(at, BencodeFault::KeyOrder);
                    }
                    *latest = Some(key);
                    self.begin(&mut open)?;
                }
                Some(Open::List) | None => self.begin(&mut open)?,
            }
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    /// A whole integer or string, or the start of a container.
    fn begin(&mut self, open: &mut Vec<Open<'a>>) -> Result<(), BencodeError> {
        let container = match self.peek()? {
            b'i' => return self.integer(),
            b'0'..=b'9' => return self.string().map(drop),
            b'l' => Open::List,
            b'd' => Open::Dict(None),
            other => return fault(self.at, BencodeFault::Unexpected(other)),
        };
        if open.len() >= BENCODE_DEPTH_MAX {
            return fault(self.at, BencodeFault::TooDeep);
        }
        open.push(container);
        self.at += 1;
        Ok(())
    }

    fn integer(&mut self) -> Result<(), BencodeError> {
        let start = self.at;
        self.at += 1;
        let negative = self.peek()? == b'-';
        if negative {
            self.at += 1;
        }
        let digits = self.digits()?;
        let canonical = match digits {
            [] => false,
            [b'0'] => !negative,
            [b'0', ..] => false,
            _ => true,
        };
        if !canonical || self.peek()? != b'e' {
            return fault(start, BencodeFault::Integer);
        }
        let text = self.bytes.get(start + 1..self.at).unwrap_or_default();
        let fits = core::str::from_utf8(text).is_ok_and(|t| t.parse::<i64>().is_ok());
        if !fits {
            return fault(start, BencodeFault::Integer);
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<&'a [u8], BencodeError> {
        let start = self.at;
        let first = self.peek()?;
        if !first.is_ascii_digit() {
            return fault(start, BencodeFault::Unexpected(first));
        }
        let digits = self.digits()?;
        let leading_zero = digits.len() > 1 && first == b'0';
        if leading_zero || self.peek()? != b':' {
            return fault(start, BencodeFault::StringLength);
        }
        let len = core::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse::<usize>().ok());
        let Some(len) = len else {
            return fault(start, BencodeFault::StringLength);
        };
        self.at += 1;
        let end = self.at.checked_add(len);
        let Some(string) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return fault(self.bytes.len(), BencodeFault::Short);
        };
        self.at += len;
        Ok(string)
    }

    fn digits(&mut self) -> Result<&'a [u8], BencodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        Ok(rest.get(..count).unwrap_or_default())
    }

    fn peek(&self) -> Result<u8, BencodeError> {
        self.bytes.get(self.at).copied().ok_or(BencodeError {
            at: self.at,
            fault: BencodeFault::Short,
        })
    }
}

const fn fault<T>(at: usize, fault: BencodeFault) -> Result<T, BencodeError> {
    Err(BencodeError { at, fault })
}

/// A value to be encoded. Dictionaries are sorted by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Dict(BTreeMap<Vec<u8>, Self>),
    /// One value, already encoded.
    Encoded(Vec<u8>),
}

impl Tree {
    pub fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }

    /// A dictionary of these entries; of equal keys the last counts.
    pub fn dict<const N: usize>(entries: [(&[u8], Self); N]) -> Self {
        Self::Dict(entries.map(|(k, v)| (k.to_vec(), v)).into())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(n) => out.extend_from_slice(format!("i{n}e").as_bytes()),
            Self::Bytes(bytes) => encode_bytes(bytes, out),
            Self::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.encode_into(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    encode_bytes(key, out);
                    value.encode_into(out);
                }
                out.push(b'e');
            }
            Self::Encoded(bytes) => out.extend_from_slice(bytes),
        }
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

impl fmt::Display for BencodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.fault, self.at)
    }
}

impl fmt::Display for BencodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("bencode ends within a value"),
            Self::Unexpected(byte) => write!(f, "unexpected byte 0x{byte:02x} in bencode"),
            Self::Integer => f.write_str("malformed bencode integer"),
            Self::StringLength => f.write_str("malformed bencode string length"),
            Self::KeyOrder => f.write_str("bencode keys not sorted or not unique"),
            Self::TooDeep => write!(f, "bencode nested deeper than {BENCODE_DEPTH_MAX} levels"),
            Self::Trailing => f.write_str("bytes after the end of the bencode value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn faults(input: &[u8]) -> (usize, BencodeFault) {
        let error = parse(input).expect_err("must be refused");
        (error.at, error.fault)
    }

    #[test]
    fn reads_every_kind_of_value() {
        let input = b"d1:ai-7e1:bl2:xy0:e1:cd1:zi0eee";
        let dict = parse(input).unwrap().dict().unwrap();
        assert_eq!(dict.get(b"a").unwrap().integer(), Some(-7));
        let items: Vec<_> = dict.get(b"b").unwrap().list().unwrap().collect();
        assert_eq!(items[0].text(), Some("xy"));
        assert_eq!(items[1].bytes(), Some(&b""[..]));
        assert_eq!(items.len(), 2);
        let inner = dict.get(b"c").unwrap();
        assert_eq!(inner.raw(), b"d1:zi0ee");
        assert_eq!(&input[inner.offset()..][..8], b"d1:zi0ee");
        assert_eq!(inner.dict().unwrap().get(b"z").unwrap().offset(), 26);
        assert_eq!(dict.get(b"d"), None);
        assert_eq!(dict.get(b"a").unwrap().bytes(), None);
        assert_eq!(dict.get(b"b").unwrap().integer(), None);
    }

    #[test]
    fn the_extremes_of_integers() {
        assert_eq!(
            parse(b"i-9223372036854775808e").unwrap().integer(),
            Some(i64::MIN)
        );
        assert_eq!(faults(b"i9223372036854775808e"), (0, BencodeFault::Integer));
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        use BencodeFault::*;
        assert_eq!(faults(b""), (0, Short));
        assert_eq!(faults(b"i03e"), (0, Integer));
        assert_eq!(faults(b"i-0e"), (0, Integer));
        assert_eq!(faults(b"i-e"), (0, Integer));
        assert_eq!(faults(b"ie"), (0, Integer));
        assert_eq!(faults(b"i1"), (2, Short));
        assert_eq!(faults(b"i1x"), (0, Integer));
        assert_eq!(faults(b"01:a"), (0, StringLength));
        assert_eq!(faults(b"1a"), (0, StringLength));
        assert_eq!(faults(b"99999999999999999999:a"), (0, StringLength));
        assert_eq!(faults(b"18446744073709551615:a"), (22, Short));
        assert_eq!(faults(b"5:abc"), (5, Short));
        assert_eq!(faults(b"x"), (0, Unexpected(b'x')));
        assert_eq!(faults(b"e"), (0, Unexpected(b'e')));
        assert_eq!(faults(b"d1:ae"), (4, Unexpected(b'e')));
        assert_eq!(faults(b"di1ei2ee"), (1, Unexpected(b'i')));
        assert_eq!(faults(b"l1:a"), (4, Short));
        assert_eq!(faults(b"i1ei2e"), (3, Trailing));
        assert_eq!(faults(b"d1:bi1e1:ai2ee"), (7, KeyOrder));
        assert_eq!(faults(b"d1:ai1e1:ai2ee"), (7, KeyOrder));
    }

    #[test]
    fn unsorted_keys_can_be_allowed_and_the_rest_is_given_back() {
        let (value, rest) = parse_prefix(b"d1:bi1e1:ai2eeDATA", Keys::AnyOrder).unwrap();
        assert_eq!(value.dict().unwrap().get(b"a").unwrap().integer(), Some(2));
        assert_eq!(rest, b"DATA");
    }

    #[test]
    fn depth_is_limited_and_deep_input_costs_nothing() {
        let mut fits = vec![b'l'; BENCODE_DEPTH_MAX];
        fits.extend(vec![b'e'; BENCODE_DEPTH_MAX]);
        assert_eq!(parse(&fits).unwrap().to_tree().encode(), fits);
        let bomb = vec![b'l'; 1_000_000];
        assert_eq!(faults(&bomb), (BENCODE_DEPTH_MAX, BencodeFault::TooDeep));
    }

    #[test]
    fn encodes_what_it_reads() {
        for text in ["i-12e", "0:", "le", "de", "d0:0:1:ai1e2:aali1e1:xee"] {
            assert_eq!(
                parse(text.as_bytes()).unwrap().to_tree().encode(),
                text.as_bytes()
            );
        }
        let tree = Tree::dict([
            (b"b", Tree::text("x")),
            (b"a", Tree::Encoded(b"le".to_vec())),
        ]);
        assert_eq!(tree.encode(), b"d1:ale1:b1:xe");
    }
}
