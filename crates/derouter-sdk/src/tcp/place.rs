//! Where a node's RPC is, and what proves to it that this module may use it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use derouter_wire::rpc::hello::Name;
use tokio::net::TcpStream;

use crate::error::NodeError;
use crate::node::JobStream;

/// The file with the token for TCP, in the node's data directory.
pub const COOKIE_FILE: &str = "rpc.cookie";

/// The Unix socket in the node's data directory.
pub const SOCKET_FILE: &str = "rpc.sock";

/// How an address of a Unix socket begins.
const UNIX: &str = "unix:";

/// A cookie file is 64 bytes; what is larger is some other file.
const COOKIE_BYTES: u64 = 128;

/// A node's RPC.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// TCP on this machine. The cookie file, when it is known where that is.
    Tcp(String, Option<PathBuf>),
    /// A Unix socket, whose permissions say who may connect.
    Unix(PathBuf),
}

/// How a connection begins.
#[derive(Clone, Debug)]
pub(super) enum Greeting {
    /// As a module of 0.2, with the token over TCP.
    Hello(Option<Name>),
    /// As a module of 0.1: there is no token.
    None,
}

impl Place {
    /// Reads `host:port`, or `unix:` and a path.
    pub(super) fn new(address: String, cookie: Option<PathBuf>) -> Self {
        match address.strip_prefix(UNIX) {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(address, cookie),
        }
    }

    pub(super) async fn connect(&self) -> io::Result<JobStream> {
        match self {
            Self::Tcp(address, _) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Looks at the cookie file, anew for each connection: a node makes another one at each start.
    pub(super) fn greeting(&self) -> Result<Greeting, NodeError> {
        match self {
            Self::Unix(_) => Ok(Greeting::Hello(None)),
            Self::Tcp(_, None) => Ok(Greeting::None),
            Self::Tcp(_, Some(cookie)) => match read_cookie(cookie) {
                Ok(Some(token)) => Ok(Greeting::Hello(Some(token))),
                Ok(None) => Ok(Greeting::None),
                Err(problem) => Err(NodeError::Refused(problem)),
            },
        }
    }

    /// What to do when the node wants a token.
    pub(super) fn advice(&self) -> String {
        match self {
            Self::Tcp(_, None) => format!(
                "say where the node's cookie file is (`{COOKIE_FILE}` in its data directory)"
            ),
            Self::Tcp(_, Some(cookie)) => format!(
                "the cookie file {} must be the one that the running node made",
                cookie.display()
            ),
            Self::Unix(path) => format!(
                "the socket {} takes only modules of the user that runs the node",
                path.display()
            ),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address, _) => f.write_str(address),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The address of the socket in a data directory, if a node answers there: one that was killed
/// leaves its socket behind.
#[cfg(unix)]
pub(super) fn socket_in(data_dir: &Path) -> Option<String> {
    let path = data_dir.join(SOCKET_FILE);
    std::os::unix::net::UnixStream::connect(&path).ok()?;
    Some(format!("{UNIX}{}", path.display()))
}

#[cfg(not(unix))]
pub(super) fn socket_in(_: &Path) -> Option<String> {
    None
}

/// The token; `None` without a file. A file that others could have written or read is refused: what
/// it holds may be known, or not be the node's.
fn read_cookie(path: &Path) -> Result<Option<Name>, String> {
    let shown = path.display();
    let problem = |problem: String| format!("the cookie file {shown} {problem}");
    let link = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(format!("can't be read: {error}"))),
    };
    if !link.is_file() {
        return Err(problem(
            "is not a plain file. The node makes one at its start".into(),
        ));
    }
    let file = match File::open(path) {
        Ok(file) => file,
        // Between the two the node stopped.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(format!("can't be read: {error}"))),
    };
    let unreadable = |error: io::Error| problem(format!("can't be read: {error}"));
    let metadata = file.metadata().map_err(unreadable)?;
    if !is_same(&link, &metadata) {
        return Err(problem("was exchanged while it was read".into()));
    }
    if is_open_to_others(&metadata) {
        return Err(problem(
            "can be read by other users. Restart the node, which makes a new one".into(),
        ));
    }
    let mut text = String::new();
    file.take(COOKIE_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(Some(Name::cut(text.trim_end())))
}

#[cfg(unix)]
fn is_same(link: &Metadata, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (link.dev(), link.ino()) == (opened.dev(), opened.ino())
}

#[cfg(unix)]
fn is_open_to_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Metadata) -> bool {
    false
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, mode: u32) {
        fs::write(path, "abc\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_cookie_is_read_only_from_a_plain_file_of_ones_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(COOKIE_FILE);
        assert!(matches!(read_cookie(&path), Ok(None)));
        write(&path, 0o600);
        let token = read_cookie(&path).unwrap().unwrap();
        assert_eq!(token.as_str(), "abc");
        for mode in [0o640, 0o604, 0o660] {
            write(&path, mode);
            assert!(read_cookie(&path).unwrap_err().contains("other users"));
        }
        write(&path, 0o600);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(read_cookie(&link).unwrap_err().contains("plain file"));
        assert!(
            read_cookie(directory.path())
                .unwrap_err()
                .contains("plain file")
        );
    }

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        let unix = Place::new("unix:/run/rpc.sock".into(), None);
        assert!(matches!(&unix, Place::Unix(path) if path == Path::new("/run/rpc.sock")));
        assert_eq!(unix.to_string(), "unix:/run/rpc.sock");
        let tcp = Place::new("127.0.0.1:1".into(), None);
        assert_eq!(tcp.to_string(), "127.0.0.1:1");
        assert!(matches!(tcp.greeting(), Ok(Greeting::None)));
    }
}
