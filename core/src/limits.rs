//! Every bound of the system, with its reason. Nothing outstanding, queued or remembered is unbounded.

use core::time::Duration;

/// The unit of requesting and hashing (BEP 52).
pub const BLOCK_LEN: u32 = 16 * 1024;

/// Default unit of announcing and verifying: small enough to spread early, large enough that a piece
/// layer stays at 32 bytes a MiB.
pub const PIECE_LEN: u32 = 1024 * 1024;

/// Largest piece length accepted from a metainfo file: pieces are verified in memory.
pub const PIECE_LEN_MAX: u32 = 16 * 1024 * 1024;

/// Most pieces one content may have; libtorrent loads no more either.
pub const PIECES_MAX: u32 = 2_097_152;

/// Largest metainfo file read (libtorrent's own default is 10 MB).
pub const METAINFO_LEN_MAX: usize = 100 * 1024 * 1024;

/// Credit one stream may hold: about one bandwidth-delay product of a LAN, and what one read can return.
pub const GRANT_PER_STREAM: u32 = 1024 * 1024;

/// Bytes handed to a stream and not yet reported sent.
pub const SEND_PER_STREAM: u32 = 1024 * 1024;

/// How long a stream may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// ... to a cache server: it is near, or of no use (Microsoft's client: 3 s).
pub const CACHE_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest file [`crate::machine::DiskOp::Load`] returns whole: metainfo and resume files.
pub const SMALL_FILE_MAX: usize = METAINFO_LEN_MAX;

/// Lists and dictionaries nested in bencode; torrents in the wild need fewer than ten levels, libtorrent
/// stops at 100 too.
pub const BENCODE_DEPTH_MAX: usize = 100;

/// Web seeds, and trackers, taken from a metainfo file; more are not read.
pub const METAINFO_URLS_MAX: usize = 64;

/// Longest file name taken from a metainfo file, in bytes: what file systems allow.
pub const NAME_LEN_MAX: usize = 255;

/// A file of settings, bytes: a hundred times one that has everything in it.
pub const SETTINGS_FILE_LEN_MAX: usize = 1024 * 1024;

/// Most hashes asked for or given in one hash request (libtorrent answers up to this; BEP 52 wants 512).
pub const HASHES_MAX: u32 = 8192;

/// Hashes asked for at once: BEP 52's advice, and what libtorrent takes as receiver.
pub const HASHES_PER_REQUEST: u32 = 512;

// --- wire and session

/// Longest range asked for or sent in one message between our own peers: amortises the per-message cost
/// 64 times over, and still is only one bandwidth-delay product of a LAN.
pub const RANGE_LEN_MAX: u32 = 1024 * 1024;

/// Most blocks in one range message.
pub const RANGE_BLOCKS_MAX: u32 = RANGE_LEN_MAX / BLOCK_LEN;

/// Longest peer message, without its four bytes of length: a whole range and its head, which is longer
/// than the bitfield of `PIECES_MAX` pieces and than `HASHES_MAX` hashes with their proof.
pub const FRAME_LEN_MAX: u32 = RANGE_LEN_MAX + 64;

/// Longest extension message (BEP 10) that is not a range: a metadata part is 16 KiB, a handshake some 300 bytes.
pub const EXTENDED_LEN_MAX: u32 = 64 * 1024;

/// Most pieces in one claim message.
pub const CLAIM_PIECES_MAX: usize = 1024;

/// Chunks from the socket smaller than this are copied together while a frame is incomplete, so that a
/// peer sending single bytes cannot make a rope of a million parts.
pub const ROPE_CHUNK_MIN: usize = 1024;

// --- http and origin

/// Largest HTTP head taken, either side: what nginx and Apache send and take by default fits several times.
pub const HTTP_HEAD_MAX: usize = 32 * 1024;

/// Unparsed request bytes one server connection holds: a head and some pipelined requests.
pub const HTTP_SERVER_WINDOW: u32 = 64 * 1024;

/// A request head must be complete this long after its first byte (slow-loris).
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// A request body must be complete this long after its head; only small bodies are taken.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A server keeps an idle connection open this long: longer than clients of ours keep theirs.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A client waits this long for an answer's head after asking.
pub const HTTP_FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client gives a transfer up after this long without a byte.
pub const HTTP_STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A client keeps an idle connection this long: shorter than servers do (nginx 75 s), so that a request is
/// rarely sent into a closing connection.
pub const HTTP_KEEP_TIMEOUT: Duration = Duration::from_secs(50);

