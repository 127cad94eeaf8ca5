//! A host with what is between it and the internet.

use std::net::Ipv4Addr;

use super::port_mapping::{self, PortMapper};
use super::system::ip;
use super::{Lab, Namespace, Nat, Uplink};
use crate::link::Link;

/// A host, and its routers if it has any.
#[derive(Debug)]
pub struct Site {
    /// The first to go: it holds a device of the router.
    _far: Option<Link>,
    /// Where programs run.
    pub host: Namespace,
    nat: Nat,
    link: Uplink,
    name: String,
    /// The last byte of the public IPv4 address.
    public: u8,
    /// The last byte of the host's own address.
    private: u8,
    _port_mapper: Option<PortMapper>,
    /// The one at the internet first.
    routers: Vec<Namespace>,
}

impl Site {
    pub(super) fn new(lab: &Lab, name: &str, nat: Nat, link: Uplink) -> Self {
        let host = lab.namespace(name);
        let mut routers = Vec::new();
        let (mut port_mapper, mut far) = (None, None);
        match nat {
            Nat::Public => lab.attach(&host, link, true, true),
            Nat::Ipv6Only => routers.push(ipv6_home(lab, name, &host, link)),
            Nat::Double => {
                let outer = router(lab, &format!("{name}-outer"), nat);
                lab.attach(&outer, link, true, false);
                let inner = router(lab, &format!("{name}-router"), nat);
                cable(&outer, &inner, "wan");
                outer.ip(&["addr add 100.64.1.1/24 dev lan".to_owned()]);
                inner.ip(&[
                    "addr add 100.64.1.2/24 dev wan".to_owned(),
                    "link set wan up".to_owned(),
                    "route add default via 100.64.1.1".to_owned(),
                ]);
                home(&inner, &host);
                routers = vec![outer, inner];
            }
            Nat::Far => {
                let router = router(lab, &format!("{name}-router"), nat);
                far = Some(lab.attach_far(&router, link));
                home(&router, &host);
                routers.push(router);
            }
            _ => {
                let router = router(lab, &format!("{name}-router"), nat);
                lab.attach(&router, link, true, false);
                home(&router, &host);
                port_mapper = nat.maps_ports().then(|| PortMapper::start(&router, nat));
                routers.push(router);
            }
        }
        Self {
            _far: far,
            host,
            nat,
            link,
            name: name.to_owned(),
            public: 2,
            private: 10,
            _port_mapper: port_mapper,
            routers,
        }
    }

    /// Whether the programs that this kind of router needs are there.
    pub fn available(nat: Nat) -> bool {
        !nat.maps_ports() || port_mapping::available()
    }

    /// What is between the host and the internet.
    pub fn nat(&self) -> Nat {
        self.nat
    }

    /// What the site was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address that others on the internet see it under.
    pub fn public_address(&self) -> Ipv4Addr {
        self.link.address(self.public)
    }

    /// A public host's IPv6 address.
    pub fn public_address6(&self) -> String {
        self.link.address6()
    }

    /// Another host in the same home. Its router stays this site's.
    pub fn neighbour(&self, lab: &Lab, name: &str) -> Site {
        let router = self.routers.last().expect("only homes have neighbours");
        let host = lab.namespace(name);
        join(router, "port-neighbour", &host, "eth0");
        let private = 20;
        host.ip(&host_steps(private));
        Self {
            _far: None,
            host,
            nat: self.nat,
            link: self.link,
            name: name.to_owned(),
            public: self.public,
            private,
            _port_mapper: None,
            routers: Vec::new(),
        }
    }

    /// The internet provider gives the home another address; what was translated to the old one
    /// is lost.
    pub fn change_public_address(&mut self) {
        let (old, new) = (self.public, self.public.wrapping_add(1));
        let outside = self.routers.first().unwrap_or(&self.host);
        outside.ip(&[
            format!("addr del {}/24 dev wan", self.link.address(old)),
            format!("addr add {}/24 dev wan", self.link.address(new)),
            format!("route replace default via {}", self.link.gateway()),
        ]);
        self.public = new;
    }

    /// The host gets another address in its home.
    pub fn change_private_address(&mut self) {
        let (old, new) = (self.private, self.private.wrapping_add(1));
        assert!(!self.routers.is_empty(), "a public host has none");
        self.host.ip(&[
            format!("addr del 192.168.1.{old}/24 dev eth0"),
            format!("addr add 192.168.1.{new}/24 dev eth0"),
            "route replace default via 192.168.1.1".to_owned(),
        ]);
        self.private = new;
    }

    /// Pulls the cable to the internet, or puts it back.
    pub fn set_connected(&self, connected: bool) {
        let outside = self.routers.first().unwrap_or(&self.host);
        let state = if connected { "up" } else { "down" };
        outside.ip(&[format!("link set wan {state}")]);
        if connected && self.nat != Nat::Ipv6Only {
            outside.ip(&[format!("route replace default via {}", self.link.gateway())]);
        }
    }
}

/// A router with its rules, and a switch (`lan`) for its home.
fn router(lab: &Lab, name: &str, nat: Nat) -> Namespace {
    let router = lab.namespace(name);
    router.forward();
    router.nft(&nat.rules());
    router.ip(&[
        "link add lan type bridge forward_delay 0 stp_state 0".to_owned(),
        "link set lan up".to_owned(),
    ]);
    router
}

/// Lays a cable from a router's switch to a namespace's new interface.
fn cable(router: &Namespace, to: &Namespace, interface: &str) {
    let port = format!("port-{interface}");
    join(router, &port, to, interface);
}

fn join(router: &Namespace, port: &str, to: &Namespace, interface: &str) {
    ip(&[format!(
        "link add {port} netns {} type veth peer name {interface} netns {}",
        router.name(),
        to.name()
    )]);
    router.ip(&[
        format!("link set {port} master lan"),
        format!("link set {port} up"),
    ]);
    to.ip(&[format!("link set {interface} up")]);
}

/// An IPv4 home: the router is 192.168.1.1 and the host 192.168.1.10, as everywhere.
fn home(router: &Namespace, host: &Namespace) {
    router.ip(&["addr add 192.168.1.1/24 dev lan".to_owned()]);
    cable(router, host, "eth0");
    host.ip(&host_steps(10));
}

fn host_steps(last: u8) -> Vec<String> {
    vec![
        format!("addr add 192.168.1.{last}/24 dev eth0"),
        "route add default via 192.168.1.1".to_owned(),
    ]
}

/// A home with IPv6 alone; returns its router.
fn ipv6_home(lab: &Lab, name: &str, host: &Namespace, link: Uplink) -> Namespace {
    let router = router(lab, &format!("{name}-router"), Nat::Ipv6Only);
    lab.attach(&router, link, false, true);
    let network = link.home6();
    router.ip(&[format!("addr add {network}1/64 dev lan nodad")]);
    cable(&router, host, "eth0");
    host.ip(&[
        format!("addr add {network}10/64 dev eth0 nodad"),
        format!("route add ::/0 via {network}1"),
    ]);
    router
}
