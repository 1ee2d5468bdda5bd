//! What a peer says: each message checked and turned into an event, a queued upload or a fault.
//!
//! Never does: deciding what we say next (the parent's). Spec: BEP 3, 6, 10, 52.

use super::requests::{blocks, runs_of};
use super::{Asked, PeerFault, Phase, Session, SessionEvent};
use crate::content::{Bitfield, Block, Run};
use crate::limits::{BLOCK_LEN, UNREAD_REPLIES_MAX};
use crate::machine::Effects;
use crate::time::Mono;
use crate::wire::{
    ClaimMessage, EXTENSION_HANDSHAKE, ExtensionHandshake, Handshake, Message, RangeMessage,
};
use alloc::vec::Vec;
use bytes::Bytes;

impl Session {
    pub(super) fn read(&mut self, now: Mono, fx: &mut Effects, ev: &mut Vec<SessionEvent>) {
        while self.phase == Phase::Open {
            if self.unsent > UNREAD_REPLIES_MAX {
                return self.fault(PeerFault::Unread, fx, ev);
            }
            let outcome = match self.framer.next() {
                Ok(Some(message)) => self.on_message(now, message, fx, ev),
                Ok(None) => return,
                Err(error) => Err(PeerFault::Wire(error)),
            };
            if let Err(fault) = outcome {
                return self.fault(fault, fx, ev);
            }
        }
    }

    pub(super) fn on_handshake(&mut self, hello: &Handshake, ev: &mut Vec<SessionEvent>) {
        self.peer_id = hello.peer_id;
        (self.fast, self.extended) = (hello.has_fast(), hello.has_extensions());
        self.phase = Phase::Greeted;
        ev.push(SessionEvent::Hello {
            info_hash: hello.info_hash,
            peer_id: hello.peer_id,
        });
    }

    fn on_message(
        &mut self,
        now: Mono,
        message: Message,
        fx: &mut Effects,
        ev: &mut Vec<SessionEvent>,
    ) -> Result<(), PeerFault> {
        match message {
            Message::Choke => {
                self.interest.they_choke = true;
                // With the fast extension each request still gets its block or its reject (BEP 6).
                let released = if self.fast {
                    Vec::new()
                } else {
                    self.requests.give_up()
                };
                ev.push(SessionEvent::Choked { released });
            }
            Message::Unchoke => {
                self.interest.they_choke = false;
                ev.push(SessionEvent::Unchoked);
            }
            Message::Interested => self.on_interest(true, ev),
            Message::NotInterested => self.on_interest(false, ev),
            Message::Have(piece) => ev.push(SessionEvent::Has(self.valid_piece(piece)?)),
            Message::Bitfield(bytes) => {
                let pieces = self.pieces();
                let have = Bitfield::from_bytes(&bytes, pieces).ok_or(PeerFault::BitfieldSize)?;
                ev.push(SessionEvent::HasSet(have));
            }
            Message::HaveAll => ev.push(SessionEvent::HasAll),
            Message::Request {
                piece,
                begin,
                length,
            } => {
                self.on_asked(now, Asked::block(piece, begin, length), fx, ev);
            }
            Message::Cancel {
                piece,
                begin,
                length,
            } => {
                self.on_cancel(now, Asked::block(piece, begin, length), fx);
            }
            Message::Piece { piece, begin, data } => self.on_piece(now, piece, begin, data, ev)?,
            Message::Reject { piece, begin, .. } => {
                self.on_rejected(
                    Run {
                        piece,
                        first: begin / BLOCK_LEN,
                        count: 1,
                    },
                    ev,
                );
            }
            Message::Range(range) => self.on_range(now, range, fx, ev)?,
            Message::Claim(claim) => self.on_claim(claim, ev)?,
            Message::Extended {
                id: EXTENSION_HANDSHAKE,
                payload,
            } => {
                let hello = ExtensionHandshake::parse(&payload).map_err(PeerFault::Wire)?;
                self.extensions = hello.extensions;
                self.request_queue = hello.request_queue.unwrap_or(self.request_queue).max(1);
                ev.extend(hello.port.map(SessionEvent::Port));
            }
            Message::HashRequest(request) => ev.push(SessionEvent::HashesAsked(request)),
            Message::Hashes { request, hashes } => {
                ev.push(SessionEvent::Hashes { request, hashes })
            }
            Message::HashReject(request) => ev.push(SessionEvent::HashesRejected(request)),
            // Hints we have no use for, and extensions we did not offer.
            Message::KeepAlive
            | Message::HaveNone
            | Message::Port(_)
            | Message::Suggest(_)
            | Message::AllowedFast(_)
            | Message::Extended { .. } => {}
        }
        Ok(())
    }

