//! What the cache tells about itself: `/.dovetail/health` and `/.dovetail/metrics`.

use super::store::Store;
use alloc::format;
use alloc::string::String;
use serde::Serialize;

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub hits: u64,
    pub misses: u64,
    pub stale: u64,
    pub refused: u64,
    pub bytes_served: u64,
    pub bytes_from_origin: u64,
    pub slices_damaged: u64,
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    hits: u64,
    misses: u64,
    stale: u64,
    /// Of what was asked, in thousandths.
    hit_permille: u64,
    refused: u64,
    bytes_served: u64,
    bytes_from_origin: u64,
    bytes_saved: u64,
    slices_damaged: u64,
    objects: usize,
    bytes: u64,
    quota_bytes: u64,
}

fn health(counters: &Counters, store: &Store) -> Health {
    let hits = counters.hits + counters.stale;
    let asked = hits + counters.misses;
    Health {
        status: if store.is_ready { "ok" } else { "starting" },
        hits: counters.hits,
        misses: counters.misses,
        stale: counters.stale,
        hit_permille: (hits * 1000).checked_div(asked).unwrap_or(0),
        refused: counters.refused,
        bytes_served: counters.bytes_served,
        bytes_from_origin: counters.bytes_from_origin,
        bytes_saved: counters
            .bytes_served
            .saturating_sub(counters.bytes_from_origin),
        slices_damaged: counters.slices_damaged,
        objects: store.objects.len(),
        bytes: store.bytes(),
        quota_bytes: store.quota_bytes,
    }
}

pub(super) fn health_json(counters: &Counters, store: &Store) -> String {
    serde_json::to_string(&health(counters, store)).unwrap_or_default()
}

/// OpenMetrics 1.0 text.
pub(super) fn metrics_text(counters: &Counters, store: &Store) -> String {
    let health = health(counters, store);
    let mut text = String::new();
    for (name, help, value) in [
        ("hits", "Requests answered from what is stored", health.hits),
        (
            "misses",
            "Requests for which the origin was asked for bytes",
            health.misses,
        ),
        (
            "stale",
            "Requests answered although the origin could not be asked",
            health.stale,
        ),
        (
            "refused",
            "Requests for origins that are not allowed",
            health.refused,
        ),
        (
            "served_bytes",
            "Bytes given to clients",
            health.bytes_served,
        ),
        (
            "origin_bytes",
            "Bytes received from origins",
            health.bytes_from_origin,
        ),
        (
            "slices_damaged",
            "Stored slices that were not what was stored",
            health.slices_damaged,
        ),
    ] {
        text.push_str(&format!(
            "# TYPE dovetail_cache_{name} counter\n# HELP dovetail_cache_{name} {help}.\ndovetail_cache_{name}_total {value}\n"
        ));
    }
    let objects = u64::try_from(health.objects).unwrap_or(u64::MAX);
    for (name, help, value) in [
        (
            "saved_bytes",
            "Bytes clients did not need from origins",
            health.bytes_saved,
        ),
        ("objects", "Files of which something is stored", objects),
        ("stored_bytes", "Bytes stored", health.bytes),
        (
            "quota_bytes",
            "Bytes that may be stored",
            health.quota_bytes,
        ),
    ] {
        text.push_str(&format!(
            "# TYPE dovetail_cache_{name} gauge\n# HELP dovetail_cache_{name} {help}.\ndovetail_cache_{name} {value}\n"
        ));
    }
    text.push_str("# EOF\n");
    text
}