/// Longest wait a server may ask for with `Retry-After`: after this somebody should have looked.
pub const HTTP_RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Connections an origin serves at a time.
pub const ORIGIN_CONNECTIONS_MAX: usize = 1024;

/// Files an origin counts bytes for by name.
pub const ORIGIN_FILES_COUNTED: usize = 1024;

/// One read of an origin: large enough that a disk is asked rarely, small enough to share.
pub const ORIGIN_READ_LEN: u32 = 256 * 1024;

/// Read and not yet handed over, per connection: one being sent, one being read.
pub const ORIGIN_READ_AHEAD: u64 = 2 * ORIGIN_READ_LEN as u64;

/// An answer of which nothing was taken for this long is given up.
pub const HTTP_SEND_TIMEOUT: Duration = Duration::from_secs(60);

// --- cache

/// Files a cache lends to the agent beside it: as many as an announce names.
pub const CACHE_LOANS_MAX: usize = HELD_PER_ANNOUNCE_MAX;

/// Connections a cache serves at a time.
pub const CACHE_CONNECTIONS_MAX: usize = 1024;

/// What a cache fetches, stores and checks as one: as large as a piece, so that a hash costs 32 bytes a MiB.
pub const CACHE_SLICE_LEN: u32 = 1024 * 1024;

/// Slices asked for in one range: little lost to round trips, and other lanes still find something to do.
pub const CACHE_RUN_SLICES: u32 = 16;

/// Slices in memory of all objects of a cache, arriving or not yet stored: an equal part for each that is fetched.
pub const CACHE_MEMORY_SLICES: usize = 256;

/// ... of one object at most, if there are few; past it the origin is held back.
pub const CACHE_SLICES_IN_MEMORY: usize = 8;

/// Bytes of an answer that is no file, passed on to clients; a longer one is replaced by a line of text.
pub const CACHE_ANSWER_MAX: usize = 64 * 1024;

/// Caches one after the other that a request may pass.
pub const CACHE_HOPS_MAX: usize = 16;

/// Files a cache keeps open for the next client.
pub const CACHE_FILES_OPEN_MAX: usize = 256;

/// Objects a cache fetches at the same time; the others wait.
pub const CACHE_FILLS_MAX: usize = 64;

/// Objects a cache keeps: two files each, within what a folder's list gives.
pub const CACHE_OBJECTS_MAX: usize = SHELF_FILES_MAX / 2 - 64;

/// Origins that are being asked about at the same time, and clients that wait for one answer.
pub const CACHE_PROBES_MAX: usize = 256;

/// A stale object is served without asking for so long after its origin did not answer.
pub const CACHE_ORIGIN_REST: Duration = Duration::from_secs(30);

// --- announce and coordinator

/// Swarms in one announce: an agent with more sends several. Keeps a request near 64 KiB.
pub const SWARMS_PER_ANNOUNCE_MAX: usize = 256;

/// Own addresses a device may report: a few interfaces, two families each.
pub const ADDRESSES_PER_DEVICE_MAX: usize = 8;

/// URLs of one content record.
pub const URLS_PER_CONTENT_MAX: usize = 32;

/// Peers in one answer: as many as one content may have connections, so that up to a hundred devices all hear
/// each other's claims.
pub const PEERS_PER_ANSWER_MAX: usize = 100;

/// Peers in an answer to a standard client that does not say how many it wants.
pub const PEERS_PER_ANSWER: usize = 50;

/// Answer to an announce: all swarms with all their peers at about 160 bytes each.
pub const ANNOUNCE_REPLY_MAX: usize = 4 * 1024 * 1024;

/// Announce request: all swarms at about 200 bytes each, with room for fields of the future.
pub const ANNOUNCE_REQUEST_MAX: usize = 256 * 1024;

/// A metainfo file that travels as base64 in JSON, either way: 6 MiB of it, nearly 200 000 pieces.
pub const CONTENT_MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// Answers of a coordinator that carry no lists.
pub const SMALL_ANSWER_MAX: usize = 64 * 1024;

/// Lookups and publications an agent may have waiting for its coordinator.
pub const CONTENT_CALLS_MAX: usize = 256;

