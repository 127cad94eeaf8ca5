//! Networks with routers, made of network namespaces: an internet with public addresses and no way
//! out, and homes behind every kind of NAT.
//!
//! ```text
//!            internet: 45.N.0.1, 2600:N::1 on link N
//!      link 1 |         | link 2             | link 3
//!        public host    home router          outer router (double NAT: 100.64.1.0/24 inside)
//!      45.1.0.2         wan 45.2.0.2           |
//!                       lan 192.168.1.1      inner router
//!                         |                    |
//!                       host 192.168.1.10    host 192.168.1.10
//! ```
//!
//! Every home has the same private addresses, as in life. All of it needs root: a test asks
//! [`Lab::skip`] first. What an earlier run left behind when it was killed is removed by the
//! next one.

mod namespace;
mod nat;
mod port_mapping;
mod site;
mod sweep;
mod system;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use namespace::Namespace;
pub use nat::Nat;
pub use site::Site;

use crate::link::{End, Link, Shape};
use system::{ip, ip_works};

/// How long a packet travels to or from a far site, one way: a round trip of 160 ms, as across an
/// ocean.
const FAR: Duration = Duration::from_millis(80);

/// How many labs this process made: each has names of its own.
static LABS: AtomicU32 = AtomicU32::new(0);

/// An internet, to which sites are attached. Removed when dropped; the sites are removed with
/// themselves.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    internet: Namespace,
    links: u8,
}

/// A site's link to the internet: who is at its other end has these addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uplink {
    number: u8,
}

impl Uplink {
    /// The internet's own end of it.
    fn device(self) -> String {
        format!("link{}", self.number)
    }

    /// The internet's own IPv4 address on the link.
    fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(45, self.number, 0, 1)
    }

    /// An IPv4 address at the other end; the first is 2.
    fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(45, self.number, 0, last)
    }

    /// The internet's own IPv6 address on the link.
    fn gateway6(self) -> String {
        format!("2600:{}::1", self.number)
    }

    /// The IPv6 address at the other end.
    fn address6(self) -> String {
        format!("2600:{}::2", self.number)
    }

    /// The network that a router at the other end has for its home, without its length (64).
    fn home6(self) -> String {
        format!("2600:{}:0:1::", self.number)
    }
}

impl Lab {
    /// Whether a test must do without a lab, which it then says. Where everything is checked as
    /// root (`CI` is set), a lab that can't be made fails the test.
    pub fn skip() -> bool {
        let Some(reason) = Self::unavailable() else {
            return false;
        };
        let must_work = std::env::var_os("CI").is_some() && is_root();
        assert!(!must_work, "no network lab: {reason}");
        eprintln!("skipped: {reason}");
        true
    }

    /// Why there can be no lab here, if there can't.
    pub fn unavailable() -> Option<String> {
        if !is_root() {
            return Some("network namespaces need root".to_owned());
        }
        for (program, argument) in [("ip", "-V"), ("nft", "-v")] {
            if Command::new(program).arg(argument).output().is_err() {
                return Some(format!("there is no program `{program}`"));
            }
        }
        let probe = format!("{}probe", next_prefix());
        let works = ip_works(&format!("netns add {probe}"));
        ip_works(&format!("netns del {probe}"));
        (!works).then(|| "network namespaces can't be made here".to_owned())
    }

    /// Makes an internet that nothing is attached to.
    pub fn new() -> Self {
        sweep::sweep();
        let prefix = next_prefix();
        let internet = Namespace::new(&format!("{prefix}internet"));
        internet.forward();
        Self {
            prefix,
            internet,
            links: 0,
        }
    }

    /// Attaches a home, or a host without a router.
    pub fn site(&mut self, name: &str, nat: Nat) -> Site {
        self.links = self.links.checked_add(1).expect("few sites are attached");
        let link = Uplink { number: self.links };
        Site::new(self, name, nat, link)
    }

    fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(&format!("{}{name}", self.prefix))
    }

    /// Lays a cable between the internet and `wan` of a namespace, with addresses at both ends.
    fn attach(&self, to: &Namespace, link: Uplink, ipv4: bool, ipv6: bool) {
        let name = link.device();
        ip(&[format!(
            "link add {name} netns {} type veth peer name wan netns {}",
            self.internet.name(),
            to.name()
        )]);
        let mut inside = vec![format!("link set {name} up")];
        let mut outside = vec!["link set wan up".to_owned()];
        if ipv4 {
            inside.push(format!("addr add {}/24 dev {name}", link.gateway()));
            outside.push(format!("addr add {}/24 dev wan", link.address(2)));
            outside.push(format!("route add default via {}", link.gateway()));
        }
        if ipv6 {
            let (gateway, address) = (link.gateway6(), link.address6());
            inside.push(format!("addr add {gateway}/64 dev {name} nodad"));
            inside.push(format!("route add {}/64 via {address}", link.home6()));
            outside.push(format!("addr add {address}/64 dev wan nodad"));
            outside.push(format!("route add ::/0 via {gateway}"));
        }
        self.internet.ip(&inside);
        to.ip(&outside);
    }

    /// The same with IPv4 alone and a long way in between.
    fn attach_far(&self, to: &Namespace, link: Uplink) -> Link {
        let (inside, outside) = (
            format!("{}/24", link.gateway()),
            link.address(2).to_string(),
        );
        let left = End::named(self.internet.name(), &link.device(), &[&inside]);
        let right = End::named(to.name(), "wan", &[&format!("{outside}/24")]);
        let shape = Shape {
            delay: FAR,
            ..Shape::default()
        };
        let far = Link::start(&left, &right, shape).expect("root can make a link");
        to.ip(&["route add default dev wan".to_owned()]);
        far
    }
}

/// A network namespace with nothing in it, whose name ends so.
pub fn alone(name: &str) -> Namespace {
    Namespace::new(&format!("{}{name}", next_prefix()))
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// What the names of one lab's namespaces begin with: they tell whose they are.
fn next_prefix() -> String {
    let number = LABS.fetch_add(1, Ordering::Relaxed);
    format!("{}{}-{number}-", sweep::PREFIX, std::process::id())
}
