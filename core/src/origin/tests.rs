//! The origin between scripted clients and a disk in memory, in virtual time.

use super::{Origin, OriginConfig};
use crate::command::{Command, Event, Level, Reply};
use crate::ids::{CallId, FileId, StreamId};
use crate::limits::ORIGIN_CONNECTIONS_MAX;
use crate::machine::{
    CloseHow, DiskDone, DiskError, DiskErrorKind, DiskOp, Input, Listener, Lost, Machine, Output,
};
use crate::time::{Mono, Now};
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

const MODIFIED_US: i64 = 784_111_777_000_000;
const ETAG: &str = "\"186a0-2c9253feeaa40\"";
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const LEN: usize = 100_000;

struct Rig {
    origin: Origin,
    now: Now,
    files: BTreeMap<String, Bytes>,
    /// Reads of these paths fail.
    broken: BTreeSet<String>,
    open: BTreeMap<FileId, String>,
    got: BTreeMap<StreamId, Vec<u8>>,
    /// When each stream got its latest byte.
    latest: BTreeMap<StreamId, Mono>,
    closed: BTreeMap<StreamId, CloseHow>,
    replies: Vec<Reply>,
    log: Vec<(Level, String)>,
    /// Bytes sent are not reported.
    deaf: BTreeSet<StreamId>,
    /// Disk answers are kept back.
    slow_disk: bool,
    kept_back: VecDeque<Input>,
    next_stream: u64,
}

impl Rig {
    fn new(limit_bytes_per_s: u64) -> Self {
        let mut rig = Self {
            origin: Origin::new(
                OriginConfig {
                    dir: "/srv/".into(),
                    limit_bytes_per_s,
                },
                [0; 32],
            ),
            now: Now::default(),
            files: BTreeMap::new(),
            broken: BTreeSet::new(),
            open: BTreeMap::new(),
            got: BTreeMap::new(),
            latest: BTreeMap::new(),
            closed: BTreeMap::new(),
            replies: Vec::new(),
            log: Vec::new(),
            deaf: BTreeSet::new(),
            slow_disk: false,
            kept_back: VecDeque::new(),
            next_stream: 0,
        };
        rig.file("/srv/f.bin", LEN);
        rig
    }