/// A coordinator that has not answered a call by then is taken for lost.
pub const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the goodbye may take at shutdown.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Memberships of devices in swarms a coordinator keeps, at about 300 bytes each.
pub const PRESENCES_MAX: usize = 400_000;

/// Swarms a coordinator keeps.
pub const SWARMS_MAX: usize = 100_000;

/// Content records a coordinator keeps, and the bytes of all of them together.
pub const RECORDS_MAX: usize = 20_000;
pub const RECORDS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Files a coordinator fetches and hashes at a time, about one a core of a small machine.
pub const IDENTIFY_MAX: usize = 4;

/// Files that wait for that.
pub const IDENTIFY_WAITING_MAX: usize = 256;

/// Addresses remembered as failing.
pub const FAILURES_REMEMBERED_MAX: usize = 1024;

/// Connections a coordinator holds. From half of that on it no longer keeps them alive.
pub const COORDINATOR_CONNECTIONS_MAX: usize = 8192;

/// Bytes of requests that have not arrived whole, on all connections together.
pub const COORDINATOR_BODIES_MAX: usize = 64 * 1024 * 1024;

/// Swarms in the overview, and in one scrape.
pub const SWARMS_LISTED_MAX: usize = 100;

// --- job and agent

/// Requests outstanding at one peer: enough to start a cold connection (for our own peers one piece, which
/// they send in one go), and at most 8 MiB.
pub const PIPELINE_BLOCKS_MIN: u32 = 16;
pub const PIPELINE_BLOCKS_MIN_RANGED: u32 = 64;
pub const PIPELINE_BLOCKS_MAX: u32 = 512;

/// Added to a peer's fastest answer time when sizing its pipeline: its scheduling, disk and other peers.
pub const PIPELINE_MARGIN: Duration = Duration::from_millis(250);

/// A peer that owes blocks and sends none for this long gives them up to others.
pub const PEER_STALL: Duration = Duration::from_secs(5);

/// Stalls in a row before the connection is closed, to be dialled anew.
pub const PEER_STALLS_MAX: u32 = 3;

/// Bytes waiting to be read by a peer, past which it is closed. Uploads alone stay below half of this; the
/// rest is answers to questions, which would otherwise grow as fast as somebody can ask.
pub const UNREAD_REPLIES_MAX: u64 = 4 * 1024 * 1024;

/// Handshake, idle and keep-alive times of BEP 3 as the existing clients use them.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(100);
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(240);

/// Requests of one peer we queue; told to it as `reqq`. Past it they are rejected.
pub const UPLOAD_QUEUE_BLOCKS: u32 = 2048;

/// Bytes read from disk at once for one peer.
pub const UPLOAD_READ_LEN: u32 = 1024 * 1024;

/// Written pieces are synced and recorded after this many bytes or this long: what a crash can cost.
pub const SYNC_AFTER_BYTES: u64 = 32 * 1024 * 1024;
pub const SYNC_AFTER: Duration = Duration::from_secs(2);

/// How long a download waits for the coordinator to say what the file is before it goes on over HTTP.
pub const LOOKUP_WAIT: Duration = Duration::from_secs(3);

/// How long HTTP waits, once peers are named, for their claims to be heard.
pub const PEER_GRACE: Duration = Duration::from_millis(400);

/// A download that gets nothing from anybody for this long fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Bytes of begun pieces one download holds in memory: what keeps an agent below 64 MiB.
pub const OPEN_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// How long a neighbour's claims count while it gets no piece: longer than a slow origin takes for one.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

/// Neighbours that fetch from the origin at the same time; the others get it from them. Enough to fill
/// the origin's line although each has gaps, few enough that each piece crosses it early and once.
pub const ORIGIN_SEATS: usize = 4;

/// Blocks on order at all peers together: what they deliver in this time at their present rate, at least 8 MiB.
/// Less would leave slow peers unused, more would wait at busy peers while others are idle.
pub const ON_ORDER: Duration = Duration::from_millis(1250);
pub const ON_ORDER_BLOCKS_MIN: u32 = 512;

/// What a peer will not deliver within this is asked back when another has nothing to do, 256 KiB at a time.
pub const RECALL_WAIT: Duration = Duration::from_millis(300);
pub const RECALL_BLOCKS: u32 = 16;

