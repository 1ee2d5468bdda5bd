//! The command line as typed: options, their texts and defaults.
//!
//! Decides: names, help, which options exclude each other. Never does: anything. Tests: `shell-smol/tests/cli.rs`.

use clap::{ArgAction, Args, Parser, Subcommand};
use dovetail_core::api;
use dovetail_core::http::HostPattern;
use dovetail_core::settings::{self, Mode};
use dovetail_core::text;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Downloads over HTTP and from the machines nearby that already have the file, every piece checked.
#[derive(Debug, Parser)]
#[command(
    name = "dovetail",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Try it: `dovetail demo` runs the whole system on this machine.\n\
                  Exit codes are listed in docs/exit-codes.md, the lines of --json in docs/json.md."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Folder of this agent's state; several agents can share a machine
    ///
    /// Without it: $DOVETAIL_HOME, else $XDG_STATE_HOME/dovetail, else ~/.local/state/dovetail.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON object per line instead of words and bars
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// End with the process of this id, which started us
    #[arg(long, global = true, hide = true, value_name = "PID")]
    pub(crate) die_with: Option<i32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Get(GetArgs),
    Publish(PublishArgs),
    Status(StatusArgs),
    Doctor(DoctorArgs),
    Shelf(ShelfArgs),
    Config(ConfigArgs),
    Agent(AgentArgs),
    Coordinator(CoordinatorArgs),
    Origin(OriginArgs),
    Cache(CacheArgs),
    Demo(DemoArgs),
}

/// Download one file
///
/// Takes it from its URL, and at the same time from peers if a metainfo file, a coordinator or a hash makes it
/// possible to check what they send. A download that was stopped goes on where it was. If this home's agent is
/// running, it does the work; else this command does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail get https://example.org/image.iso
  dovetail get https://example.org/image.iso --sha256 9f86d08… -o /srv/image.iso
  dovetail get --metainfo image.iso.torrent --peer 10.0.0.7
  dovetail get https://example.org/image.iso --coordinator http://10.0.0.1:7681 --share")]
pub(crate) struct GetArgs {
    /// Where the file lives; several URLs are alternatives for the same file
    #[arg(value_name = "URL", required_unless_present = "metainfo")]
    pub(crate) urls: Vec<String>,
    /// What the file is: a BitTorrent v2 metainfo file, or the URL of one
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) metainfo: Option<String>,
    /// Where to put it: a file, or an existing folder [default: the URL's last part, here]
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// SHA-256 the whole file must have
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// Replace the output if it exists
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Somebody waits for it [default]: it goes before what runs in the background
    #[arg(long, help_heading = "How", conflicts_with = "background")]
    pub(crate) foreground: bool,
    /// Nobody waits for it: it yields to downloads in the foreground, and waits while the network is metered
    #[arg(long, help_heading = "How")]
    pub(crate) background: bool,
    /// Fetch the pieces in order, for a program that reads along
    #[arg(long, help_heading = "How")]
    pub(crate) sequential: bool,
    /// Receive at most this much, as in 20MB/s
    #[arg(long, help_heading = "How", value_name = "RATE", value_parser = rate)]
    pub(crate) limit: Option<u64>,
    /// Set a setting for this run, as in max_cache_age=7d; may be repeated. `dovetail config --help` lists them
    #[arg(long, help_heading = "How", value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
    /// Do not hand the download to this home's running agent
    #[arg(long, help_heading = "How")]
    pub(crate) standalone: bool,

    /// URL of the coordinator that knows who else has the file
    #[arg(long, help_heading = "Peers", value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// A peer to ask, as in 10.0.0.7 or 10.0.0.7:7680; may be repeated
    #[arg(long = "peer", help_heading = "Peers", value_name = "ADDR", action = ArgAction::Append)]
    pub(crate) peers: Vec<String>,
    /// Where bytes may come from: http-only, lan, group, internet, simple or bypass. Never wider than the setting
    /// download_mode
    #[arg(long, help_heading = "How", value_name = "MODE", value_parser = mode)]
    pub(crate) mode: Option<Mode>,
    /// Offer what is already verified to peers while downloading
    #[arg(long, help_heading = "Peers")]
    pub(crate) share: bool,
    /// Where peers reach this command
    #[arg(long, help_heading = "Peers", value_name = "ADDR", requires = "share", default_value = PEERS_DEFAULT)]
    pub(crate) listen: SocketAddr,
    /// Take nothing from the URLs: fail rather than load the origin
    #[arg(long, help_heading = "Peers")]
    pub(crate) require_peers: bool,
}

