//! The agent, its settings, and what they and this host forbid.

use super::{Found, Patient, ok, problem, warning};
use crate::api::CheckLine;
use crate::policy::Reason;
use crate::settings::{Mode, Provider};
use crate::stats::Bytes;
use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

impl Patient<'_> {
    pub(super) fn rules(&self, checks: &mut Vec<CheckLine>) {
        checks.push(self.agent());
        self.settings(checks);
        checks.push(self.mode());
        checks.extend(self.sharing());
        checks.push(self.uploads());
        checks.extend(self.background());
        checks.push(self.files());
    }

    fn agent(&self) -> CheckLine {
        const NAME: &str = "agent";
        let home = &self.found.home;
        match &self.found.agent {
            Found::Running(status) if status.version == self.found.version => {
                ok(NAME, format!("version {} runs in {home}", status.version))
            }
            Found::Running(status) => {
                let (agent, ours) = (&status.version, &self.found.version);
                let what = format!("version {agent} runs in {home}, and this program is {ours}");
                warning(NAME, what).remedy("stop the agent and start it again")
            }
            Found::Silent(why) => problem(NAME, format!("the agent of {home} cannot be asked"))
                .why(why.as_str())
                .remedy("stop it and start it again"),
            Found::Nobody => problem(NAME, format!("none runs in {home}"))
                .remedy("start one with `dovetail agent --share`, or name its folder with --home"),
        }
    }

    fn settings(&self, checks: &mut Vec<CheckLine>) {
        const NAME: &str = "settings";
        for wrong in &self.found.problems {
            let check = warning(NAME, "a value does not count").why(wrong.to_string());
            checks.push(check.remedy("mend it; `dovetail config --help` lists what is allowed"));
        }
        if self.found.problems.is_empty() {
            let rows = self.found.settings.rows().iter();
            let set = rows.filter(|row| row.set_by.provider != Provider::BuiltIn);
            let what = match set.count() {
                0 => "all are as built in".into(),
                1 => "1 is set, and counts".into(),
                n => format!("{n} are set, and count"),
            };
            checks.push(ok(NAME, what));
        }
    }

    fn mode(&self) -> CheckLine {
        const NAME: &str = "mode";
        let mode = self.limits.mode;
        let name = mode.name();
        let who = match mode {
            Mode::Lan => "peers of the same network",
            Mode::Group => "peers of the same group",
            Mode::Internet => "any peers",
            Mode::HttpOnly | Mode::Simple => "no peers",
            Mode::Bypass => "nothing is downloaded",
        };
        match &self.limits.mode_reason {
            Some(reason) => {
                let what = format!("mode {name}: {who}");
                let check = if mode.peers() {
                    warning(NAME, what)
                } else {
                    problem(NAME, what)
                };
                self.because(check, reason)
            }
            None if mode.peers() => {
                let check = ok(NAME, format!("mode {name}: {who}"));
                check.setting(self.explain("download_mode"))
            }
            None => problem(NAME, format!("mode {name}: {who}"))
                .setting(self.explain("download_mode"))
                .remedy(self.lift("download_mode")),
        }
    }

    fn sharing(&self) -> Option<CheckLine> {
        const NAME: &str = "sharing";
        let status = self.status()?;
        Some(match &status.listening {
            Some(_) => ok(NAME, format!("{} files are offered", status.shared.len())),
            None => warning(NAME, "this agent takes from peers and gives nothing")
                .why("it was started without --share")
                .remedy("start it with `dovetail agent --share`"),
        })
    }

    fn uploads(&self) -> CheckLine {
        const NAME: &str = "uploads";
        let uploads = &self.limits.uploads;
        if let Some(reason) = &uploads.stopped {
            let check = warning(NAME, "nothing is sent to peers now");
            return self.because(check, reason);
        }
        if let Some(reason) = uploads
            .internet_stopped
            .as_ref()
            .filter(|_| self.limits.mode == Mode::Internet)
        {
            let check = warning(NAME, "nothing is sent to peers on the Internet any more");
            return self.because(check, reason);
        }
        match uploads.bytes_per_s {
            0 => ok(NAME, "peers are sent what they ask for"),
            rate => ok(NAME, format!("peers are sent at most {}/s", Bytes(rate)))
                .setting(self.explain("max_upload_bandwidth")),
        }
    }

    fn background(&self) -> Option<CheckLine> {
        let reason = self.limits.background.paused.as_ref()?;
        let check = warning("background", "downloads in the background wait");
        Some(self.because(check, reason))
    }

    fn files(&self) -> CheckLine {
        let peer = Bytes(self.limits.min_peer_file_bytes);
        let keep = Bytes(self.limits.shelf.min_file_bytes);
        let what = format!("by URL, peers are used from {peer} on; files are kept from {keep} on");
        let settings = ["min_file_size_to_peer", "min_file_size_to_cache"];
        let [peer, keep] = settings.map(|setting| self.explain(setting));
        ok("files", what).setting(format!("{peer}; {keep}"))
    }

    pub(super) fn because(&self, check: CheckLine, reason: &Reason) -> CheckLine {
        check
            .why(reason.text.as_str())
            .setting(self.explain(reason.setting))
            .remedy(self.lift(reason.setting))
    }
}
