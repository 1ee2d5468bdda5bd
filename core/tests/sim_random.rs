//! Random links, random conversations: whatever happens, the bytes are right and the contract holds.

use bytes::Bytes;
use core::time::Duration;
use dovetail_core::ids::StreamId;
use dovetail_core::machine::{
    CloseHow, Effects, Endpoint, Host, Input, Listener, Lost, Machine, Output,
};
use dovetail_core::sim::arb::{self, Result, Unstructured};
use dovetail_core::sim::{HostId, HostSpec, Kill, LinkSpec, Reads, World};
use dovetail_core::time::{Deadline, Now};

/// One end of a conversation; the bytes it sends are a pattern, so the other can check them.
struct Talker {
    fx: Effects,
    salt: u64,
    stream: Option<StreamId>,
    written: u64,
    answered: u64,
    granted: u64,
    received: u64,
    closing: bool,
    flushed: bool,
    /// Closing before this gives the connection up with all that waits on it.
    opened: bool,
    closed: Option<Lost>,
}

fn pattern(salt: u64, at: u64) -> u8 {
    ((at * 31 + at / 253 + salt * 101) % 256) as u8
}

impl Talker {
    fn new(salt: u64) -> Self {
        Self {
            fx: Effects::default(),
            salt,
            stream: None,
            written: 0,
            answered: 0,
            granted: 0,
            received: 0,
            closing: false,
            flushed: false,
            opened: false,
            closed: None,
        }
    }

    fn is_open(&self) -> bool {
        self.stream.is_some() && self.closed.is_none()
    }

    fn say(&mut self, len: u64) {
        if let Some(stream) = self.stream.filter(|_| self.is_open() && !self.closing) {
            let bytes: Bytes = (self.written..self.written + len)
                .map(|at| pattern(self.salt, at))
                .collect();
            self.written += len;
            self.fx.send(stream, bytes);
        }
    }

    fn grant(&mut self, bytes: u32) {
        if let Some(stream) = self.stream.filter(|_| self.is_open()) {
            self.granted += u64::from(bytes);
            self.fx.grant(stream, bytes);
        }
    }

    fn close(&mut self, how: CloseHow) {
        if let Some(stream) = self.stream.filter(|_| self.is_open() && !self.closing) {
            self.closing = true;
            self.flushed = how == CloseHow::Flush;
            self.fx.close(stream, how);
        }
    }
}

impl Machine for Talker {
    fn handle(&mut self, _now: Now, input: Input) {
        assert!(self.closed.is_none(), "{input:?} after Closed");
        match input {
            Input::Accepted { stream, .. } => {
                self.stream = Some(stream);
                self.opened = true;
            }
            Input::Opened { .. } => self.opened = true,
            Input::Received { bytes, .. } => {
                assert!(!self.closing, "nothing is read after a close");
                for (byte, at) in bytes.iter().zip(self.received..) {
                    assert_eq!(*byte, pattern(1 - self.salt, at), "at {at}");
                }
                self.received += bytes.len() as u64;
                assert!(self.received <= self.granted);
            }
            Input::Sent { len, .. } => {
                self.answered += u64::from(len);
                assert!(self.answered <= self.written);
            }
            Input::Closed { why, .. } => self.closed = Some(why),
            _ => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.fx.poll()
    }

    fn deadline(&self) -> Option<Deadline> {
        None
    }
}

fn link(u: &mut Unstructured<'_>) -> Result<LinkSpec> {
    let rate = *u.choose(&[20_000, 300_000, 5_000_000, 100_000_000])?;
    let micros = |u: &mut Unstructured<'_>, max| {
        Ok::<_, arb::Error>(Duration::from_micros(u.int_in_range(0..=max)?))
    };
    Ok(LinkSpec::rate(rate)
        .delay(micros(u, 50_000)?)
        .jitter(micros(u, 5_000)?)
        .queue(u.int_in_range(20_000..=500_000)?)
        .loss_ppm(*u.choose(&[0, 0, 1000, 50_000])?)
        .reorder_ppm(*u.choose(&[0, 0, 10_000])?))
}

fn act(u: &mut Unstructured<'_>, world: &mut World, who: HostId) -> Result<()> {
    let action = u.int_in_range(0..=20_u8)?;
    let len = u.int_in_range(1..=120_000_u32)?;
    world.with(who, |t: &mut Talker| match action {
        0..=8 => t.say(len.into()),
        9..=18 => t.grant(len),
        19 => t.close(CloseHow::Flush),
        _ => t.close(CloseHow::Abort),
    });
    Ok(())
}

