//! Why something is restricted: in words, with the setting that decided and Delivery Optimization's code.

use alloc::string::String;
use core::fmt;

/// Delivery Optimization's result codes for restrictions (facility 0xD0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `DO_E_DOWNLOAD_NO_EXTSETTINGS`: refused by settings.
    Refused,
    /// `DO_E_BLOCKED_BY_COST_TRANSFER_POLICY`
    Cost,
    /// `DO_E_DOWNLOADMODE_SET_BY_CP`: restricted for this content.
    Content,
    /// `DO_E_BLOCKED_BY_POWER_STATE`
    Power,
    /// `DO_E_DOWNLOADMODE_SET_BY_POLICY`
    Policy,
    /// `DO_E_BLOCKED_BY_VPN_POLICY`
    Vpn,
    /// `DO_E_CLOUD_SERVICES_UNREACHABLE`: here the coordinator.
    Coordinator,
}

impl Code {
    pub const fn number(self) -> u32 {
        match self {
            Self::Refused => 0x80D0_3002,
            Self::Cost => 0x80D0_3801,
            Self::Content => 0x80D0_3802,
            Self::Power => 0x80D0_3804,
            Self::Policy => 0x80D0_3806,
            Self::Vpn => 0x80D0_3807,
            Self::Coordinator => 0x80D0_380A,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.number())
    }
}

/// Why something is not allowed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: Code,
    /// The setting that decided.
    pub setting: &'static str,
    /// `the VPN wg0 is up`
    pub text: String,
}

impl Reason {
    pub(super) fn new(code: Code, setting: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            setting,
            text: text.into(),
        }
    }
}

/// `the VPN wg0 is up (allow_vpn_peer_caching; 0x80D03807)`
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; {})", self.text, self.setting, self.code)
    }
}