/// A free seat is taken after a random part of this for each neighbour, so that the first to take it is heard
/// before the others do; a fetcher keeps its seat for a moment when it has nothing to fetch.
pub const SEAT_LOT: Duration = Duration::from_millis(20);
pub const SEAT_KEPT: Duration = Duration::from_millis(500);

/// Peers that hold what we lack are not enough, and HTTP tops up, once they were too slow for this long; longer
/// while neighbours are fetching from the same origin.
pub const PEERS_SHORT_FOR: Duration = Duration::from_secs(3);
pub const PEERS_SHORT_FOR_WITH_FETCHERS: Duration = Duration::from_secs(20);

/// Connections to one origin, opened one by one while each proves faster.
pub const WEB_CONNECTIONS_MAX: u8 = 4;

/// Pieces of an origin that do not match before it is given up: its file is another one.
pub const WEB_BLAMES_MAX: u32 = 3;

/// Peers of one content served at a time while others wait: few, so that those who wait can ask whoever was
/// served before them.
pub const UPLOAD_PEERS: usize = 4;

/// Peers of one content unchoked at a time: those being served and a few who may just have become idle. More
/// would all ask for a piece that is new here, and wait in line instead of getting it from each other.
pub const UPLOAD_PLACES: usize = 6;

/// A peer that was just unchoked counts as being served until its first request can be here: two round trips
/// and this, or at most that.
pub const UPLOAD_THINKING: Duration = Duration::from_millis(10);
pub const UPLOAD_GRACE: Duration = Duration::from_millis(300);

/// When all places are taken: one that is not used, or was used for this long (at least ten round trips), goes
/// to whoever has waited longest. Short, so that nobody falls behind by bad luck.
pub const UPLOAD_UNUSED: Duration = Duration::from_millis(500);
pub const UPLOAD_ROTATION: Duration = Duration::from_millis(500);
pub const UPLOAD_ROTATION_ROUND_TRIPS: u32 = 10;

/// A peer that takes nothing for this long no longer counts against what is on its way to the others.
pub const UPLOAD_STUCK: Duration = Duration::from_secs(1);

/// What lies in send buffers for all peers of one content together, at least, and in time at the measured
/// upload rate: little, so that pieces leave one after the other and can be passed on early.
pub const UPLOAD_WINDOW_MIN: u64 = 1024 * 1024;
pub const UPLOAD_WINDOW: Duration = Duration::from_millis(100);

/// Bytes being read from disk for peers of one content.
pub const UPLOADS_READING_MAX: u64 = 8 * 1024 * 1024;

/// Connections of one content, and how many of them may be on their way at once.
pub const SESSIONS_PER_CONTENT_MAX: usize = 100;
pub const DIALS_AT_ONCE: usize = 16;

/// TCP is let go ahead so far before uTP is tried beside it (RFC 8305's delay between attempts).
pub const UTP_AFTER: Duration = Duration::from_millis(250);

/// Peers of one content that are remembered to dial.
pub const CANDIDATES_MAX: usize = 500;

/// Between two attempts at the same peer, doubled each time up to the maximum.
pub const REDIAL_AFTER: Duration = Duration::from_secs(5);
pub const REDIAL_AFTER_MAX: Duration = Duration::from_secs(300);

/// Bad pieces from one peer before it is not talked to any more.
pub const BLAMES_MAX: u32 = 2;

/// Accepted connections that have not said yet which content they want.
pub const LOBBY_MAX: usize = 64;

/// Jobs and shared contents of one agent.
pub const CONTENTS_MAX: usize = 1_000;

// --- shelf

/// How long a wanted content keeps its slot while others wait: long enough for a large file on a LAN.
pub const SLOT_TURN: Duration = Duration::from_secs(120);

/// A content counts as wanted so long after somebody asked: two and a half announces of an agent that waits.
pub const SLOT_DEMAND_FOR: Duration = Duration::from_secs(75);

/// Contents that one announce names as held.
pub const HELD_PER_ANNOUNCE_MAX: usize = 256;

/// Files looked at in a shelf's folder.
pub const SHELF_FILES_MAX: usize = 4096;

// --- api

/// Largest request body on the local socket: a metainfo file in base64, and what surrounds it.
pub const API_BODY_MAX: usize = METAINFO_LEN_MAX / 3 * 4 + 64 * 1024;

