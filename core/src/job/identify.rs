//! What the file is: which rung of the trust ladder (design: trust) a download stands on before its first byte.
//!
//! Decides: metainfo from the caller, else the coordinator's record, else HTTP alone; what an earlier run left
//! and whether it may be believed.

use super::{Around, Job, JobEvent, Phase, Resume, storage};
use crate::announce::{Key, Lookup};
use crate::command::Level;
use crate::content::{Bitfield, Digest, Geometry, LayerBuilder, Metainfo};
use crate::failure::{Failure, FailureKind};
use crate::http::Url;
use crate::limits::{LOOKUP_WAIT, PEER_GRACE};
use crate::picker::Picker;
use alloc::format;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Job {
    pub(super) fn begin(&mut self, a: &mut Around<'_>) {
        if let Some(bytes) = self.request.metainfo.take() {
            return match Metainfo::parse(&bytes) {
                Ok(metainfo) => self.identify(Arc::new(metainfo), a),
                Err(error) => {
                    let what = "cannot use the metainfo file";
                    self.fail(Failure::new(FailureKind::Usage, what, error.to_string()), a);
                }
            };
        }
        if !self.may_look_up || self.web.is_allowed(a.now.mono + PEER_GRACE) {
            return self.probe(a);
        }
        let until = a.now.mono + LOOKUP_WAIT;
        self.phase = Phase::Identifying { until };
        let key = match (&self.request.sha256, self.request.urls.first()) {
            (Some(sha256), _) => Key::Sha256(*sha256),
            (None, Some(url)) => Key::Url(url.clone()),
            (None, None) => return self.probe(a),
        };
        a.ev.push(JobEvent::Lookup(key));
    }

    /// The coordinator's answer to the lookup. While the coordinator itself finds out what the file is, HTTP goes
    /// on, and another answer follows.
    pub fn on_record(&mut self, answer: Lookup, a: &mut Around<'_>) {
        self.stale.all = true;
        let waits = matches!(self.phase, Phase::Identifying { .. });
        let Lookup::Found(record) = answer else {
            if waits {
                self.probe(a);
            }
            return;
        };
        let parsed = Metainfo::parse(&record.metainfo)
            .ok()
            .filter(|_| self.may_believe(record.sha256));
        match parsed {
            Some(metainfo) if waits => self.identify(Arc::new(metainfo), a),
            Some(metainfo) => self.adopt(Arc::new(metainfo), a),
            None => {
                let text =
                    "the coordinator's record is not of the file asked for; going on without peers";
                a.ev.push(JobEvent::Log(Level::Warn, text.to_string()));
                if waits {
                    self.probe(a);
                }
            }
        }
    }

    /// The record comes while HTTP is at work: peers join in once what is under way has come to rest.
    fn adopt(&mut self, metainfo: Arc<Metainfo>, a: &mut Around<'_>) {
        match (&self.phase, &self.picker) {
            (Phase::Probing, None) => {
                self.leave_web(a);
                self.identify(metainfo, a);
            }
            (Phase::Running, Some(picker))
                if self.metainfo.is_none()
                    && *picker.geometry() == metainfo.geometry
                    && !picker.is_complete() =>
            {
                self.leave_web(a);
                self.adopting = Some(metainfo);
            }
            _ => {}
        }
    }

    /// Nothing is being hashed or written any more: what is here is checked against the record like what an
    /// earlier run left.
    pub(super) fn adopt_at_rest(&mut self, a: &mut Around<'_>) {
        if self.writing > 0 || self.catching_up || self.verifier.is_hashing() {
            return;
        }
        let (Some(metainfo), Some(picker)) = (self.adopting.take(), self.picker.take()) else {
            return;
        };
        self.tally.waste(self.assembly.bytes());
        self.assembly.clear();
        self.verifier.restart();
        let mut found = storage::identity(metainfo.geometry, picker.have().clone());
        found.root = Some(metainfo.id.root);
        self.found = Some(found);
        self.recheck.credited = true;
        self.identify(metainfo, a);
    }

    fn may_believe(&self, sha256: Option<Digest>) -> bool {
        // With a hash from the caller the record is only a hint: the whole file is checked at the end.
        self.request.sha256.is_none() || sha256.is_none() || sha256 == self.request.sha256
    }

    /// The content is known by its Merkle tree.
    fn identify(&mut self, metainfo: Arc<Metainfo>, a: &mut Around<'_>) {
        for url in metainfo.web_seeds() {
            if !self.request.urls.contains(&url) && Url::parse(&url).is_ok() {
                self.request.urls.push(url);
            }
        }
        self.metainfo = Some(Arc::clone(&metainfo));
        if let Err(failure) = self.open_web(true, a) {
            return self.fail(failure, a);
        }
        match &metainfo.layer {
            Some(layer) => self.verifier.know_layer(layer.clone()),
            None => self.learning = Some(LayerBuilder::new(metainfo.geometry, metainfo.id.root)),
        }
        let geometry = metainfo.geometry;
        let mut identity = storage::identity(geometry, Bitfield::empty(geometry.pieces()));
        identity.root = Some(metainfo.id.root);
        if let Some(found) = self
            .found
            .take()
            .filter(|f| f.is_of(&metainfo.id, &geometry))
        {
            self.recheck.queue = found.have.iter().collect();
            identity.have = found.have;
        }
        self.picker = Some(Picker::new(
            geometry,
            self.request.sequential,
            &mut self.rng,
        ));
        self.phase = Phase::Rechecking;
        if self.sharing {
            self.recheck.queue = (0..geometry.pieces()).collect();
            self.recheck_more(a);
        } else {
            a.storage.identify(identity);
            a.storage.allocate(&geometry, a.fx);
        }
        self.web.allow_from(a.now.mono + LOOKUP_WAIT);
        a.ev.push(JobEvent::Identified(metainfo));
    }

    /// Nobody knows a hash: HTTP only, from what its first answer says.
    pub(super) fn probe(&mut self, a: &mut Around<'_>) {
        if let Err(failure) = self.open_web(false, a) {
            return self.fail(failure, a);
        }
        if !self.web.has_source() {
            let what = format!("cannot download {}", self.request.output);
            let failure = if self.request.require_peers {
                let why = "peers are required, but nobody says what the file is";
                Failure::new(FailureKind::Unavailable, what, why)
                    .remedy("give --metainfo, or a --coordinator that knows the file")
            } else {
                let why = "there is no URL to fetch it from";
                Failure::new(FailureKind::Usage, what, why)
            };
            return self.fail(failure, a);
        }
        self.web.allow_from(a.now.mono);
        self.phase = Phase::Probing;
        if let Some(found) = self
            .found
            .take()
            .filter(|f| self.web.can_resume(f, &self.request.urls))
        {
            self.set_geometry(found.geometry, a);
            found.have.iter().for_each(|piece| self.restore(piece, a));
            a.storage.identify(found);
            self.phase = Phase::Running;
        }
    }

    fn open_web(&mut self, verified: bool, a: &Around<'_>) -> Result<(), Failure> {
        let mut urls = Vec::new();
        for text in &self.request.urls {
            let url = Url::parse(text).map_err(|error| {
                Failure::new(
                    FailureKind::Usage,
                    format!("cannot use the URL {text}"),
                    error.to_string(),
                )
            })?;
            urls.push(url);
        }
        let known = self
            .found
            .as_ref()
            .filter(|_| !verified)
            .and_then(Resume::known);
        let tiers = self.tiers(a);
        self.web.open(urls, tiers, known, verified);
        Ok(())
    }

    pub(super) fn set_geometry(&mut self, geometry: Geometry, a: &mut Around<'_>) {
        self.picker = Some(Picker::new(
            geometry,
            self.request.sequential,
            &mut self.rng,
        ));
        a.storage.allocate(&geometry, a.fx);
    }

    /// A piece of an earlier run that is good.
    pub(super) fn restore(&mut self, piece: u32, a: &mut Around<'_>) {
        if let Some(picker) = &mut self.picker {
            picker.verified(piece);
            if !self.recheck.credited {
                self.tally.resumed += u64::from(picker.geometry().piece_len(piece));
            }
            a.ev.push(JobEvent::Have(piece));
        }
    }
}