/// Describe a file so that others can check it, and offer it
///
/// Hashes FILE and writes FILE.torrent, a BitTorrent v2 metainfo file. Tells the coordinator, if one is given, what
/// the file is, so that `get URL` can use peers. Hands the file to this home's agent, if it is running, which then
/// serves it to peers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail publish image.iso --url https://example.org/image.iso
  dovetail publish image.iso --url https://example.org/image.iso --coordinator http://10.0.0.1:7681")]
pub(crate) struct PublishArgs {
    /// The complete file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where FILE can be downloaded; may be repeated
    #[arg(long = "url", value_name = "URL", action = ArgAction::Append)]
    pub(crate) urls: Vec<String>,
    /// Where to write the metainfo file [default: FILE.torrent]
    #[arg(long, short, value_name = "FILE.torrent")]
    pub(crate) output: Option<PathBuf>,
    /// Replace another metainfo file of that name
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What downloaders call the file [default: FILE's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// URL of the coordinator to tell
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
}

/// Show the settings, who set them, and what does not count; or change this home's
///
/// They come from files, the environment and the command line; docs/settings.md says from which, and what each is for.
/// A running agent takes up what is set here within seconds.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = format!("{CONFIG_EXAMPLES}\n\n{}", settings::help())
)]
pub(crate) struct ConfigArgs {
    /// Print the page that describes all settings
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Set a setting for this run, to see what would count
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
    #[command(subcommand)]
    pub(crate) act: Option<ConfigAct>,
}

const CONFIG_EXAMPLES: &str = "\
Examples:
  dovetail config
  dovetail config get max_cache_age
  dovetail config set max_cache_age 7d
  dovetail config unset max_cache_age";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAct {
    /// Print the value in force
    Get {
        /// The setting, by our name or Delivery Optimization's
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Write a value into this home's dovetail.toml
    Set {
        /// The setting, by our name or Delivery Optimization's; under the latter, in its unit
        #[arg(value_name = "NAME")]
        name: String,
        /// The value, as in 7d, 20MB/s, true or "cache1, cache2"
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
    },
    /// Take a value out of this home's dovetail.toml
    Unset {
        /// The setting, by our name or Delivery Optimization's
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Show what this home's agent is doing
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show instead what an agent sees of this host: networks, power, memory, disk
    #[arg(long)]
    pub(crate) host: bool,
}

/// Say why peers do not come: look at everything that could be the reason
///
/// Looks at this home's agent and its settings, its port, the coordinator, the router and this host; says of each what
/// is well, what restricts and what is a problem, which setting decided, and what to do. No agent need run. Ends with
/// code 9 if there is a problem.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail doctor
  dovetail doctor --coordinator http://10.0.0.1:7681")]
pub(crate) struct DoctorArgs {
    /// URL of a coordinator to try [default: the running agent's]
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
}

/// Show what this home's agent keeps for peers, or say what is to stay or go
///
/// An agent that shares keeps what it has downloaded, within the settings of max_cache_age and max_cache_size, and
/// offers a few of these contents at a time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail shelf ls
  dovetail shelf pin image.iso
  dovetail shelf rm 0f3a9c")]
pub(crate) struct ShelfArgs {
    #[command(subcommand)]
    pub(crate) command: ShelfCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShelfCommand {
    /// List what is kept: its root, length, place among the offered, expiry, what peers got of it
    Ls,
    /// Keep a content whatever its age, outside the quota
    Pin {
        /// Its name, or the beginning of its root
        content: String,
    },
    /// Let it go in its turn
    Unpin {
        /// Its name, or the beginning of its root
        content: String,
    },
    /// Remove a content now; files it was downloaded to stay
    Rm {
        /// Its name, or the beginning of its root
        content: String,
    },
}

/// Run this home's agent: downloads for local callers, and serves peers if told to share
///
/// `get`, `publish` and `status` with the same --home talk to it. It runs until it is stopped (Ctrl-C or SIGTERM).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail agent --share --coordinator http://10.0.0.1:7681
  dovetail --home /srv/dovetail agent --share --listen 10.0.0.7:7680 --upload-limit 20MB/s")]
pub(crate) struct AgentArgs {
    /// Offer to peers what was downloaded and published; opens the port of --listen
    #[arg(long)]
    pub(crate) share: bool,
    /// Where peers reach this agent
    #[arg(long, value_name = "ADDR", requires = "share", default_value = PEERS_DEFAULT)]
    pub(crate) listen: SocketAddr,
    /// URL of the coordinator that knows who else has a file
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// A peer to ask for every download, as in 10.0.0.7 or 10.0.0.7:7680; may be repeated
    #[arg(long = "peer", value_name = "ADDR", action = ArgAction::Append)]
    pub(crate) peers: Vec<String>,
    /// Send at most this much to all peers together, as in 20MB/s
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "share")]
    pub(crate) upload_limit: Option<u64>,
    /// Set a setting for this run, as in max_cache_age=7d; may be repeated. `dovetail config --help` lists them
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
}

