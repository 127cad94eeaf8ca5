//! The messages of AutoNAT v2 that a client sends and reads (protobuf, length before each).

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Multiaddr;

/// A message, as libp2p's servers bound it.
const MESSAGE_BYTES: usize = 4104;
/// A dial-back: one fixed number.
const DIAL_BACK_BYTES: usize = 10;
/// What a server may ask a client to send before it dials an address other than the one it sees:
/// otherwise others could have it dial anybody for free. From libp2p's servers.
const DATA_BYTES: u64 = 100_000;
/// Of this, so much in one message.
const DATA_PIECE: u64 = 4096;

/// The outcome of a dial, as the server tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// It dialled, and gave the nonce back.
    Ok,
    /// It could not connect.
    NoConnection,
    /// It connected to somebody who did not take the nonce.
    NoNonce,
}

#[derive(Debug, PartialEq, Eq)]
enum Response {
    Dialled(Dialled),
    Refused(&'static str),
    DataWanted(u64),
}

/// Has a server dial `address`, within the caller's deadline.
pub(super) async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    address: &Multiaddr,
    nonce: u64,
) -> io::Result<Dialled> {
    write_frame(&mut stream, &dial_request(address, nonce)).await?;
    let mut response = read_response(&mut stream).await?;
    if let Response::DataWanted(bytes) = response {
        if bytes > DATA_BYTES {
            return Err(invalid("the server wants too much data"));
        }
        send_data(&mut stream, bytes).await?;
        response = read_response(&mut stream).await?;
    }
    let _ = stream.close().await;
    match response {
        Response::Dialled(dialled) => Ok(dialled),
        Response::Refused(reason) => Err(io::Error::other(reason)),
        Response::DataWanted(_) => Err(invalid("the server wants data twice")),
    }
}

/// Reads the nonce of a dial-back.
pub(super) async fn read_dial_back<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<u64> {
    let frame = read_frame(stream, DIAL_BACK_BYTES).await?;
    let mut nonce = 0;
    for field in fields(&frame)? {
        if let (1, Value::Number(number)) = field {
            nonce = number;
        }
    }
    Ok(nonce)
}

/// Takes a dial-back: status 0, which protobuf leaves out.
pub(super) async fn accept_dial_back<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    write_frame(stream, &[]).await?;
    stream.close().await
}

fn dial_request(address: &Multiaddr, nonce: u64) -> Vec<u8> {
    let mut request = Vec::new();
    put_bytes(&mut request, 1, address.as_ref());
    // Field 2, fixed 64 bit.
    request.push(2 << 3 | 1);
    request.extend(nonce.to_le_bytes());
    let mut message = Vec::new();
    put_bytes(&mut message, 1, &request);
    message
}

async fn send_data<S: AsyncWrite + Unpin>(stream: &mut S, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(DATA_PIECE);
        left -= piece;
        let zeros = vec![0; usize::try_from(piece).unwrap_or(0)];
        let (mut data, mut message) = (Vec::new(), Vec::new());
        put_bytes(&mut data, 1, &zeros);
        put_bytes(&mut message, 4, &data);
        write_frame(stream, &message).await?;
    }
    Ok(())
}

async fn read_response<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Response> {
    response(&read_frame(stream, MESSAGE_BYTES).await?)
}

fn response(frame: &[u8]) -> io::Result<Response> {
    match fields(frame)?.first() {
        Some((2, Value::Bytes(bytes))) => dial_response(bytes),
        Some((3, Value::Bytes(bytes))) => {
            let wanted = fields(bytes)?.into_iter().find_map(|field| match field {
                (2, Value::Number(wanted)) => Some(wanted),
                _ => None,
            });
            Ok(Response::DataWanted(wanted.unwrap_or(0)))
        }
        _ => Err(invalid("no answer of a server")),
    }
}

