//! The TCP connections of a process, looked at from outside.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// A connection of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Whether small writes leave at once (`TCP_NODELAY`).
    pub nodelay: bool,
}

/// The TCP connections that a process has, listening sockets not among them. The process must be a
/// child of this one, or this one root.
///
/// # Errors
///
/// The process is gone, or the system does not let this one look.
pub fn connections(pid: u32) -> io::Result<Vec<Connection>> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::other("that is no process id"))?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let Ok(target) = fs::read_link(entry.path()) else {
            // Closed meanwhile.
            continue;
        };
        let number = entry.file_name().to_string_lossy().parse();
        let Some(number) = number
            .ok()
            .filter(|_| target.to_string_lossy().starts_with("socket:"))
        else {
            continue;
        };
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => found.extend(connection(socket)),
            Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// `None` for a socket of another kind, and for one that listens.
fn connection(socket: OwnedFd) -> Option<Connection> {
    let socket = TcpStream::from(socket);
    Some(Connection {
        local: socket.local_addr().ok()?,
        peer: socket.peer_addr().ok()?,
        nodelay: socket.nodelay().ok()?,
    })
}
