use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use derouter_testkit::eventually;
use derouter_testkit::lab::{Lab, Nat, Site};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const PORT: u16 = 4000;

/// No lab is slower than this, and what is dropped never comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers every datagram with the address that it came from.
async fn start_mirror(site: &Site) {
    let (ready, listening) = oneshot::channel();
    site.host.handle().spawn(async move {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))
            .await
            .unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            socket
                .send_to(from.to_string().as_bytes(), from)
                .await
                .unwrap();
        }
    });
    listening.await.unwrap();
}

/// What a mirror sees; asked again when a lossy line swallows the question.
async fn seen_by(socket: &UdpSocket, mirror: Ipv4Addr) -> SocketAddr {
    let mut buffer = [0; 64];
    for _ in 0..10 {
        socket.send_to(b"?", (mirror, PORT)).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        if let Ok(Ok(length)) = answer {
            return std::str::from_utf8(&buffer[..length])
                .unwrap()
                .parse()
                .unwrap();
        }
    }
    panic!("{mirror} never answered");
}

/// How a NAT treats UDP.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Both mirrors see the same address and port.
    same_mapping: bool,
    /// One who was never sent anything gets through.
    open_to_all: bool,
}

async fn look(nat: Nat) -> Seen {
    let mut lab = Lab::new();
    let (one, two) = (lab.site("one", Nat::Public), lab.site("two", Nat::Public));
    let site = lab.site("home", nat);
    start_mirror(&one).await;
    start_mirror(&two).await;
    let (first, second) = (one.public_address(), two.public_address());
    let (said, heard) = oneshot::channel();
    let inside = site.host.handle().spawn(async move {
        let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
        let seen = [
            seen_by(&socket, first).await,
            seen_by(&socket, second).await,
        ];
        said.send(seen).unwrap();
        let mut buffer = [0; 64];
        let stranger = async {
            while let Ok(length) = socket.recv(&mut buffer).await {
                if buffer[..length].starts_with(b"stranger") {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, stranger).await.is_ok()
    });
    let seen = heard.await.unwrap();
    let (own, expected) = (
        IpAddr::V4(site.public_address()),
        [seen[0].ip(), seen[1].ip()],
    );
    assert_eq!(
        expected,
        [own, own],
        "mirrors see the router's public address"
    );
    let target = seen[0];
    one.host
        .run(async move {
            let other = UdpSocket::bind(ANYWHERE).await.unwrap();
            for _ in 0..10 {
                other.send_to(b"stranger", target).await.unwrap();
            }
        })
        .await;
    Seen {
        same_mapping: seen[0] == seen[1],
        open_to_all: inside.await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_translate_as_their_kind_says() {
    if Lab::skip() {
        return;
    }
    let cases = [
        (Nat::Public, true, true),
        (Nat::FullCone, true, true),
        (Nat::PortRestricted, true, false),
        (Nat::Lossy, true, false),
        (Nat::Far, true, false),
        (Nat::Double, true, false),
        (Nat::Symmetric, false, false),
    ];
    for (nat, same_mapping, open_to_all) in cases {
        let expected = Seen {
            same_mapping,
            open_to_all,
        };
        assert_eq!(look(nat).await, expected, "{nat}");
    }
}

/// Sends until something comes from there.
async fn meet(socket: &UdpSocket, other: SocketAddr) {
    let mut buffer = [0; 64];
    for _ in 0..400 {
        socket.send_to(b"hello", other).await.unwrap();
        let answer = socket.recv_from(&mut buffer);
        let answer = tokio::time::timeout(Duration::from_millis(50), answer).await;
        if answer.is_ok_and(|answer| answer.unwrap().1 == other) {
            return;
        }
    }
    panic!("nothing comes from {other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_homes_that_send_at_once_reach_each_other() {
    if Lab::skip() {
        return;
    }
    let mut lab = Lab::new();
    let mirror = lab.site("mirror", Nat::Public);
    start_mirror(&mirror).await;
    let mirror = mirror.public_address();
    let homes = [
        lab.site("a", Nat::PortRestricted),
        lab.site("b", Nat::Double),
    ];
    let mut meetings = Vec::new();
    for home in &homes {
        let (say, heard) = oneshot::channel();
        let (tell, other) = oneshot::channel::<SocketAddr>();
        let met = home.host.handle().spawn(async move {
            let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
            say.send(seen_by(&socket, mirror).await).unwrap();
            let other = other.await.unwrap();
            meet(&socket, other).await;
            // The other side may still wait for this one.
            socket.send_to(b"hello", other).await.unwrap();
        });
        meetings.push((heard.await.unwrap(), tell, met));
    }
    let addresses: Vec<SocketAddr> = meetings.iter().map(|(address, ..)| *address).collect();
    let mut waiting = Vec::new();
    for ((_, tell, met), other) in meetings.into_iter().zip(addresses.into_iter().rev()) {
        tell.send(other).unwrap();
        waiting.push(met);
    }
    for met in waiting {
        met.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lab_leaves_nothing_behind() {
    if Lab::skip() {
        return;
    }
    let mut lab = Lab::new();
    let site = lab.site("home", Nat::PortRestricted);
    let mut command = site.host.command("sleep");
    let mut child = command.arg("60").kill_on_drop(true).spawn().unwrap();
    let process = eventually("the process in the namespace", async || {
        site.host.processes().first().copied()
    })
    .await;
    let name = site.host.name().to_owned();
    assert!(Path::new(&format!("/run/netns/{name}")).exists());
    drop(site);
    drop(lab);
    child.wait().await.unwrap();
    assert!(!Path::new(&format!("/proc/{process}/exe")).exists());
    assert!(!Path::new(&format!("/run/netns/{name}")).exists());
}

/// The first answer to a question that is asked until it comes.
async fn ask(socket: &UdpSocket, question: &[u8], whom: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut buffer = [0; 1500];
    for _ in 0..20 {
        socket.send_to(question, whom).await.unwrap();
        let answer = socket.recv(&mut buffer);
        if let Ok(Ok(length)) = tokio::time::timeout(PATIENCE, answer).await {
            return buffer[..length].to_vec();
        }
    }
    panic!("{whom:?} never answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_lets_strangers_in_on_a_port_that_nat_pmp_mapped() {
    if Lab::skip() || !Site::available(Nat::NatPmp) {
        return;
    }
    let mut lab = Lab::new();
    let (site, stranger) = (
        lab.site("home", Nat::NatPmp),
        lab.site("stranger", Nat::Public),
    );
    let (say, mapped) = oneshot::channel();
    let inside = site.host.handle().spawn(async move {
        let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
        let [high, low] = socket.local_addr().unwrap().port().to_be_bytes();
        // Version 0, map UDP, this port to any, for an hour (RFC 6886).
        let question = [0, 1, 0, 0, high, low, 0, 0, 0, 0, 14, 16];
        let asking = UdpSocket::bind(ANYWHERE).await.unwrap();
        let answer = ask(&asking, &question, (Ipv4Addr::new(192, 168, 1, 1), 5351)).await;
        assert_eq!(answer[..4], [0, 129, 0, 0], "{answer:?}");
        say.send(u16::from_be_bytes([answer[10], answer[11]]))
            .unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        (buffer[..length].to_vec(), from.ip())
    });
    let target = (site.public_address(), mapped.await.unwrap());
    let sender = stranger.public_address();
    let send = async move {
        let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
        socket.send_to(b"stranger", target).await.unwrap();
    };
    stranger.host.run(send).await;
    let heard = inside.await.unwrap();
    assert_eq!(heard, (b"stranger".to_vec(), IpAddr::V4(sender)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_with_upnp_is_found() {
    if Lab::skip() || !Site::available(Nat::Upnp) {
        return;
    }
    let mut lab = Lab::new();
    let site = lab.site("home", Nat::Upnp);
    let look = async {
        let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
        let question = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\
            MAN: \"ssdp:discover\"\r\nMX: 1\r\n\
            ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
        let everyone = (Ipv4Addr::new(239, 255, 255, 250), 1900);
        ask(&socket, question.as_bytes(), everyone).await
    };
    let answer = site.host.run(look).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("200 OK") && answer.contains("http://192.168.1.1:"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_reach_each_other_without_the_router() {
    if Lab::skip() {
        return;
    }
    let mut lab = Lab::new();
    let home = lab.site("home", Nat::Symmetric);
    let neighbour = home.neighbour(&lab, "neighbour");
    start_mirror(&home).await;
    let look = async {
        let socket = UdpSocket::bind(ANYWHERE).await.unwrap();
        seen_by(&socket, Ipv4Addr::new(192, 168, 1, 10)).await
    };
    let seen = neighbour.host.run(look).await;
    assert_eq!(seen.ip().to_string(), "192.168.1.20");
}
