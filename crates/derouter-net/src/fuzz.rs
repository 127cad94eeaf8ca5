//! What a fuzzer and the corpus test run on each decoder: see `fuzz/` at the top of the repository.

use derouter_wire::fuzz::Target;

/// By the name of their folder in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[
    ("net_autonat", autonat),
    ("net_reconcile", reconcile),
    ("net_frames", frames),
    ("net_addresses", addresses),
];

/// The messages of an AutoNAT server.
pub fn autonat(data: &[u8]) {
    crate::autonat::fuzz(data);
}

/// The messages of a set reconciliation.
pub fn reconcile(data: &[u8]) {
    crate::discovery::fuzz_reconcile(data);
}

/// The frames of the discovery protocol.
pub fn frames(data: &[u8]) {
    crate::discovery::fuzz_frames(data);
}

/// Addresses that peers tell: bytes, as announcements have them, or text.
pub fn addresses(data: &[u8]) {
    let from_bytes = libp2p::Multiaddr::try_from(data.to_vec()).ok();
    let text = std::str::from_utf8(data).ok();
    let from_text = text.and_then(|text| text.parse().ok());
    for address in from_bytes.into_iter().chain(from_text) {
        let _ = crate::is_global(&address);
        let _ = crate::address::scope(&address);
        let _ = crate::address::subnet(&address);
        let again = libp2p::Multiaddr::try_from(address.to_vec());
        assert_eq!(again.as_ref().ok(), Some(&address));
    }
}