/// Run a coordinator: it knows what a file is and who has it
///
/// It learns about files from `publish`; of the hosts named by --allow it fetches and hashes files itself when an
/// agent asks about one. It keeps what it knows in memory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail coordinator
  dovetail coordinator --listen 10.0.0.1:7681 --allow downloads.example.org
  dovetail coordinator --policy /etc/dovetail/policy.toml")]
pub(crate) struct CoordinatorArgs {
    /// Where agents reach it
    #[arg(long, value_name = "ADDR", default_value = COORDINATOR_DEFAULT)]
    pub(crate) listen: SocketAddr,
    /// Where it introduces agents behind NATs to each other, over UDP; the next port is used, too. "off": nowhere
    /// [default: port 3544 beside --listen; off if that is this machine alone]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) rendezvous: Option<String>,
    /// Hand on data between agents whose NATs leave them no other way, at this much in all, as in 5MB/s [default: none]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) relay: Option<u64>,
    /// A host whose files it may fetch and hash itself, as in files.example.org, *.example.org or
    /// 10.0.0.5:8080; may be repeated
    #[arg(long = "allow", value_name = "HOST", action = ArgAction::Append)]
    pub(crate) allow: Vec<HostPattern>,
    /// A file of settings for the agents that use it, and in [group.NAME] tables for those of a group
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

/// Serve a folder over HTTP, for trying things
///
/// Answers ranges, and limits its rate if asked to, to play a slow line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail origin /srv/files
  dovetail origin /srv/files --listen 127.0.0.1:0 --limit 20MB/s")]
pub(crate) struct OriginArgs {
    /// The folder; its subfolders are served, too
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where to serve
    #[arg(long, value_name = "ADDR", default_value = ORIGIN_DEFAULT)]
    pub(crate) listen: SocketAddr,
    /// Send at most this much to everybody together, as in 20MB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit: Option<u64>,
}

/// Run a cache: it fetches files of the hosts named by --allow once for everybody
///
/// Agents find it by their setting cache_host, or by DNS-SD if it announces itself. Any HTTP client can use it: it asks
/// for http://CACHE/path?cacheHostOrigin=HOST. Other hosts are refused. What is fetched is kept in --folder, checked
/// before it is served again, and served on while its origin is down.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail cache --allow downloads.example.org
  dovetail cache --allow '*.delivery.mp.microsoft.com' --folder /srv/cache --quota 500GiB --announce
  curl 'http://127.0.0.1:7682/image.iso?cacheHostOrigin=downloads.example.org'")]
pub(crate) struct CacheArgs {
    /// A host whose files may be asked for, as in files.example.org, *.example.org or 10.0.0.5:8080; may be repeated.
    /// A wildcard does not reach addresses of private networks
    #[arg(long = "allow", value_name = "HOST", required = true, action = ArgAction::Append)]
    pub(crate) allow: Vec<HostPattern>,
    /// Where files are kept [default: the folder cache-server in --home]
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Where clients reach it
    #[arg(long, value_name = "ADDR", default_value = CACHE_DEFAULT)]
    pub(crate) listen: SocketAddr,
    /// Keep at most this much, as in 500GiB
    #[arg(long, value_name = "SIZE", default_value = "50GiB", value_parser = size)]
    pub(crate) quota: u64,
    /// A host of --allow that is asked over https if the client does not say how; may be repeated
    #[arg(long = "https-origin", value_name = "HOST", action = ArgAction::Append)]
    pub(crate) https_origins: Vec<HostPattern>,
    /// How long a file counts as the same where its origin does not say, as in 10min
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = time)]
    pub(crate) revalidate: Duration,
    /// Let agents of the local network find it by DNS-SD
    #[arg(long)]
    pub(crate) announce: bool,
    /// URL of a coordinator: what is here whole, and known there, is offered to peers, too
    #[arg(long, value_name = "URL")]
    pub(crate) coordinator: Option<String>,
    /// Where peers reach it
    #[arg(long, value_name = "ADDR", requires = "coordinator", default_value = PEERS_DEFAULT)]
    pub(crate) listen_peers: SocketAddr,
    /// A setting for what is offered to peers, as in slots=16; may be repeated. `dovetail config --help` lists them
    #[arg(long, value_name = "NAME=VALUE", requires = "coordinator", action = ArgAction::Append)]
    pub(crate) set: Vec<String>,
}

