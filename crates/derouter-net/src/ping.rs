//! One round trip on request, by libp2p's ping protocol: 32 random bytes that the peer sends back.

use std::io;
use std::time::{Duration, Instant};

use libp2p::StreamProtocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::streams::Substream;

/// Every libp2p node answers it, those of 0.1 too.
pub(crate) const PING: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");

/// Bytes of a ping.
const BYTES: usize = 32;

/// Measures one round trip on a fresh substream, whose negotiation travels with the ping: see the
/// upgrade version in [`crate::transport`]. (A second ping on the same substream would be more
/// exact, but libp2p's answerer does not look for it until its connection has other work.) The
/// caller has the deadline.
pub(crate) async fn round_trip(stream: Substream) -> io::Result<Duration> {
    let mut stream = stream.compat();
    let sent = Instant::now();
    exchange(&mut stream).await?;
    Ok(sent.elapsed())
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let sent: [u8; BYTES] = rand::random();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut received = [0; BYTES];
    stream.read_exact(&mut received).await?;
    if received != sent {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "other bytes came back than were sent",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_echo_is_a_pong_and_anything_else_is_not() {
        for (change, good) in [(0, true), (1, false)] {
            let (mut near, mut far) = tokio::io::duplex(64);
            let peer = tokio::spawn(async move {
                let mut bytes = [0; BYTES];
                far.read_exact(&mut bytes).await.unwrap();
                bytes[7] ^= change;
                far.write_all(&bytes).await.unwrap();
            });
            assert_eq!(exchange(&mut near).await.is_ok(), good);
            peer.await.unwrap();
        }
    }
}
