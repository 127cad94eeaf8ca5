//! The emulated link between two network namespaces. Needs root.

use std::process::Command;
use std::time::Duration;

use derouter_testkit::link::{End, Link, Shape};

struct Namespace(String);

impl Namespace {
    fn new(part: &str) -> Self {
        let name = format!("derouter-{}-{part}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(arguments[0]).args(&arguments[1..]).output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_link_delays_packets_both_ways_and_is_gone_when_dropped() {
    if let Some(reason) = Link::unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    let shape = Shape {
        delay: Duration::from_millis(30),
        ..Shape::default()
    };
    let link = Link::start(
        &End::named(&left.0, "link0", &["10.77.0.1/24", "fd77::1/64"]),
        &End::named(&right.0, "link0", &["10.77.0.2/24", "fd77::2/64"]),
        shape,
    );
    let link = link.unwrap();
    for peer in ["10.77.0.2", "fd77::2"] {
        let pinged = connect_time(&left.0, peer);
        assert!(pinged >= Duration::from_millis(60), "{peer}: {pinged:?}");
    }
    drop(link);
    let devices = run(&["ip", "-n", &left.0, "link"]);
    assert!(!devices.contains("link0"), "{devices}");
}

/// How long a refused TCP connection takes: one round trip.
fn connect_time(namespace: &str, peer: &str) -> Duration {
    let path = std::path::Path::new("/run/netns").join(namespace);
    let address = std::net::SocketAddr::new(peer.parse().unwrap(), 9);
    let work = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let file = std::fs::File::open(path).unwrap();
        rustix::thread::move_into_link_name_space(file.as_fd(), None).unwrap();
        let start = std::time::Instant::now();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        start.elapsed()
    });
    work.join().unwrap()
}