/// Connections of callers on this machine; further ones are closed at once.
pub const LOCAL_CALLERS_MAX: usize = 64;

/// Progress lines are left out while a caller has more than this to read.
pub const PROGRESS_UNREAD_MAX: u32 = 16 * 1024;

// --- congestion control

/// Networks whose shortest round trip is remembered: those a busy device meets in a day.
pub const BASE_MEMORY_MAX: usize = 256;

/// How often the shell reports on a controlled stream: an eighth of a round trip, and no more often than this. On a LAN
/// a window is a millisecond long; half of one keeps it filled and costs a core some percent.
pub const REPORT_EVERY_MIN: Duration = Duration::from_micros(500);

/// ... and no less often: what others want is to be noticed soon.
pub const REPORT_EVERY_MAX: Duration = Duration::from_millis(5);

// --- rendezvous

/// How often a device behind a NAT says hello: NATs forget a mapping after 30 s at the earliest in practice (RFC 4787 §4.3
/// asks for two minutes).
pub const RENDEZVOUS_HELLO_EVERY: Duration = Duration::from_secs(20);

/// The first hello goes again after this if it is not answered, then after twice the time, and so on.
pub const RENDEZVOUS_HELLO_AGAIN: Duration = Duration::from_millis(500);

/// The coordinator forgets a device that was not heard of for so long: three hellos.
pub const RENDEZVOUS_PRESENCE: Duration = Duration::from_secs(65);

/// Devices a coordinator knows outside addresses of.
pub const RENDEZVOUS_DEVICES_MAX: usize = 100_000;

/// Introductions a device can ask for in a second: more than it dials at once.
pub const RENDEZVOUS_CALLS_PER_S: u32 = 2 * DIALS_AT_ONCE as u32;

/// Answers that wait for the socket.
pub const RENDEZVOUS_ANSWERS_MAX: usize = 1024;

/// Meetings of one device at a time.
pub const RENDEZVOUS_MEETINGS_MAX: usize = 64;

/// A meeting nothing has come of for so long has failed.
pub const RENDEZVOUS_PATIENCE: Duration = Duration::from_secs(5);

/// Probes go out this often at first, then ever more rarely: both sides begin within a round trip of each other.
pub const RENDEZVOUS_PROBE_EVERY: Duration = Duration::from_millis(50);

/// Addresses that peers may come from because they were introduced.
pub const INTRODUCED_MAX: usize = 256;

/// Addresses tried for one peer: those told, and those its probes came from.
pub const RENDEZVOUS_PLACES_MAX: usize = 8;

/// A relayed way is tried beside others that may open only after this: it costs the coordinator's line.
pub const RELAY_AFTER: Duration = Duration::from_secs(2);

/// Pairs of devices that a coordinator relays for.
pub const RELAY_CHANNELS_MAX: usize = 10_000;

/// A pair that has sent nothing for so long is forgotten: peers keep a session alive more often.
pub const RELAY_IDLE: Duration = Duration::from_secs(150);

/// A relayed datagram leaves after this at the latest, or not at all. Uploads that give way keep the wait short.
pub const RELAY_WAIT_MAX: Duration = Duration::from_millis(100);

/// Relayed datagrams up to this length go first: uTP's acknowledgements, with the head of a relayed one.
pub const RELAY_SHORT_BYTES: u64 = 100;

/// Every pair may have so much waiting, however many there are: two datagrams.
pub const RELAY_PART_MIN_BYTES: u64 = 3000;

// --- transport

/// Datagrams that one system call takes to one address (the kernel's UDP_MAX_SEGMENTS is 64 or more)...
pub const DATAGRAMS_AT_ONCE: usize = 44;

/// ... and their bytes: one IP packet's, which is what the kernel cuts up.
pub const DATAGRAMS_AT_ONCE_BYTES: usize = 65_000;

/// UDP payload every path is taken to carry, where the search for more begins (the smallest IPv4 reassembly size).
pub const UTP_DATAGRAM_MIN: u16 = 576;

/// UDP payload that fills an Ethernet frame, over IPv4 and over IPv6.
pub const UTP_DATAGRAM_MAX_V4: u16 = 1500 - 20 - 8;
pub const UTP_DATAGRAM_MAX_V6: u16 = 1500 - 40 - 8;

/// The search ends when its bounds are this near: one percent of a packet.
pub const UTP_MTU_STEP: u16 = 16;