    fn file(&mut self, path: &str, len: usize) {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        self.files.insert(path.to_owned(), bytes.into());
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.origin.handle(self.now, input);
            self.origin.check();
            while let Some(output) = self.origin.poll() {
                self.carry_out(output, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Send { stream, bytes } => {
                self.got
                    .entry(stream)
                    .or_default()
                    .extend_from_slice(&bytes);
                self.latest.insert(stream, self.now.mono);
                if !self.deaf.contains(&stream) {
                    inputs.push_back(Input::Sent {
                        stream,
                        len: bytes.len() as u32,
                    });
                }
            }
            Output::Close { stream, how } => {
                self.closed.entry(stream).or_insert(how);
                inputs.push_back(Input::Closed {
                    stream,
                    why: Lost::Asked,
                });
            }
            Output::Disk { op, todo } => {
                let done = self.disk(todo);
                let answer = Input::Disk { op, done };
                if self.slow_disk {
                    self.kept_back.push_back(answer);
                } else {
                    inputs.push_back(answer);
                }
            }
            Output::Reply { reply, .. } => self.replies.push(reply),
            Output::Notify(Event::Log { level, text }) => self.log.push((level, text)),
            Output::Grant { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn disk(&mut self, todo: DiskOp) -> Result<DiskDone, DiskError> {
        let error = |kind| {
            Err(DiskError {
                kind,
                text: "no".into(),
            })
        };
        let modified_unix_us = MODIFIED_US;
        match todo {
            DiskOp::Stat { path } if path == "/srv/folder" => Ok(DiskDone::Found {
                len: 0,
                modified_unix_us,
                is_dir: true,
            }),
            DiskOp::Stat { path } if path == "/srv/secret" => error(DiskErrorKind::Denied),
            DiskOp::Stat { path } => match self.files.get(&path) {
                Some(bytes) => {
                    let len = bytes.len() as u64;
                    Ok(DiskDone::Found {
                        len,
                        modified_unix_us,
                        is_dir: false,
                    })
                }
                None => error(DiskErrorKind::NotFound),
            },
            DiskOp::Open { file, path, .. } => {
                let len = self.files.get(&path).expect("looked at before").len() as u64;
                self.open.insert(file, path);
                Ok(DiskDone::Opened {
                    len,
                    modified_unix_us,
                })
            }
            DiskOp::Read { file, offset, len } => {
                let path = self.open.get(&file).expect("opened before");
                if self.broken.contains(path) {
                    return error(DiskErrorKind::Short);
                }
                let start = offset as usize;
                Ok(DiskDone::Bytes(
                    self.files[path].slice(start..start + len as usize),
                ))
            }
            DiskOp::Close { file } => {
                assert!(self.open.remove(&file).is_some(), "closed once");
                Ok(DiskDone::Done)
            }
            other => panic!("{other:?}"),
        }
    }

    fn connect(&mut self) -> StreamId {
        self.next_stream += 1;
        let stream = StreamId(self.next_stream << 1 | 1);
        let from = ([127, 0, 0, 1], 9).into();
        self.feed(Input::Accepted {
            stream,
            listener: Listener::Http,
            from,
        });
        stream
    }

    fn send(&mut self, stream: StreamId, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.feed(Input::Received { stream, bytes });
    }

    /// Head and body of the answer to one request on a new connection.
    fn ask(&mut self, request: &str) -> (String, Vec<u8>) {
        let stream = self.connect();
        self.send(stream, request);
        self.answer(stream)
    }

    fn answer(&mut self, stream: StreamId) -> (String, Vec<u8>) {
        let got = self.got.remove(&stream).unwrap_or_default();
        let at = got
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map_or(got.len(), |at| at + 4);
        let (head, body) = got.split_at(at);
        (String::from_utf8_lossy(head).into_owned(), body.to_vec())
    }

    /// Tick at every deadline until nothing happens any more, or the time is over.
    fn wait(&mut self, span: Duration) {
        let until = self.now.mono + span;
        while let Some(deadline) = self
            .origin
            .deadline()
            .filter(|deadline| deadline.at <= until)
        {
            assert!(
                deadline.at > self.now.mono,
                "{}: a deadline that is over",
                deadline.why
            );
            self.now.mono = deadline.at;
            self.feed(Input::Tick);
        }
        self.now.mono = until;
    }

    fn stats(&mut self) -> String {
        let (_, body) = self.ask("GET /.dovetail/stats HTTP/1.1\r\nHost: h\r\n\r\n");
        String::from_utf8(body).expect("JSON")
    }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn every_way_to_ask_for_a_file() {
    let mut rig = Rig::new(0);
    let content = rig.files["/srv/f.bin"].clone();
    for (fields, status, content_range, range) in [
        ("", "200 OK", None, 0..LEN),
        (
            "Range: bytes=0-\r\n",
            "206 Partial Content",
            Some("bytes 0-99999/100000"),
            0..LEN,
        ),
        (
            "Range: bytes=10-19\r\n",
            "206 Partial Content",
            Some("bytes 10-19/100000"),
            10..20,
        ),
        (
            "Range: bytes=-5\r\n",
            "206 Partial Content",
            Some("bytes 99995-99999/100000"),
            LEN - 5..LEN,
        ),
        ("Range: bytes=0-1,5-6\r\n", "200 OK", None, 0..LEN),
        (
            "Range: bytes=100000-\r\n",
            "416 Range Not Satisfiable",
            Some("bytes */100000"),
            0..0,
        ),
        (
            "Range: bytes=10-19\r\nIf-Range: ETAG\r\n",
            "206 Partial Content",
            Some("bytes 10-19/100000"),
            10..20,
        ),
        (
            "Range: bytes=10-19\r\nIf-Range: DATE\r\n",
            "206 Partial Content",
            Some("bytes 10-19/100000"),
            10..20,
        ),
        (
            "Range: bytes=10-19\r\nIf-Range: \"old\"\r\n",
            "200 OK",
            None,
            0..LEN,
        ),
        ("If-None-Match: ETAG\r\n", "304 Not Modified", None, 0..0),
        (
            "If-None-Match: \"old\"\r\nIf-Modified-Since: DATE\r\n",
            "200 OK",
            None,
            0..LEN,
        ),
        (
            "If-Modified-Since: DATE\r\n",
            "304 Not Modified",
            None,
            0..0,
        ),
        (
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n",
            "200 OK",
            None,
            0..LEN,
        ),
    ] {
        let fields = fields.replace("ETAG", ETAG).replace("DATE", DATE);
        let (head, body) = rig.ask(&get("/f.bin", &fields));
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{fields}{head}"
        );
        assert!(head.contains(&format!("etag: {ETAG}\r\n")), "{head}");
        assert!(
            head.contains(&format!("last-modified: {DATE}\r\n")),
            "{head}"
        );
        assert!(head.contains("accept-ranges: bytes\r\n"), "{head}");
        let told = head
            .lines()
            .find_map(|line| line.strip_prefix("content-range: "));
        assert_eq!(told, content_range, "{fields}");
        assert!(body == content[range], "{fields}");
    }
    assert!(rig.open.is_empty(), "all files are closed");
}

#[test]
fn what_is_not_served() {
    let mut rig = Rig::new(0);
    for (request, status) in [
        (get("/none", ""), 404),
        (get("/", ""), 404),
        (get("/folder", ""), 404),
        (get("/secret", ""), 403),
        (get("/../etc/passwd", ""), 404),
        (get("/%2e%2e/etc/passwd", ""), 404),
        (get("/f.bin%00", ""), 404),
        (
            "PUT /f.bin HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned(),
            405,
        ),
        (
            "POST /f.bin HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n".to_owned(),
            413,
        ),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        let (head, _) = rig.ask(&request);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}{head}"
        );
    }
    let (head, body) = rig.ask("HEAD /f.bin HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(head.contains("content-length: 100000\r\n") && body.is_empty());
    assert!(rig.open.is_empty());
}

#[test]
fn kept_alive_and_pipelined_requests_come_in_order() {
    let mut rig = Rig::new(0);
    rig.file("/srv/empty", 0);
    let stream = rig.connect();
    let ranges = [
        get("/f.bin", "Range: bytes=0-2\r\n"),
        get("/empty", ""),
        get("/none", ""),
    ];
    rig.send(
        stream,
        &(ranges.concat() + &get("/f.bin", "Range: bytes=3-4\r\nConnection: close\r\n")),
    );
    let got = rig.got[&stream].clone();
    let text = String::from_utf8_lossy(&got);
    let statuses: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split("HTTP/1.1 ").nth(1))
        .collect();
    assert_eq!(
        statuses,
        [
            "206 Partial Content",
            "200 OK",
            "404 Not Found",
            "206 Partial Content"
        ]
    );
    assert!(got.ends_with(&[3, 4]));
    assert_eq!(rig.closed[&stream], CloseHow::Flush);
    assert!(rig.open.is_empty());
}

#[test]
fn a_large_file_is_read_as_fast_as_it_leaves() {
    let mut rig = Rig::new(0);
    rig.file("/srv/large", 10_000_000);
    let stream = rig.connect();
    rig.deaf.insert(stream);
    rig.send(stream, &get("/large", ""));
    let in_flight = rig.got[&stream].len();
    assert!((900_000..=1_100_000).contains(&in_flight), "{in_flight}");
    rig.deaf.clear();
    rig.feed(Input::Sent {
        stream,
        len: in_flight as u32,
    });
    let (_, body) = rig.answer(stream);
    assert!(body == rig.files["/srv/large"]);
    assert_eq!(
        rig.stats(),
        "{\"bytes_sent\":10000000,\"requests\":1,\"files\":{\"/large\":10000000}}"
    );
}

#[test]
fn bytes_cut_off_are_not_counted_and_files_are_closed() {
    let mut rig = Rig::new(0);
    rig.file("/srv/large", 10_000_000);
    let stream = rig.connect();
    rig.deaf.insert(stream);
    rig.send(stream, &get("/large", ""));
    rig.feed(Input::Closed {
        stream,
        why: Lost::Reset,
    });
    assert!(rig.open.is_empty());
    assert_eq!(
        rig.stats(),
        "{\"bytes_sent\":0,\"requests\":1,\"files\":{\"/large\":0}}"
    );
    // The same while the disk is still at work, at each of its steps.
    for steps in 0..4 {
        rig.slow_disk = true;
        let stream = rig.connect();
        rig.send(stream, &get("/large", ""));
        for _ in 0..steps {
            let answer = rig.kept_back.pop_front().expect("work outstanding");
            rig.feed(answer);
        }
        rig.feed(Input::Closed {
            stream,
            why: Lost::Reset,
        });
        rig.slow_disk = false;
        while let Some(answer) = rig.kept_back.pop_front() {
            rig.feed(answer);
        }
        assert!(rig.open.is_empty(), "after {steps} steps");
    }
    // A file that cannot be read any more breaks off the answer.
    rig.broken.insert("/srv/f.bin".into());
    let stream = rig.connect();
    rig.send(stream, &get("/f.bin", ""));
    assert_eq!(rig.closed[&stream], CloseHow::Abort);
    assert!(rig.open.is_empty());
}

#[test]
fn five_downloads_under_a_limit_take_five_times_as_long() {
    let took = |clients: usize| {
        let mut rig = Rig::new(20_000_000);
        rig.file("/srv/large", 8_000_000);
        // Take the burst away, which the first to come would have.
        rig.file("/srv/burst", 1_000_000);
        rig.ask(&get("/burst", ""));
        let streams: Vec<StreamId> = (0..clients).map(|_| rig.connect()).collect();
        for stream in &streams {
            rig.send(*stream, &get("/large", ""));
        }
        rig.wait(Duration::from_secs(20));
        let ends: Vec<u64> = streams
            .iter()
            .map(|stream| rig.latest[stream].as_us())
            .collect();
        for stream in streams {
            let (_, body) = rig.answer(stream);
            assert!(body == rig.files["/srv/large"]);
        }
        ends
    };
    let one = took(1)[0];
    assert!(
        (395_000..=410_000).contains(&one),
        "{one} us for 8 MB at 20 MB/s"
    );
    let five = took(5);
    for end in &five {
        assert!(
            (1_950_000..=2_010_000).contains(end),
            "fair to all: {five:?}"
        );
    }
}

#[test]
fn timers_are_few_under_a_limit() {
    let mut rig = Rig::new(20_000_000);
    rig.file("/srv/large", 20_000_000);
    let stream = rig.connect();
    rig.send(stream, &get("/large", ""));
    let mut ticks = 0;
    while let Some(deadline) = rig
        .origin
        .deadline()
        .filter(|deadline| deadline.why == "origin limit")
    {
        rig.now.mono = deadline.at;
        rig.feed(Input::Tick);
        ticks += 1;
    }
    assert!((100..=201).contains(&ticks), "{ticks} in a second");
}

#[test]
fn connections_are_bounded_and_idle_ones_end() {
    let mut rig = Rig::new(0);
    for _ in 0..ORIGIN_CONNECTIONS_MAX {
        rig.connect();
    }
    assert!(rig.closed.is_empty());
    let more = rig.connect();
    assert_eq!(rig.closed[&more], CloseHow::Abort);
    rig.wait(Duration::from_secs(300));
    assert_eq!(rig.closed.len(), ORIGIN_CONNECTIONS_MAX + 1);
    let (head, _) = rig.ask(&get("/f.bin", ""));
    assert!(head.starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn it_says_where_it_is_and_stops_when_told() {
    let mut rig = Rig::new(0);
    let at = ([127, 0, 0, 1], 8000).into();
    rig.feed(Input::Listening {
        listener: Listener::Http,
        at,
    });
    assert_eq!(
        rig.log,
        [(
            Level::Debug,
            "serving /srv at http://127.0.0.1:8000/".to_string()
        )]
    );
    rig.ask(&get("/f.bin", "Range: bytes=0-9\r\n"));
    assert_eq!(
        rig.log[1],
        (Level::Debug, "GET /f.bin 206 10 bytes".to_string())
    );
    let stream = rig.connect();
    rig.deaf.insert(stream);
    rig.send(stream, &get("/f.bin", ""));
    rig.feed(Input::Command {
        call: CallId(1),
        command: Command::Shutdown,
    });
    assert!(matches!(rig.replies[..], [Reply::Stopped]));
    assert!(rig.open.is_empty());
    assert_eq!(rig.origin.deadline(), None);
    let late = rig.connect();
    assert_eq!(rig.closed[&late], CloseHow::Abort);
    let get = Command::Get(crate::command::GetRequest::default());
    rig.feed(Input::Command {
        call: CallId(2),
        command: get,
    });
    assert!(matches!(&rig.replies[1..], [Reply::Got(Err(_))]));
}