/// Run the whole system on this machine: an origin, a coordinator and several devices
///
/// Every part is a process of its own. The devices download the same file at the same time, from an origin too
/// slow for all of them and from each other; then a table says how long each took and from where its bytes came.
/// Everything is removed at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dovetail demo
  dovetail demo --devices 8 --size 256MiB
  dovetail demo image.iso --origin-limit 5MB/s --keep")]
pub(crate) struct DemoArgs {
    /// The file to spread [default: this program if it has 64 MiB, else a generated file of 64 MiB]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How many devices download it
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) devices: u32,
    /// What the origin sends to all of them together
    #[arg(long, value_name = "RATE", default_value = "20MB/s", value_parser = rate)]
    pub(crate) origin_limit: u64,
    /// Generate a file of this size instead
    #[arg(long, value_name = "SIZE", value_parser = size, conflicts_with = "file")]
    pub(crate) size: Option<u64>,
    /// Keep the folder with everything that was downloaded and logged
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Peers reach an agent here (Windows' Delivery Optimization uses the same port).
const PEERS_DEFAULT: &str = "0.0.0.0:7680";
const COORDINATOR_DEFAULT: &str = "0.0.0.0:7681";
const ORIGIN_DEFAULT: &str = "127.0.0.1:8080";
const CACHE_DEFAULT: &str = "0.0.0.0:7682";

fn rate(text: &str) -> Result<u64, String> {
    match api::parse_rate(text) {
        Ok(0) => Err("a limit of 0 would never end; leave the option out for no limit".into()),
        Ok(rate) => Ok(rate),
        Err(e) => Err(format!("{e} (write it as in 20MB/s or 350KiB/s)")),
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let names = Mode::ALL.map(Mode::name).join(", ");
    Mode::from_text(text).ok_or_else(|| format!("it is none of {names}"))
}

fn time(text: &str) -> Result<Duration, String> {
    text::parse_duration(text).map_err(|e| format!("{e} (write it as in 10min or 1h)"))
}

fn size(text: &str) -> Result<u64, String> {
    api::parse_size(text).map_err(|e| format!("{e} (write it as in 350MiB or 1.5GB)"))
}