    fn on_interest(&mut self, wants: bool, ev: &mut Vec<SessionEvent>) {
        if self.interest.they_want != wants {
            self.interest.they_want = wants;
            ev.push(SessionEvent::Interested(wants));
        }
    }

    fn on_range(
        &mut self,
        now: Mono,
        message: RangeMessage,
        fx: &mut Effects,
        ev: &mut Vec<SessionEvent>,
    ) -> Result<(), PeerFault> {
        match message {
            RangeMessage::Request(run) => self.on_asked(now, self.asked_of(run), fx, ev),
            RangeMessage::Cancel(run) => self.on_cancel(now, self.asked_of(run), fx),
            RangeMessage::Data { run, data } => self.on_data(now, run, data, ev)?,
            RangeMessage::Reject(run) => self.on_rejected(run, ev),
        }
        Ok(())
    }

    fn on_claim(&self, claim: ClaimMessage, ev: &mut Vec<SessionEvent>) -> Result<(), PeerFault> {
        let (pieces, on) = match claim {
            ClaimMessage::Claim(pieces) => (pieces, true),
            ClaimMessage::Unclaim(pieces) => (pieces, false),
        };
        for piece in &pieces {
            self.valid_piece(*piece)?;
        }
        ev.push(SessionEvent::Claim { pieces, on });
        Ok(())
    }

    fn on_piece(
        &mut self,
        now: Mono,
        piece: u32,
        begin: u32,
        data: Vec<Bytes>,
        ev: &mut Vec<SessionEvent>,
    ) -> Result<(), PeerFault> {
        if !begin.is_multiple_of(BLOCK_LEN) {
            return Err(PeerFault::Unasked { piece, begin });
        }
        self.on_data(
            now,
            Run {
                piece,
                first: begin / BLOCK_LEN,
                count: 1,
            },
            data,
            ev,
        )
    }

    fn on_data(
        &mut self,
        now: Mono,
        run: Run,
        data: Vec<Bytes>,
        ev: &mut Vec<SessionEvent>,
    ) -> Result<(), PeerFault> {
        let unasked = PeerFault::Unasked {
            piece: run.piece,
            begin: run.first.saturating_mul(BLOCK_LEN),
        };
        let Some(geometry) = self.geometry else {
            return Err(unasked);
        };
        let len: u64 = data.iter().map(|d| d.len() as u64).sum();
        if run.count == 0
            || run.count > geometry.blocks_per_piece()
            || len != u64::from(geometry.run_len(run))
        {
            return Err(unasked);
        }
        if blocks(run).any(|block| !self.requests.expects(block)) {
            return Err(unasked);
        }
        for block in blocks(run) {
            self.requests.arrived(now, block, geometry.block_len(block));
        }
        (self.stalled_until, self.stalls) = (None, 0);
        ev.push(SessionEvent::Data { run, data });
        Ok(())
    }

    fn on_rejected(&mut self, run: Run, ev: &mut Vec<SessionEvent>) {
        if run.count > self.geometry.map_or(0, |g| g.blocks_per_piece()) {
            return;
        }
        let refused: Vec<Block> = blocks(run).filter(|b| self.requests.rejected(*b)).collect();
        ev.extend(
            runs_of(refused.into_iter())
                .into_iter()
                .map(|run| SessionEvent::Rejected { run }),
        );
    }

    fn on_asked(&mut self, now: Mono, asked: Asked, fx: &mut Effects, ev: &mut Vec<SessionEvent>) {
        let queued =
            !self.interest.we_choke && self.geometry.is_some_and(|g| self.uploads.push(asked, &g));
        if queued {
            ev.push(SessionEvent::Asked);
        } else {
            self.reject(now, asked, fx);
        }
    }

    fn on_cancel(&mut self, now: Mono, asked: Asked, fx: &mut Effects) {
        for cancelled in self.uploads.cancel(asked) {
            self.reject(now, cancelled, fx);
        }
    }

    fn valid_piece(&self, piece: u32) -> Result<u32, PeerFault> {
        if piece < self.pieces() {
            Ok(piece)
        } else {
            Err(PeerFault::PieceIndex(piece))
        }
    }

    fn asked_of(&self, run: Run) -> Asked {
        let len = self.geometry.map_or(0, |g| g.run_len(run));
        Asked {
            piece: run.piece,
            begin: run.first.saturating_mul(BLOCK_LEN),
            len,
            ranged: true,
        }
    }

    fn pieces(&self) -> u32 {
        self.geometry.map_or(0, |g| g.pieces())
    }
}