/// A size does not pass once this many probes of it were lost: one may have met with congestion.
pub const UTP_MTU_PROBES_LOST: u32 = 2;

/// Paths change: the search for the largest datagram begins anew after this.
pub const UTP_MTU_SEARCH_AGAIN: Duration = Duration::from_secs(30 * 60);

/// Timeouts in a row after which new packets are small again: the path may have become narrower.
pub const UTP_MTU_TIMEOUTS: u32 = 3;

/// Packets kept that came too early (as libutp), and packets kept for a reader without credit.
pub const UTP_REORDER_PACKETS: usize = 1024;

/// Packets in flight: fewer than others look ahead (libtorrent: its buffer of 1 MiB / 1100 bytes, 953).
pub const UTP_FLIGHT_PACKETS: usize = 900;

/// Credit that opens the receive window of one stream: what [`GRANT_PER_STREAM`] is to TCP.
pub const UTP_RECEIVE_CREDIT_MAX: u64 = GRANT_PER_STREAM as u64;

/// Bytes a stream takes in before its reader wants any: a first flight, so that the window told in the handshake is
/// not zero.
pub const UTP_UNGRANTED_BYTES: u64 = 32 * 1024;

/// Bytes reported as sent and not yet acknowledged: twice the congestion window, within these.
pub const UTP_SEND_BUFFER_MIN: u64 = 32 * 1024;
pub const UTP_SEND_BUFFER_MAX: u64 = 4 * 1024 * 1024;

/// Parts handed to a stream that are smaller than this are copied together.
pub const UTP_SEND_CHUNK_MIN: usize = 1024;

/// Streams of one socket, those that linger not counted.
pub const UTP_CONNECTIONS_MAX: usize = 1024;

/// Streams whose peer has not shown that it can hear us; the oldest makes room (a flood of SYNs).
pub const UTP_UNCONFIRMED_MAX: usize = 64;

/// Ended streams that still answer a late FIN, and how long they do: several timeouts of the peer.
pub const UTP_LINGERING_MAX: usize = 256;
pub const UTP_LINGER: Duration = Duration::from_secs(10);

/// Retransmission timeout (RFC 6298) before the first sample, at least (libtorrent) and at most.
pub const UTP_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);
pub const UTP_TIMEOUT_MIN: Duration = Duration::from_millis(500);
pub const UTP_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Beside two round trips, how long an acknowledgement may take (libutp delays them so long) before the last packet is
/// sent again to provoke one: long before the timeout.
pub const UTP_TAIL_DELAY: Duration = Duration::from_millis(100);

/// A peer with a closed window is asked at least this often.
pub const UTP_WINDOW_PROBE_MAX: Duration = Duration::from_secs(10);

/// A window that was closed and is open again is told so often, a timeout apart, while the peer sends nothing: an
/// acknowledgement is not acknowledged, and not every peer asks.
pub const UTP_WINDOW_UPDATES: u32 = 3;

/// A peer that acknowledges nothing for this long is gone: a blackout of a wireless network is shorter.
pub const UTP_GIVE_UP: Duration = Duration::from_secs(60);

/// Packets acknowledged together, and how long one waits for the next: short, because the delay is measured too.
pub const UTP_ACK_PACKETS: u32 = 2;
pub const UTP_ACK_DELAY: Duration = Duration::from_millis(5);

/// Timers of shells are no finer.
pub const UTP_TIMER_GRANULARITY: Duration = Duration::from_millis(1);

/// Packets sent later that arrived, or acknowledgements repeated, after which a packet is lost (RFC 5681).
pub const UTP_REORDER_TOLERANCE: u64 = 3;

/// An idle stream says something this often: home routers forget after 30 s.
pub const UTP_KEEP_ALIVE: Duration = Duration::from_secs(29);

/// Paced packets leave together that are due within this: timers are no finer.
pub const UTP_PACING_QUANTUM: Duration = Duration::from_millis(1);

/// Packets of one stream that leave in a row before the next stream's turn.
pub const UTP_TURN_PACKETS: u32 = 8;

/// Answers to packets of unknown streams, a second; and replies that wait to be sent.
pub const UTP_RESETS_PER_S: u32 = 50;
pub const UTP_REPLIES_MAX: usize = UTP_CONNECTIONS_MAX;