fn dial_response(bytes: &[u8]) -> io::Result<Response> {
    let (mut status, mut dial_status) = (0, 0);
    for field in fields(bytes)? {
        match field {
            (1, Value::Number(number)) => status = number,
            (3, Value::Number(number)) => dial_status = number,
            _ => {}
        }
    }
    match (status, dial_status) {
        (200, 200) => Ok(Response::Dialled(Dialled::Ok)),
        (200, 100) => Ok(Response::Dialled(Dialled::NoConnection)),
        (200, 101) => Ok(Response::Dialled(Dialled::NoNonce)),
        (100, _) => Ok(Response::Refused("the server tests no more for now")),
        (101, _) => Ok(Response::Refused("the server dials no such address")),
        (0, _) => Ok(Response::Refused("the server had an error")),
        _ => Err(invalid("an unknown status")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message.
fn fields(mut bytes: &[u8]) -> io::Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(take_varint(&mut bytes)?),
            1 => {
                let fixed = bytes.split_first_chunk::<8>();
                let (number, rest) = fixed.ok_or_else(|| invalid("a cut number"))?;
                bytes = rest;
                Value::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?);
                let split = length
                    .ok()
                    .and_then(|length| bytes.split_at_checked(length));
                let (value, rest) = split.ok_or_else(|| invalid("a cut field"))?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return Err(invalid("an unknown kind of field")),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

fn take_varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| invalid("a cut number"))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(invalid("a number of too many bytes"))
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            to.push(low & 0x7f);
            return;
        }
        to.push(low | 0x80);
    }
}

fn put_bytes(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(to, field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend(bytes);
}

async fn write_frame<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(message.len() + 2);
    put_varint(&mut frame, message.len() as u64);
    frame.extend(message);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Reads a message of up to `limit` bytes.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S, limit: usize) -> io::Result<Vec<u8>> {
    let mut length: usize = 0;
    let mut shift = 0;
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let [byte] = byte;
        length |= usize::from(byte & 0x7f) << shift;
        if length > limit || shift > 14 {
            return Err(invalid("a message that is too long"));
        }
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// See [`crate::fuzz::autonat`].
pub(super) fn fuzz(data: &[u8]) {
    use futures::FutureExt;
    use futures::io::Cursor;

    let frame = read_frame(&mut Cursor::new(data), MESSAGE_BYTES).now_or_never();
    if let Some(Ok(frame)) = frame {
        assert!(frame.len() <= MESSAGE_BYTES);
        let _ = response(&frame);
    }
    let _ = read_dial_back(&mut Cursor::new(data)).now_or_never();
    let Ok(read) = fields(data) else { return };
    let mut written = Vec::new();
    for (field, value) in &read {
        match value {
            Value::Bytes(bytes) => put_bytes(&mut written, *field, bytes),
            Value::Number(number) => {
                put_varint(&mut written, field << 3);
                put_varint(&mut written, *number);
            }
        }
    }
    assert_eq!(fields(&written).ok(), Some(read));
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    #[test]
    fn a_request_has_the_bytes_that_libp2p_reads() {
        let address: Multiaddr = "/ip4/1.2.3.4/tcp/5".parse().unwrap();
        let expected = [
            10, 19, 10, 8, 4, 1, 2, 3, 4, 6, 0, 5, 17, 1, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(dial_request(&address, 1), expected);
    }

    #[test]
    fn answers_of_a_server_are_told_apart() {
        let answer = |status: u8, dial: u8| vec![18, 6, 8, status | 0x80, 1, 24, dial | 0x80, 1];
        let low = |number: u64| number.to_le_bytes()[0];
        let ok = low(200 & 0x7f);
        // 200 is 72 + 128: the low byte carries 72.
        assert_eq!(
            response(&answer(ok, ok)).unwrap(),
            Response::Dialled(Dialled::Ok)
        );
        let refused = [18, 2, 8, 101];
        assert!(matches!(response(&refused).unwrap(), Response::Refused(_)));
        let wanted = [26, 4, 16, 0xe0, 0xd4, 3];
        assert_eq!(response(&wanted).unwrap(), Response::DataWanted(60_000));
    }

    #[test]
    fn cut_and_oversized_messages_are_errors() {
        for bytes in [&[18, 9, 1][..], &[8], &[0xff; 12], &[15], &[9, 1]] {
            assert!(response(bytes).is_err(), "{bytes:?}");
        }
        let long = block_on(read_frame(
            &mut Cursor::new([0xff, 0xff, 0xff, 0xff]),
            MESSAGE_BYTES,
        ));
        assert!(long.is_err());
        let cut = block_on(read_frame(&mut Cursor::new([5, 1]), MESSAGE_BYTES));
        assert!(cut.is_err());
    }

    #[test]
    fn a_dial_back_gives_its_nonce() {
        let mut frame = vec![9, 9];
        frame.extend(77_u64.to_le_bytes());
        assert_eq!(
            block_on(read_dial_back(&mut Cursor::new(frame))).unwrap(),
            77
        );
    }
}
