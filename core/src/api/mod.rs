//! Callers on this machine: requests in, JSON lines out; and the numbers and names they read and write.

mod check_line;
mod desk;
mod host_line;
mod line;
mod name;
mod setting_line;
mod request;
mod shelf_line;
mod text;

pub use check_line::{CheckLine, DoctorLine, Verdict};
pub use desk::{Asked, Desk};
pub use host_line::{BatteryLine, DiskLine, HostLine, InterfaceLine};
pub use line::{
    CoordinatorStatus, DemoDeviceLine, DemoLine, DemoProgressLine, FailedLine, GotLine, JobStatus,
    Line, LineError, LogLevel, NatKind, NatStatus, PeerStatus, PolicyStatus, PortMappingState,
    PortMappingStatus, ProgressLine, PublishedLine, SharedStatus, Status, VerifiedBy, parse_sha256,
};
pub use name::{name_from_url, safe_name};
pub use request::{
    Ask, GET_TARGET, PRIORITY_TARGET, Refusal, SHARE_TARGET, SHELF_TARGET, STATUS_TARGET,
    STOP_TARGET, check_get, check_url, get_body, parse_request, share_body, shelf_body,
};
pub use setting_line::{IgnoredLine, SettingLine, ToldLine};
pub use shelf_line::{ShelfAsk, ShelfItemLine, ShelfLine};
pub use text::summary;

pub use crate::text::{Rate, Span, TextError, parse_duration, parse_rate, parse_size};

#[cfg(test)]
mod desk_tests;
