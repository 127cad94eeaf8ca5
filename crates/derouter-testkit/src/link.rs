//! A link between two network namespaces with delay, jitter, loss and a rate, in userspace: one TUN
//! device in each, and this process carries packets between them. For kernels without `netem`.
//!
//! Needs root and `/dev/net/tun`; [`Link::unavailable`] says why not.

mod model;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, InterruptEvent, SyncDevice};

use model::Direction;
pub use model::Shape;

/// The largest packet: as large as IP allows, whatever the MTU.
const PACKET_BYTES: usize = 65_536;
/// Packets under way in one direction; the next one is lost. At 1500 bytes this is 96 MiB.
const PACKETS_UNDER_WAY: usize = 65_536;

/// One end of a link.
#[derive(Clone, Debug)]
pub struct End {
    /// The file of a network namespace: `/run/netns/<name>` or `/proc/<pid>/ns/net`.
    pub namespace: PathBuf,
    /// What the device is called there, at most 15 characters.
    pub device: String,
    /// Its addresses with their prefix, such as `10.0.0.1/24` or `2001:db8::1/64`.
    pub addresses: Vec<String>,
    /// The largest packet that it takes.
    pub mtu: u16,
}

impl End {
    /// In a namespace made by `ip netns add`, with an MTU of 1500.
    pub fn named(namespace: &str, device: &str, addresses: &[&str]) -> Self {
        Self {
            namespace: Path::new("/run/netns").join(namespace),
            device: device.to_owned(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            mtu: 1_500,
        }
    }
}

/// What went over one direction of a link.
#[derive(Debug, Default)]
pub struct Carried {
    /// Packets that arrived.
    pub packets: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// Packets that were lost, on purpose or because a queue was full.
    pub lost: AtomicU64,
}

/// A running link. Dropped, its devices are gone.
pub struct Link {
    /// From the left end to the right one.
    pub to_right: Arc<Carried>,
    /// From the right end to the left one.
    pub to_left: Arc<Carried>,
    stop: Arc<InterruptEvent>,
    queues: [Arc<Queue>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    /// Why links can't be made here; `None` when they can.
    pub fn unavailable() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces and TUN devices need root".to_owned());
        }
        let device = "/dev/net/tun";
        let open = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(device);
        open.err()
            .map(|error| format!("{device} can't be opened: {error}"))
    }

    /// Makes both devices, up and with their addresses, and carries packets between them.
    pub fn start(left: &End, right: &End, shape: Shape) -> io::Result<Self> {
        let left = Arc::new(open(left)?);
        let right = Arc::new(open(right)?);
        let mut link = Self {
            to_right: Arc::default(),
            to_left: Arc::default(),
            stop: Arc::new(InterruptEvent::new()?),
            queues: [Arc::default(), Arc::default()],
            threads: Vec::new(),
        };
        let [rightwards, leftwards] = link.queues.clone();
        let to_right = link.to_right.clone();
        let to_left = link.to_left.clone();
        link.carry(left.clone(), right.clone(), shape, rightwards, to_right)?;
        link.carry(right, left, shape, leftwards, to_left)?;
        Ok(link)
    }

    fn carry(
        &mut self,
        from: Arc<SyncDevice>,
        to: Arc<SyncDevice>,
        shape: Shape,
        queue: Arc<Queue>,
        carried: Arc<Carried>,
    ) -> io::Result<()> {
        let (stop, entry, lost) = (self.stop.clone(), queue.clone(), carried.clone());
        let take = move || take_packets(&from, &stop, Direction::new(shape), &entry, &lost);
        let give = move || give_packets(&to, &queue, &carried);
        let name = |part: &str| std::thread::Builder::new().name(format!("link {part}"));
        self.threads.push(name("take").spawn(take)?);
        self.threads.push(name("give").spawn(give)?);
        Ok(())
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut told = formatter.debug_struct("Link");
        told.field("to_right", &self.to_right);
        told.field("to_left", &self.to_left).finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.stop.trigger();
        for queue in &self.queues {
            queue.close();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Packets under way, in the order of their arrival.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    packets: VecDeque<(Instant, Vec<u8>)>,
    closed: bool,
}

impl Queue {
    /// False when too many are under way.
    fn push(&self, arrival: Instant, packet: Vec<u8>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.packets.len() >= PACKETS_UNDER_WAY {
            return false;
        }
        // Most are the last; those that are late come behind some that are not here yet.
        let place = state
            .packets
            .partition_point(|(other, _)| *other <= arrival);
        state.packets.insert(place, (arrival, packet));
        // The other side waits for the first packet, or until it arrives.
        if place == 0 {
            self.changed.notify_one();
        }
        true
    }

    /// The next packet once it has arrived; `None` when closed.
    fn pop(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            state = match state.packets.front().map(|(arrival, _)| *arrival) {
                Some(arrival) if arrival <= now => {
                    return state.packets.pop_front().map(|(_, packet)| packet);
                }
                Some(arrival) => {
                    let wait = self.changed.wait_timeout(state, arrival - now);
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let wait = self.changed.wait(state);
                    wait.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.changed.notify_all();
    }
}

fn take_packets(
    device: &SyncDevice,
    stop: &InterruptEvent,
    mut direction: Direction,
    queue: &Queue,
    carried: &Carried,
) {
    let mut buffer = vec![0; PACKET_BYTES];
    // Ends when the link is dropped or the device is gone.
    while let Ok(bytes) = device.recv_intr(&mut buffer, stop) {
        let arrival = direction.arrival(Instant::now(), bytes, rand::random(), rand::random());
        let taken = arrival.is_some_and(|arrival| {
            let arrival = arrival + direction.lateness(rand::random());
            if direction.doubles(rand::random()) {
                queue.push(arrival, buffer[..bytes].to_vec());
            }
            queue.push(arrival, buffer[..bytes].to_vec())
        });
        if !taken {
            carried.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn give_packets(device: &SyncDevice, queue: &Queue, carried: &Carried) {
    while let Some(packet) = queue.pop() {
        // A device that is full or down loses the packet, as a router does.
        let counter = match device.send(&packet) {
            Ok(_) => {
                let bytes = u64::try_from(packet.len()).unwrap_or(u64::MAX);
                carried.bytes.fetch_add(bytes, Ordering::Relaxed);
                &carried.packets
            }
            Err(_) => &carried.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the device in its namespace. A thread of its own goes there, and ends there.
fn open(end: &End) -> io::Result<SyncDevice> {
    let end = end.clone();
    let work = std::thread::spawn(move || open_here(&end));
    work.join()
        .unwrap_or_else(|_| Err(io::Error::other("making a TUN device panicked")))
}

fn open_here(end: &End) -> io::Result<SyncDevice> {
    let namespace = std::fs::File::open(&end.namespace)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let device = DeviceBuilder::new().name(&end.device).mtu(end.mtu);
    let device = device.build_sync()?;
    for address in &end.addresses {
        // Without `nodad` an IPv6 address can't be used for a second.
        let mut arguments = vec!["address", "add", address, "dev", &end.device];
        if address.contains(':') {
            arguments.push("nodad");
        }
        ip(&arguments)?;
    }
    ip(&["link", "set", &end.device, "up"])?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// Runs `ip` in the namespace of this thread.
fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments:?}: {reason}")))
}
