//! The kinds of routers, as rule sets for `nft`.

use std::fmt::{self, Display};

/// What is between a host and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nat {
    /// Nothing: a host with public addresses, IPv4 and IPv6.
    Public,
    /// A router that lets everyone in on the ports of its one host (a "DMZ host").
    FullCone,
    /// The router of most homes: one mapping for each socket, and only those who were sent
    /// something get through it.
    PortRestricted,
    /// A router that takes another port for every destination.
    Symmetric,
    /// A router of most homes behind the provider's own (CGNAT).
    Double,
    /// A router of most homes that lets no UDP through.
    NoUdp,
    /// No IPv4 at all; the router filters IPv6 as a router of most homes does.
    Ipv6Only,
    /// A router of most homes on a line that loses packets.
    Lossy,
    /// A router of most homes, 80 ms away.
    Far,
    /// A router of most homes that maps ports by UPnP.
    Upnp,
    /// A router of most homes that maps ports by NAT-PMP and PCP.
    NatPmp,
}

/// Of a hundred packets, how many a lossy line loses each way.
const LOST_OF_100: u8 = 3;

/// The host that a full cone router lets everyone reach.
const HOST: &str = "192.168.1.10";

impl Nat {
    /// Every kind.
    pub const ALL: [Nat; 11] = [
        Nat::Public,
        Nat::FullCone,
        Nat::PortRestricted,
        Nat::Symmetric,
        Nat::Double,
        Nat::NoUdp,
        Nat::Ipv6Only,
        Nat::Lossy,
        Nat::Far,
        Nat::Upnp,
        Nat::NatPmp,
    ];

    /// A short name, as tables and file names want it.
    pub fn name(self) -> &'static str {
        match self {
            Nat::Public => "public",
            Nat::FullCone => "full-cone",
            Nat::PortRestricted => "port-restricted",
            Nat::Symmetric => "symmetric",
            Nat::Double => "double",
            Nat::NoUdp => "no-udp",
            Nat::Ipv6Only => "ipv6-only",
            Nat::Lossy => "lossy",
            Nat::Far => "far",
            Nat::Upnp => "upnp",
            Nat::NatPmp => "nat-pmp",
        }
    }

    /// Whether the router maps ports when it is asked.
    pub fn maps_ports(self) -> bool {
        matches!(self, Nat::Upnp | Nat::NatPmp)
    }

    /// What the router of this kind lets through, and how it translates.
    pub(super) fn rules(self) -> String {
        let translate = match self {
            Nat::Ipv6Only => "",
            Nat::Symmetric => "oifname \"wan\" masquerade fully-random",
            _ => "oifname \"wan\" masquerade",
        };
        let let_in = match self {
            Nat::FullCone => format!(
                "iifname \"wan\" meta nfproto ipv4 meta l4proto {{ tcp, udp }} dnat ip to {HOST}"
            ),
            _ => String::new(),
        };
        let lose = match self {
            Nat::NoUdp => "meta l4proto udp drop".to_owned(),
            Nat::Lossy => format!("numgen random mod 100 < {LOST_OF_100} drop"),
            _ => String::new(),
        };
        // What comes in unasked is dropped, not refused: an answer would end the other side's try,
        // and a tracked one would take the port that the host is about to use.
        format!(
            r#"
table inet lab {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        {let_in}
        jump prerouting_mapped
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        jump postrouting_mapped
        {translate}
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {lose}
        ct state established,related accept
        ct status dnat accept
        iifname "lan" accept
        meta l4proto ipv6-icmp accept
        jump forward_mapped
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname {{ "lo", "lan" }} accept
        ct state established,related accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
    }}
    chain prerouting_mapped {{ }}
    chain postrouting_mapped {{ }}
    chain forward_mapped {{ }}
}}
"#
        )
    }
}

impl Display for Nat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
