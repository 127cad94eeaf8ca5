//! The process that is measured against.

use std::io;
use std::net::IpAddr;

use derouter_net::{Net, NetEvents};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::transfer::{Window, Wrapping, drain, pour};
use super::{HELD_QUIC, HELD_TCP, Places, SEALED, WORD, held_streams, ip_part, node_config};

/// The longest command that a plain socket may bring.
const COMMAND_BYTES: u64 = 64;

/// Starts serving on `ip`, for as long as this process lives.
pub async fn start(ip: IpAddr) -> (Places, [Net; 2]) {
    let listener = TcpListener::bind((ip, 0)).await.expect("a port is free");
    let raw = listener.local_addr().expect("it is bound");
    let (tcp, tcp_place) = node(format!("{}/tcp/0", ip_part(ip))).await;
    let (quic, quic_place) = node(format!("{}/udp/0/quic-v1", ip_part(ip))).await;
    let places = Places {
        raw,
        tcp: tcp_place,
        quic: quic_place,
        process: std::process::id(),
    };
    let nodes = [tcp, quic];
    tokio::spawn(serve_raw(listener, nodes.clone()));
    (places, nodes)
}

async fn node(listen: String) -> (Net, String) {
    let config = node_config(Some(listen));
    let started = derouter_net::start(config, CancellationToken::new()).await;
    let (net, events) = started.expect("a node starts");
    let addresses = net.listen_addresses().await;
    let address = addresses.first().expect("it listens");
    let place = format!("{address}/p2p/{}", net.local_peer_id());
    tokio::spawn(serve_jobs(events));
    (net, place)
}

async fn serve_jobs(mut events: NetEvents) {
    while let Some(inbound) = events.streams.recv().await {
        tokio::spawn(async move {
            let command = inbound.job_id.as_str().to_owned();
            if let Ok(stream) = inbound.accept().await {
                let _ = obey(&command, stream).await;
            }
        });
    }
}

async fn serve_raw(listener: TcpListener, nodes: [Net; 2]) {
    while let Ok((stream, _)) = listener.accept().await {
        let nodes = nodes.clone();
        tokio::spawn(async move {
            let _ = serve_raw_stream(stream, &nodes).await;
        });
    }
}

/// A plain socket brings its command with its length.
async fn serve_raw_stream(mut stream: TcpStream, nodes: &[Net; 2]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let length = stream.read_u8().await?;
    let mut command = String::new();
    let mut head = (&mut stream).take(u64::from(length).min(COMMAND_BYTES));
    head.read_to_string(&mut command).await?;
    stream.write_u8(0).await?;
    let [tcp, quic] = nodes;
    match command.as_str() {
        HELD_TCP => stream.write_u64(held_streams(tcp).await).await,
        HELD_QUIC => stream.write_u64(held_streams(quic).await).await,
        command => obey(command, stream).await,
    }
}

async fn obey<S>(command: &str, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = split(stream);
    let (wrapping, command) = match command.strip_prefix(SEALED) {
        Some(command) => (Wrapping::Sealed, command),
        None => (Wrapping::Plain, command),
    };
    if command == WORD {
        let mut word = [0; WORD.len()];
        reader.read_exact(&mut word).await?;
        writer.write_all(&word).await?;
        return writer.shutdown().await;
    }
    if command == "down" {
        // All streams are open before the first is filled.
        reader.read_u8().await?;
        return pour(&mut writer, wrapping).await;
    }
    let window = command.strip_prefix("up:").and_then(Window::decode);
    if let Some(window) = window {
        let bytes = drain(&mut reader, wrapping, window).await?;
        writer.write_u64(bytes).await?;
    }
    writer.shutdown().await?;
    // Until the client has what it needs.
    tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
    Ok(())
}