fn talk(u: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new(u.arbitrary()?);
    world.net.reads = *u.choose(&[Reads::AsSent, Reads::Chopped, Reads::Merged])?;
    world.net.segment_bytes = *u.choose(&[1460, 16 * 1024])?;
    world.net.receive_buffer = *u.choose(&[5_000, 100_000, 4_000_000])?;
    let spec = |u: &mut Unstructured<'_>, n| {
        let host = HostSpec::at(&format!("10.0.0.{n}")).listen(Listener::Peers, 7680);
        Ok::<_, arb::Error>(host.links(link(u)?, link(u)?))
    };
    let left = world.host("left", Talker::new(0), spec(u, 1)?);
    let right = world.host("right", Talker::new(1), spec(u, 2)?);
    world.with(right, |t: &mut Talker| {
        t.stream = Some(t.fx.connect(Endpoint {
            host: Host::Addr([10, 0, 0, 1].into()),
            port: 7680,
            tls: None,
        }));
    });
    let mut faulty = false;
    while !u.is_empty() {
        let who = *u.choose(&[left, right])?;
        match u.int_in_range(0..=400_u16)? {
            0..=2 => {
                faulty = true;
                world.partition(left, right);
            }
            3..=9 => world.heal(left, right),
            _ => act(u, &mut world, who)?,
        }
        world.run_for(Duration::from_micros(u.int_in_range(0..=300_000)?));
    }
    world.heal(left, right);
    finish(&mut world, left, right, faulty);
    Ok(())
}

/// Read everything that was sent, close, and see that nothing is left.
fn finish(world: &mut World, left: HostId, right: HostId, faulty: bool) {
    for who in [left, right] {
        world.with(who, |t: &mut Talker| t.grant(1 << 30));
    }
    world.run_for(Duration::from_secs(3000));
    for who in [left, right] {
        world.with(who, |t: &mut Talker| t.close(CloseHow::Flush));
    }
    world.run_for(Duration::from_secs(3000));
    let [l, r] = [left, right].map(|h| world.machine::<Talker>(h));
    for (a, b) in [(l, r), (r, l)] {
        assert!(
            a.stream.is_none() || a.closed.is_some(),
            "every stream ends"
        );
        if a.closed == Some(Lost::Eof) && !a.closing {
            assert!(b.flushed, "an end of stream was asked for");
            assert_eq!(a.received, b.written, "and comes after every byte");
        }
        let expected = [Some(Lost::Eof), Some(Lost::Asked), Some(Lost::Reset), None];
        assert!(faulty || expected.contains(&a.closed), "{:?}", a.closed);
        if a.closed == Some(Lost::Asked) && a.flushed && a.opened {
            assert_eq!(a.answered, a.written, "all had left");
        }
    }
    assert_eq!(world.connections(), 0, "the world forgets what is over");
}

#[test]
fn conversations_over_any_link_keep_the_contract() {
    arb::check("talk", 300, talk);
}

#[test]
fn kills_in_conversations_keep_the_contract() {
    arb::check("kill", 150, |u| {
        let how = *u.choose(&[Kill::Process, Kill::Power])?;
        let mut world = World::new(u.arbitrary()?);
        let (a, b) = (link(u)?, link(u)?);
        let host = |n| HostSpec::at(&format!("10.0.0.{n}")).listen(Listener::Peers, 7680);
        let left = world.host("left", Talker::new(0), host(1).links(a, b));
        let right = world.host("right", Talker::new(1), host(2).links(b, a));
        world.with(right, |t: &mut Talker| {
            t.stream = Some(t.fx.connect(Endpoint {
                host: Host::Addr([10, 0, 0, 1].into()),
                port: 7680,
                tls: None,
            }));
        });
        for _ in 0..u.int_in_range(0..=40)? {
            let who = *u.choose(&[left, right])?;
            act(u, &mut world, who)?;
            world.run_for(Duration::from_micros(u.int_in_range(0..=100_000)?));
        }
        world.kill(left, how);
        world.run_for(Duration::from_millis(u.int_in_range(0..=3000)?));
        if u.arbitrary()? {
            world.restart(left, Talker::new(0));
        }
        // It speaks and reads until it notices.
        world.with(right, |t: &mut Talker| {
            t.say(5_000_000);
            t.grant(1 << 30);
        });
        world.run_for(Duration::from_secs(3000));
        let right = world.machine::<Talker>(right);
        assert!(right.closed.is_some(), "it notices");
        assert_eq!(world.connections(), 0);
        Ok(())
    });
}
