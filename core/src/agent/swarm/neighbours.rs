//! The peers of one content: who is met, kept, turned away or banned, and what each one's events mean.

use super::super::dial::{Place, Way, way};
use super::{Context, Introduction, Me, Peer, Swarm, SwarmEvent};
use crate::command::Level;
use crate::content::{Bitfield, Metainfo};
use crate::ids::{SourceId, StreamId};
use crate::limits::{DIALS_AT_ONCE, REDIAL_AFTER_MAX, SESSIONS_PER_CONTENT_MAX};
use crate::machine::{Endpoint, Host, Input};
use crate::policy::Known;
use crate::rendezvous::{Channel, DeviceId, Unreachable};
use crate::session::{Identity, PeerFault, Session, SessionEvent};
use crate::stats::SourceClass;
use crate::wire::PeerId;
use alloc::format;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl Swarm {
    /// Peers somebody named.
    pub(in crate::agent) fn add_candidates(
        &mut self,
        peers: impl IntoIterator<Item = (Place, Known)>,
        c: &mut Context<'_>,
    ) {
        c.fx.owner = self.owner;
        for (place, known) in peers {
            self.candidates.add(place, known);
        }
        self.dial_soon = true;
        self.top_up(c);
    }

    /// An accepted connection that greeted us with this content's hash.
    pub(in crate::agent) fn take_session(
        &mut self,
        session: Session,
        from: SocketAddr,
        c: &mut Context<'_>,
    ) {
        c.fx.owner = self.owner;
        c.fx.adopt(session.stream());
        c.rules.yielding.on_peer(session.stream(), from.ip(), c.fx);
        let place = Place::at(from);
        let banned = self.candidates.is_banned(place);
        let full = self.sessions.len() >= SESSIONS_PER_CONTENT_MAX;
        let known = match self.candidates.known(from) {
            Known::Other => c.rules.introduced(from.ip()),
            known => known,
        };
        let limits = &c.rules.limits;
        let class = limits.class_of(from.ip(), known);
        let mode = self.mode(limits);
        let welcome = self.meets && limits.may_meet(mode, from.ip(), class, known);
        let source = self.add_session(session, place, class, known);
        if banned || full || !welcome {
            self.close_session(source, c);
        } else {
            self.welcome(source, c);
        }
        self.top_up(c);
    }

    fn add_session(
        &mut self,
        session: Session,
        place: Place,
        class: SourceClass,
        known: Known,
    ) -> SourceId {
        self.last_source += 1;
        let source = SourceId(self.last_source);
        let has = Bitfield::empty(self.have.pieces());
        self.streams.insert(session.stream(), source);
        self.peers.insert(
            source,
            Peer {
                place,
                class,
                known,
                has,
                blames: 0,
                is_relayed: Channel::at(place.addr.ip()).is_some(),
                utp_at: None,
                rival: None,
            },
        );
        self.sessions.insert(source, session);
        source
    }

    pub(super) fn on_peer_stream(&mut self, source: SourceId, input: Input, c: &mut Context<'_>) {
        let mut events = Vec::new();
        if matches!(input, Input::Opened { .. }) {
            self.end_rival(source, c);
        }
        let Some(session) = self.sessions.get_mut(&source) else {
            return;
        };
        let mono = c.now.mono;
        match input {
            Input::Opened { stream, to } => {
                c.rules.yielding.on_peer(stream, to.ip(), c.fx);
                if let Some(me) = self.metainfo.as_ref().map(|m| identity(&self.me, m)) {
                    session.on_opened(mono, &me, c.fx);
                }
            }
            Input::Received { bytes, .. } => session.on_bytes(mono, bytes, c.fx, &mut events),
            Input::Sent { len, .. } => {
                session.on_sent(mono, len);
                let class = self.peers.get(&source).map(|peer| peer.class);
                if class == Some(SourceClass::Internet) {
                    c.rules.ledger.count(c.now, len.into());
                }
            }
            Input::Closed { stream, .. } => return self.on_session_closed(source, stream, c),
            _ => {}
        }
        self.settle_session(source, events, c);
    }

    /// What our own peers send gives way at their side. Others may not, so in the background we hold them back.
    pub(super) fn yield_as_receiver(&self, source: SourceId, c: &mut Context<'_>) {
        if let (Some(session), Some(peer)) = (self.sessions.get(&source), self.peers.get(&source))
            && !session.speaks_ranges()
        {
            let (stream, remote) = (session.stream(), peer.place.addr.ip());
            let is_background = !self.foreground;
            c.rules
                .yielding
                .on_download(stream, remote, is_background, c.fx);
        }
    }

    fn on_session_closed(&mut self, source: SourceId, stream: StreamId, c: &mut Context<'_>) {
        self.streams.remove(&stream);
        self.serve.forget(source);
        self.dial_soon = true;
        if let Some(mut session) = self.sessions.remove(&source) {
            self.sent_before += session.sent_bytes();
            let unfinished = session.unfinished_bytes();
            let released = session.on_closed();
            self.with_job(c, |job, a| {
                job.cut_short(unfinished);
                job.released(source, &released, a);
                job.remove_peer(source);
            });
        }
        let Some(peer) = self.peers.remove(&source) else {
            return;
        };
        let device = peer.place.device;
        let introduction = device.and_then(|device| self.introductions.get_mut(&device));
        if let Some(rival) = peer.rival.and_then(|rival| self.peers.get_mut(&rival)) {
            rival.rival = None;
        } else if let Some(introduction) = introduction.filter(|it| it.tcp == Some(source)) {
            introduction.tcp = None;
        } else if peer.utp_at.is_some() && self.meets {
            self.dial_otherwise(&peer, None, c);
        } else {
            self.candidates.closed(c.now.mono, peer.place);
        }
    }

    /// One attempt has got through.
    fn end_rival(&mut self, source: SourceId, c: &mut Context<'_>) {
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        peer.utp_at = None;
        if let Some(device) = peer.place.device {
            self.introductions.remove(&device);
        }
        if let Some(rival) = peer.rival {
            self.close_session(rival, c);
        }
    }

    pub(super) fn close_session(&mut self, source: SourceId, c: &mut Context<'_>) {
        if let Some(session) = self.sessions.get_mut(&source) {
            session.close(c.fx);
        }
    }

    /// Their handshake is here: keep the connection unless it is one too many.
    fn welcome(&mut self, source: SourceId, c: &mut Context<'_>) {
        let (Some(metainfo), Some(session)) = (self.metainfo.clone(), self.sessions.get(&source))
        else {
            return;
        };
        let peer_id = session.peer_id();
        if peer_id == self.me.peer_id || self.is_spare(source, peer_id) {
            if let Some(peer) = self.peers.get(&source) {
                self.candidates
                    .rest(c.now.mono, peer.place, REDIAL_AFTER_MAX);
            }
            return self.close_session(source, c);
        }
        let me = identity(&self.me, &metainfo);
        let class = self
            .peers
            .get(&source)
            .map_or(SourceClass::Internet, |p| p.class);
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.has = Bitfield::empty(metainfo.geometry.pieces());
            self.candidates.opened(peer.place);
        }
        self.dial_soon = true;
        let mut events = Vec::new();
        let nothing = Bitfield::empty(metainfo.geometry.pieces());
        let offered = if self.me.share { &self.have } else { &nothing };
        if let Some(session) = self.sessions.get_mut(&source) {
            session.welcome(
                c.now.mono,
                &me,
                metainfo.geometry,
                offered,
                c.fx,
                &mut events,
            );
        }
        self.with_job(c, |job, a| job.add_peer(source, class, a));
        self.settle_session(source, events, c);
    }

    /// Two agents that dial each other keep the connection dialled by the lower peer id.
    fn is_spare(&mut self, source: SourceId, peer_id: PeerId) -> bool {
        let dialled_by_lower = |s: &Session| s.is_dialled() == (self.me.peer_id.0 < peer_id.0);
        let this = self.sessions.get(&source).is_some_and(dialled_by_lower);
        let other = self
            .sessions
            .iter()
            .find(|(id, s)| **id != source && s.is_open() && s.peer_id() == peer_id);
        match other {
            None => false,
            Some((_, other)) => !this || dialled_by_lower(other),
        }
    }

    pub(super) fn settle_session(
        &mut self,
        source: SourceId,
        events: Vec<SessionEvent>,
        c: &mut Context<'_>,
    ) {
        for event in events {
            match event {
                SessionEvent::Hello { info_hash, .. } => {
                    if self
                        .metainfo
                        .as_ref()
                        .is_some_and(|m| m.info_hash.truncated() == info_hash)
                    {
                        self.welcome(source, c);
                    } else {
                        self.close_session(source, c);
                    }
                }
                SessionEvent::Port(port) => self.on_port(source, port, c),
                SessionEvent::HasAll => self.on_has(source, None, c),
                SessionEvent::HasSet(set) => self.on_has(source, Some(set), c),
                SessionEvent::Has(piece) => {
                    if let Some(peer) = self.peers.get_mut(&source) {
                        peer.has.insert(piece);
                    }
                    self.with_job(c, |job, a| job.peer_has(a.now.mono, source, piece));
                }
                SessionEvent::Claim { pieces, on } => {
                    self.with_job(c, |job, a| job.peer_claims(a.now.mono, source, &pieces, on));
                }
                SessionEvent::Choked { released } | SessionEvent::Stalled { released } => {
                    self.with_job(c, |job, a| job.released(source, &released, a));
                }
                SessionEvent::Rejected { run } => {
                    self.with_job(c, |job, a| job.released(source, &[run], a));
                }
                SessionEvent::Data { run, data } => {
                    self.with_job(c, |job, a| job.on_data(source, run, data, a))
                }
                SessionEvent::HashesAsked(request) => {
                    let hashes = self
                        .layer
                        .as_ref()
                        .and_then(|layer| layer.hashes_for(&request));
                    if let Some(session) = self.sessions.get_mut(&source) {
                        session.answer_hashes(c.now.mono, request, hashes, c.fx);
                    }
                }
                SessionEvent::Hashes { request, hashes } => {
                    self.with_job(c, |job, a| job.on_hashes(source, &request, &hashes, a));
                }
                SessionEvent::Fault(fault) => self.on_fault(source, &fault, c),
                SessionEvent::Unchoked => {
                    self.yield_as_receiver(source, c);
                    self.with_job(c, |job, _| job.unchoked(source));
                }
                SessionEvent::Interested(_) => self.serve.changed(),
                SessionEvent::Asked | SessionEvent::HashesRejected(_) => {}
            }
        }
    }

    fn on_has(&mut self, source: SourceId, set: Option<Bitfield>, c: &mut Context<'_>) {
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.has = set
                .clone()
                .unwrap_or_else(|| Bitfield::full(self.have.pieces()));
        }
        self.with_job(c, |job, _| match &set {
            Some(set) => job.peer_has_set(source, set),
            None => job.peer_has_all(source),
        });
    }

    /// Where an accepted peer can be dialled another time.
    fn on_port(&mut self, source: SourceId, port: u16, c: &mut Context<'_>) {
        let device = self.sessions.get(&source).map(|s| s.peer_id().0);
        if let Some(peer) = self.peers.get_mut(&source) {
            let place = Place {
                addr: SocketAddr::new(peer.place.addr.ip(), port),
                device,
            };
            if self.candidates.is_banned(place) {
                return self.close_session(source, c);
            }
            // A relayed way is found anew each time.
            if !peer.is_relayed {
                self.candidates.add(place, peer.known);
                self.candidates.opened(place);
            }
            peer.place = place;
        }
    }

    fn on_fault(&mut self, source: SourceId, fault: &PeerFault, c: &mut Context<'_>) {
        let Some(peer) = self.peers.get(&source) else {
            return;
        };
        c.ev.push(SwarmEvent::Log(
            Level::Debug,
            format!("peer {}: {fault}", peer.place.addr),
        ));
        use PeerFault::{HandshakeTimeout, Idle, Stalled};
        if !matches!(fault, HandshakeTimeout | Idle | Stalled) {
            self.candidates.ban(peer.place);
        }
    }

    // --- dialling

    /// Only who lacks something dials; a seed waits to be asked.
    pub(super) fn may_dial(&self) -> bool {
        let downloading = self.job.as_ref().is_some_and(|j| !j.is_ended()) && !self.sharing;
        downloading
            && self.meets
            && self.sessions.len() < SESSIONS_PER_CONTENT_MAX
            && self.dialling() < DIALS_AT_ONCE
    }

    fn dialling(&self) -> usize {
        self.sessions
            .values()
            .filter(|s| s.is_dialled() && !s.is_open() && !s.is_closed())
            .count()
    }

    pub(super) fn dial(&mut self, c: &mut Context<'_>) {
        self.dial_beside(c);
        let mode = self.mode(&c.rules.limits);
        while self.may_dial() {
            let limits = &c.rules.limits;
            let near = |addr: SocketAddr, known| {
                let class = limits.class_of(addr.ip(), known);
                limits
                    .may_meet(mode, addr.ip(), class, known)
                    .then_some(class)
            };
            let Some((place, known)) = self.candidates.next(c.now.mono, near) else {
                break;
            };
            let class = limits.class_of(place.addr.ip(), known);
            let way = way(c.now.mono, limits.transport, self.me.port.is_some());
            self.dial_one((place, place.addr), class, known, way, c);
        }
    }

    /// Dial whoever is known at this place, at an address.
    fn dial_one(
        &mut self,
        (place, addr): (Place, SocketAddr),
        class: SourceClass,
        known: Known,
        way: Way,
        c: &mut Context<'_>,
    ) -> SourceId {
        let stream = match way {
            Way::Utp => c.fx.connect_utp(addr),
            Way::Tcp | Way::TcpThenUtp(_) => c.fx.connect(Endpoint {
                host: Host::Addr(addr.ip()),
                port: addr.port(),
                tls: None,
            }),
        };
        let session = Session::dial(c.now.mono, stream);
        let source = self.add_session(session, place, class, known);
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.is_relayed = Channel::at(addr.ip()).is_some();
            if let Way::TcpThenUtp(at) = way {
                peer.utp_at = Some(at);
            }
        }
        source
    }

    /// Where TCP is not through in time, something else is tried beside it.
    fn dial_beside(&mut self, c: &mut Context<'_>) {
        let late = |peer: &Peer| peer.utp_at.is_some_and(|at| at <= c.now.mono);
        let late: Vec<SourceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| late(peer))
            .map(|(source, _)| *source)
            .collect();
        for source in late {
            if let Some(mut peer) = self.peers.remove(&source) {
                peer.utp_at = None;
                peer.rival = self.dial_otherwise(&peer, Some(source), c);
                self.peers.insert(source, peer);
            }
        }
    }

    /// Over uTP: to where the rendezvous finds it, or to its address. `tcp` is the attempt that goes on meanwhile.
    fn dial_otherwise(
        &mut self,
        peer: &Peer,
        tcp: Option<SourceId>,
        c: &mut Context<'_>,
    ) -> Option<SourceId> {
        let &Peer {
            place,
            class,
            known,
            ..
        } = peer;
        let content = self.metainfo.as_ref().map(|m| m.info_hash.truncated());
        if let (Some(device), Some(content), true) = (place.device, content, c.rules.has_rendezvous)
        {
            let introduction = Introduction {
                place,
                class,
                known,
                tcp,
            };
            self.introductions.insert(device, introduction);
            c.ev.push(SwarmEvent::Introduce(device, content));
            return None;
        }
        let other = self.dial_one((place, place.addr), class, known, Way::Utp, c);
        if let Some(peer) = self.peers.get_mut(&other) {
            peer.rival = tcp;
        }
        Some(other)
    }

    /// The rendezvous has found a way to somebody, or knows that there is none.
    pub(in crate::agent) fn on_introduced(
        &mut self,
        device: DeviceId,
        found: Result<SocketAddr, Unreachable>,
        c: &mut Context<'_>,
    ) {
        let Some(it) = self.introductions.remove(&device) else {
            return;
        };
        c.fx.owner = self.owner;
        match found {
            Ok(at) => {
                let other = self.dial_one((it.place, at), it.class, it.known, Way::Utp, c);
                for (this, rival) in [(it.tcp, Some(other)), (Some(other), it.tcp)] {
                    if let Some(peer) = this.and_then(|this| self.peers.get_mut(&this)) {
                        peer.rival = rival;
                    }
                }
            }
            Err(why) => {
                let text = format!("no way to the peer behind {}: {why}", it.place.addr.ip());
                if let Some(job) = &mut self.job {
                    job.on_no_way(text.clone());
                }
                c.ev.push(SwarmEvent::Log(Level::Info, text));
                if why == Unreachable::ShutOut {
                    self.candidates.rest(c.now.mono, it.place, REDIAL_AFTER_MAX);
                } else if it.tcp.is_none() {
                    self.candidates.closed(c.now.mono, it.place);
                }
            }
        }
        self.top_up(c);
    }
}

fn identity(me: &Me, metainfo: &Metainfo) -> Identity {
    Identity {
        peer_id: me.peer_id,
        info_hash: metainfo.info_hash.truncated(),
        port: me.port.filter(|_| me.share),
    }
}
