//! Every bound of this crate, with its reason.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::heartbeat::bucket::Rate;

/// Commands from handles to the swarm task. Callers wait, so this only smooths bursts.
pub(crate) const COMMAND_QUEUE: usize = 256;
/// Commands that the swarm task takes in a row before it polls the swarm once.
pub(crate) const COMMANDS_PER_TURN: u32 = 32;
/// Swarm events handled in a row: when commands exceeded their budget, and before other tasks get the
/// thread.
pub(crate) const EVENTS_PER_TURN: u32 = 32;
/// A command is queued and answered by the swarm task within this, else the caller gives up. The
/// task never waits on anything, so only an overloaded machine gets near it.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// Checked heartbeats waiting for the node. One for each of many hundred providers.
pub(crate) const HEARTBEAT_QUEUE: usize = 1024;
/// Requests waiting for the node; the next one is answered `Busy`. Each may hold 1 MiB.
pub(crate) const REQUEST_QUEUE: usize = 256;
/// Job streams waiting for the node; the next one is answered `Busy`.
pub(crate) const STREAM_QUEUE: usize = 256;
/// Connect and disconnect notices waiting for the node; they are hints and dropped when full.
pub(crate) const PEER_EVENT_QUEUE: usize = 256;

/// Inbound substreams of one peer, over all its connections, whose request or head is not dealt
/// with yet.
pub(crate) const INBOUND_PER_PEER: usize = 256;
/// The same over all peers.
pub(crate) const INBOUND_TOTAL: usize = 2048;
/// Of these for one peer, once half are taken: as many jobs as a busy buyer begins at once, and few
/// enough that the peers of a dozen networks can't take the other half.
pub(crate) const INBOUND_FAIR_SHARE: usize = 16;
/// Substreams of one connection that are dropped for want of a place until that is an offence. A burst
/// may lose a few hundred; each costs a negotiation, and ten thousand within minutes are no mistake.
pub(crate) const DROPPED_PER_OFFENCE: usize = 1000;
/// Negotiated substreams waiting for the task that serves them; it never waits, so bursts only.
pub(crate) const INBOUND_QUEUE: usize = 512;
/// Requests over [`SMALL_REQUEST_BYTES`] that are held in memory at the same time.
pub(crate) const LARGE_REQUESTS: usize = 128;
/// Of these, those of one peer; its next one waits.
pub(crate) const LARGE_REQUESTS_PER_PEER: usize = 16;
/// A request up to this size needs no place among the large ones.
pub(crate) const SMALL_REQUEST_BYTES: usize = 64 * 1024;

/// Substreams that one connection negotiates for us at the same time; more wait in its queue.
pub(crate) const OUTBOUND_NEGOTIATING: usize = 64;
/// Substreams that wait for negotiation on one connection; the next one fails.
pub(crate) const OUTBOUND_PER_CONNECTION: usize = 1024;
/// Substreams that wait for a connection to their peer, over all peers; the next one fails.
pub(crate) const WAITING_FOR_CONNECTION: usize = 1024;
/// Negotiation of one substream: a round trip or two.
pub(crate) const NEGOTIATE_DEADLINE: Duration = Duration::from_secs(5);
/// A connection that failed to give a substream comes last for so long: until a ping has told
/// whether it lives.
pub(crate) const SUSPECT: Duration = Duration::from_secs(30);
/// Inbound substreams that one connection negotiates at the same time; libp2p drops the rest.
/// Above [`INBOUND_PER_PEER`], so that a burst meets our counted limit, not libp2p's.
pub(crate) const INBOUND_NEGOTIATING: usize = 512;

/// Dialling one address, transport handshakes included.
pub(crate) const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// Getting a substream: dial, then negotiate.
pub(crate) const OPEN_DEADLINE: Duration = Duration::from_secs(8);
/// What a 0.1 asker waits for a response.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Reading an inbound request.
pub(crate) const READ_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// The node's time for an answer. The asker counts 10 s from when it opened the substream, so
/// this leaves the rest for the way there and back.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(9);
/// Writing a response of up to 10 MiB.
pub(crate) const WRITE_RESPONSE_DEADLINE: Duration = Duration::from_secs(10);
/// Reading or writing the arguments of a new job: 1 MiB over a slow line.
pub(crate) const JOB_ARGS_DEADLINE: Duration = Duration::from_secs(30);
/// Each step of the head of a job stream.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// yamux substreams of one connection, both sides' together.
pub(crate) const YAMUX_STREAMS: usize = 1024;
/// The receive windows of all yamux substreams of one connection: 256 KiB for each that there may
/// be, as the protocol has it, and 64 MiB that busy ones share to grow beyond. A stream needs bytes a
/// second times round trip: 64 MiB is 8 Gbit/s at 60 ms, or 64 streams at 130 Mbit/s.
pub(crate) const YAMUX_WINDOWS: usize = (YAMUX_STREAMS << 18) + (64 << 20);
/// Payload of a yamux frame that we send. A message of noise has room for 64511 bytes, which one frame
/// fills with its header of 12. Small frames cost copies and wake-ups; ten of one stream may wait, and
/// delay others.
pub(crate) const YAMUX_FRAME_BYTES: usize = 64_511 - 12;
/// Yamux takes no round trip for shorter. The window of a stream grows until half of it lasts for two of
/// them: to 8 MiB at 1 GB/s, and not at all below 32 MB/s.
pub(crate) const YAMUX_LEAST_ROUND_TRIP: Duration = Duration::from_millis(2);
/// yamux substreams that wait for negotiation to begin; the next one is reset. yamux opens no more
/// than this before the first is acknowledged.
pub(crate) const YAMUX_WAITING_STREAMS: usize = 256;
/// Read from a TCP connection at once. Noise reads 8 KiB at a time, which would be a system call
/// each.
pub(crate) const TCP_READ_BYTES: usize = 128 * 1024;
/// What glibc's heaps keep of what was freed, each: what busy job streams have under way. Mapping it anew
/// for each frame costs some fifth of the processor time of a stream (docs/figures.md).
pub(crate) const KEPT_HEAP_BYTES: usize = 16 << 20;
/// What one QUIC stream may have unread, in bytes: 800 Mbit/s at 60 ms.
pub(crate) const QUIC_STREAM_WINDOW: u32 = 6 << 20;
/// The same over all streams of a connection. When it is used up the whole connection stands still,
/// so there is room for several streams that nobody reads.
pub(crate) const QUIC_CONNECTION_WINDOW: u32 = 32 << 20;
/// QUIC substreams of one connection that the peer may hold open.
pub(crate) const QUIC_STREAMS: u32 = 2048;

/// Connections being accepted.
pub(crate) const PENDING_INCOMING: u32 = 32;
/// Connections being dialled, for whatever reason: those on request ([`DIALS_OF_PEER`] for each peer
/// at most), those that handles and Kademlia wait for, bootstrap nodes, holes that are punched.
pub(crate) const PENDING_OUTGOING: u32 = 144;
/// Of these, peers that are dialled because somebody wants a substream; the next ones wait.
pub(crate) const DIALS_ON_REQUEST: usize = 32;
/// A peer that somebody waits for is dialled once more when a dial takes longer than this; most take
/// a few round trips. What has changed since the first may be all that was in the way.
pub(crate) const DIAL_AGAIN: Duration = Duration::from_millis(1500);
/// What the new dial waits for the addresses that the peer has announced; the task that has them is
/// busy otherwise, and the dial after it will have them.
pub(crate) const LEARN_BEFORE_DIAL: Duration = Duration::from_millis(200);
/// Dials of one such peer at the same time.
pub(crate) const DIALS_OF_PEER: usize = 3;
/// Connections in all.
pub(crate) const ESTABLISHED: u32 = 300;
/// Connections that others opened; the rest is kept for those that we open.
pub(crate) const ESTABLISHED_INCOMING: u32 = ESTABLISHED - 64;
/// Of these, those that stay: one more closes one ([`crate::guests`]). As many under libp2p's limit
/// as may be accepted before the actor looks.
pub(crate) const INBOUND_PLACES: usize = 236 - 16;
/// Connections with one peer: TCP, QUIC, one through a relay, and one that takes over or that it made
/// to test an address.
pub(crate) const ESTABLISHED_PER_PEER: u32 = 4;
/// Inbound connections from one /24 (IPv4) or /48 (IPv6).
pub(crate) const INBOUND_PER_SUBNET: usize = 16;
/// Of [`PENDING_INCOMING`], those from one such network.
pub(crate) const PENDING_PER_SUBNET: usize = 8;
/// Inbound connections that one such network may begin. The burst is for all places twice, as when this
/// node or a router comes back; after that, a handshake costs so much (some 0.3 ms here, as at the
/// other end) that who hangs up and comes again for hours must not take a processor.
pub(crate) const INBOUND_RATE: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 32,
};
/// Networks of which that is remembered. At the limit those that owe nothing are forgotten, then the
/// one that owes least.
pub(crate) const INBOUND_NETWORKS: usize = 4096;
/// A connection without substreams stays this long: heartbeats arrive every 30 s, and a peer that
/// is silent for hours is only kept for its address.
pub(crate) const IDLE_CONNECTION: Duration = Duration::from_secs(4 * 3600);
/// How often a connection is pinged, and how long a pong may take, before it is closed.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A connection whose last pong is older is pinged once more, apart from the others: it is closed
/// [`LIFE_SIGN`] later, where libp2p takes until the second miss.
pub(crate) const PONG_OVERDUE: Duration = Duration::from_secs(18);
/// An answer that takes longer has its connection looked at: most take a round trip or two, and the
/// others cost a ping.
pub(crate) const LATE_ANSWER: Duration = Duration::from_secs(2);
/// In this time a connection that is looked at gives a sign of life, or it is closed: several
/// retransmissions on a bad line. With [`LATE_ANSWER`] before a request gives up.
pub(crate) const LIFE_SIGN: Duration = Duration::from_secs(4);
/// The same where another connection with the peer broke or was made anew: there is a reason to
/// believe that this one is dead, and another one takes over what comes.
pub(crate) const QUICK_LIFE_SIGN: Duration = Duration::from_secs(2);
/// The same of a peer that has connected again from another address: whose address has changed keeps
/// nothing of what it had, and until a relay knows, it leads others into the void.
pub(crate) const MOVED_LIFE_SIGN: Duration = Duration::from_secs(1);
/// A connection that was asked for a sign of life and gave none within this has the relays of this
/// node looked at as well: it may be this node that has moved, and then others reach it through them
/// only once it knows. A round trip or two.
pub(crate) const DOUBT: Duration = Duration::from_millis(500);
/// Between two times that this happens.
pub(crate) const DOUBT_PAUSE: Duration = Duration::from_secs(10);
/// A connection on which something is going on is asked for a sign of life when nothing came for so
/// long: whoever is sent an answer says nothing meanwhile, and one that is gone says nothing either.
/// It costs a ping every few seconds while such an answer runs.
pub(crate) const BUSY_SILENCE: Duration = Duration::from_secs(2);
/// In this time it has to give that sign: longer than [`LIFE_SIGN`], as what goes on would be lost
/// with it, and a busy machine or line may be slow.
pub(crate) const BUSY_LIFE_SIGN: Duration = Duration::from_secs(8);
/// How often that is looked at, while something is going on anywhere.
pub(crate) const BUSY_LOOK: Duration = Duration::from_secs(1);
/// A peer that connects again has its older connections looked at, unless they were heard within
/// this: two connections that are made at the same time are no sign of anything.
pub(crate) const JUST_HEARD: Duration = Duration::from_secs(3);
/// After a connection died in silence the others are looked at too, at most this often: it may have
/// been this node's own line.
pub(crate) const LOOK_AT_ALL: Duration = Duration::from_secs(30);
/// See [`PING_INTERVAL`].
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Pinging a peer on request, dialling it included.
pub(crate) const PING_DEADLINE: Duration = Duration::from_secs(10);

/// Peers whose addresses are remembered.
pub(crate) const BOOK_PEERS: usize = 4096;
/// Addresses remembered for each.
pub(crate) const BOOK_ADDRESSES: usize = 8;
/// Of [`BOOK_PEERS`], those that were never reached and whose first address is in one /24 or /48:
/// whoever makes up peers there leaves room to others.
pub(crate) const BOOK_STRANGERS_PER_SUBNET: usize = 64;
/// Peers whose misbehaviour is remembered.
pub(crate) const BLAMED_PEERS: usize = 4096;
/// A node that is connected to fewer peers dials more of those it knows. Eight survive the loss of
/// a few, and fill a gossip mesh of six.
pub(crate) const MIN_PEERS: usize = 8;
/// How often changes of the peer book are given out to be kept on disk.
pub(crate) const BOOK_INTERVAL: Duration = Duration::from_secs(30);
/// How soon news of good peers are given out, those of a burst together: at most four small writes a
/// second. A node that lived for a second or two may have met all that it will ever be told of.
pub(crate) const BOOK_NEWS_DELAY: Duration = Duration::from_millis(250);
/// Batches of such changes that wait; at this limit they stay in the book until the next time.
pub(crate) const BOOK_QUEUE: usize = 4;
/// Peers in one report: those connected, then those last connected.
pub(crate) const REPORTED_PEERS: usize = 512;
/// Sources whose last heartbeat is remembered.
pub(crate) const HEARTBEAT_SOURCES: usize = 10_000;
/// Peers whose share of forwarded heartbeats is remembered: several times those connected.
pub(crate) const HEARTBEAT_FORWARDERS: usize = 1024;
/// Dials that a handle waits for.
pub(crate) const AWAITED_DIALS: usize = 16;
/// Addresses of one mDNS answer that are looked at.
pub(crate) const MDNS_ADDRESSES: usize = 64;

/// Peers outside the mesh that are told the ids of new messages each second: all of them.
pub(crate) const GOSSIP_PEERS: usize = 300;
/// Gossip frames. One heartbeat is capped at 64 KiB by topic; libp2p counts bytes of the next
/// message that are already read against this limit, so it needs room for both.
pub(crate) const GOSSIP_FRAME_BYTES: usize = 256 * 1024;
/// Gossip messages in one frame. Nodes send one; the rest is room for others' ways.
pub(crate) const GOSSIP_FRAME_MESSAGES: usize = 4;
/// Frames of announcements from one network, each with a batch of them. 100,000 providers refresh 330 times
/// a second in all; a neighbour sends five frames a second of that for each topic. A burst is below
/// [`ANNOUNCEMENT_QUEUE`], so that one network does not fill it.
pub(crate) const ANNOUNCEMENT_FRAMES: Rate = Rate {
    every: Duration::from_millis(5),
    burst: 100,
};
/// Frames of heartbeats from one network. 3000 providers send 100 a second; each costs a signature
/// check (60 us), whoever made it. The burst is all of them once.
pub(crate) const HEARTBEAT_FRAMES: Rate = Rate {
    every: Duration::from_millis(5),
    burst: 3000,
};
/// Networks whose pace of gossip is remembered: several times those connected.
pub(crate) const PACED_NETWORKS: usize = 1024;
/// How long ids of messages with announcements are remembered. Each goes one hop and has an id of its own,
/// so this is for the beacon, which is a new one each minute.
pub(crate) const ANNOUNCEMENT_IDS: Duration = Duration::from_secs(20);
/// Frames of the announcements' gossip: a batch, and what is read already of the next one.
pub(crate) const ANNOUNCEMENT_FRAME_BYTES: usize = 64 * 1024;
/// A gossip message on the heartbeat topic, as 0.1 has it.
pub(crate) const GOSSIP_MESSAGE_BYTES: usize = 64 * 1024;

/// How long a stop waits for its last heartbeat to leave.
pub(crate) const FLUSH: Duration = Duration::from_millis(500);
/// How long a stop waits for connections to close.
pub(crate) const CLOSE: Duration = Duration::from_millis(500);
/// How long [`crate::start`] waits for listeners to tell their real ports.
pub(crate) const LISTEN_DEADLINE: Duration = Duration::from_secs(3);

/// One Kademlia query, within the time of a caller that waits for a peer's address.
pub(crate) const KADEMLIA_QUERY: Duration = Duration::from_secs(10);
/// A search for providers that a handle waits for: the query, and some slack.
pub(crate) const FIND_PROVIDERS_DEADLINE: Duration = Duration::from_secs(15);
/// How often the routing table is refreshed.
pub(crate) const KADEMLIA_BOOTSTRAP: Duration = Duration::from_secs(5 * 60);
/// How long a provider record is kept; it is published again every 6 hours.
pub(crate) const KADEMLIA_RECORD_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Provider records of others, at most 0.5 KiB each with their addresses. One for each protocol and
/// node among those whose keys are near; the next is refused.
pub(crate) const KADEMLIA_RECORDS: usize = 32_768;
/// Provider records under one key: three times what one answer tells.
pub(crate) const KADEMLIA_RECORDS_PER_KEY: usize = 64;
/// Of these from one /24 (IPv4) or /48 (IPv6), so that one machine does not take a key.
pub(crate) const KADEMLIA_RECORDS_PER_SUBNET: usize = 4;
/// Between two times that a peer is blamed for asking too much in Kademlia.
pub(crate) const KADEMLIA_BLAME: Duration = Duration::from_secs(10);
/// Provider records of one node: its protocols ([`PROVIDED_PROTOCOLS`]) and itself.
pub(crate) const KADEMLIA_RECORDS_PER_PROVIDER: usize = 17;
/// A full store looks for expired records at most this often.
pub(crate) const KADEMLIA_SWEEP: Duration = Duration::from_secs(60);
/// Addresses of one peer in the routing table or in a provider record.
pub(crate) const KADEMLIA_ADDRESSES: usize = 4;
/// Addresses of one peer, as others said in queries, that are dialled.
pub(crate) const KADEMLIA_DIALLED_ADDRESSES: usize = 8;
/// Addresses of one identify message that are looked at.
pub(crate) const IDENTIFY_ADDRESSES: usize = 32;
/// Peers that are looked up at the same time; more are not looked up.
pub(crate) const KADEMLIA_LOOKUPS: usize = 32;
/// Those who wait for one lookup.
pub(crate) const KADEMLIA_WAITERS: usize = 64;
/// A peer that was not found is not looked up again for this long: it may just be starting.
pub(crate) const KADEMLIA_MISSED: Duration = Duration::from_secs(5);
/// Peers for which that is remembered; others are looked up again.
pub(crate) const KADEMLIA_MISSED_PEERS: usize = 1024;
/// Searches for providers that a handle waits for; the next finds nobody.
pub(crate) const PROVIDER_SEARCHES: usize = 32;
/// Providers that one search tells.
pub(crate) const FOUND_PROVIDERS: usize = 64;
/// Of these, those that are dialled: each tells of all others that it knows.
pub(crate) const DIALLED_PROVIDERS: usize = 8;
/// Protocols of which this node publishes that it provides them.
pub(crate) const PROVIDED_PROTOCOLS: usize = 16;
/// Protocols of which providers are looked for.
pub(crate) const WANTED_PROTOCOLS: usize = 16;

/// Relays on which a node keeps reservations at most: more cost others places and gain little.
pub(crate) const RELAYS: usize = 4;
/// At a relay: how many reservations a peer may make at once, and how long each takes to come back.
/// A node makes one for each connection that broke, and renews it every 45 minutes.
pub(crate) const RESERVATIONS_OF_PEER: (NonZeroU32, Duration) = (THIRTY, Duration::from_secs(20));
/// The same of an IP address. A provider's NAT has hundreds of homes behind one, which all come back
/// together after it broke.
pub(crate) const RESERVATIONS_OF_IP: (NonZeroU32, Duration) = (HUNDREDS, Duration::from_secs(1));
/// The circuits that a peer opens: one for each of its peers behind this relay, and one more now and
/// then for a hole to be punched.
pub(crate) const CIRCUITS_OF_PEER: (NonZeroU32, Duration) = (SIXTY, Duration::from_secs(4));
/// The same of an IP address.
pub(crate) const CIRCUITS_OF_IP: (NonZeroU32, Duration) = (HUNDREDS, Duration::from_millis(500));
const THIRTY: NonZeroU32 = at_least_one(30);
const SIXTY: NonZeroU32 = at_least_one(60);
const HUNDREDS: NonZeroU32 = at_least_one(300);

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// Relays that are remembered to choose from.
pub(crate) const RELAY_CANDIDATES: usize = 64;
/// Peers behind relays that are tried directly again.
pub(crate) const PUNCHED_PEERS: usize = 256;
/// Addresses of this node that are tested or told: a few interfaces, mappings and observations of
/// two transports. Peers can make observations up, so those that nothing speaks for go first.
pub(crate) const EXTERNAL_ADDRESSES: usize = 16;
/// Peers whose observations of this node's address are remembered.
pub(crate) const OBSERVERS: usize = 64;
/// Tests of addresses at the same time.
pub(crate) const PROBES: usize = 8;
/// Tests for others that are refused and not ended yet.
pub(crate) const REFUSED_PROBES: usize = 256;
/// A test: up to 100 kB to the server, its dial, and the answer.
pub(crate) const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// Announcements (0.2) that are known: 100,000 providers, and room for those that come and go. At
/// some 500 bytes each with their keys, 60 MB. When it is full, whoever brought most makes room.
pub(crate) const ANNOUNCEMENTS: usize = 120_000;
/// Sequence numbers that are remembered of providers that are gone.
pub(crate) const SEQUENCE_FLOORS: usize = 120_000;
/// Bytes of offer lists that are kept for others and for the node. When it is full, whoever brought most makes room.
pub(crate) const LIST_BYTES_TOTAL: usize = 96 * 1024 * 1024;
/// Gossiped batches of announcements waiting to be judged: 8 MiB, and half a second's worth of signature
/// checks when they are full. What does not fit is not spread, and comes back with a reconciliation.
pub(crate) const ANNOUNCEMENT_QUEUE: usize = 256;
/// Batches that are judged before others are served.
pub(crate) const BATCHES_PER_TURN: usize = 2;
/// What is to be handed on within this goes together: a message alone wakes three tasks of each neighbour,
/// which costs ten times what checking a signature does. The first after a pause does not wait, and six hops
/// of a busy network take a second.
pub(crate) const HAND_ON_GATHER: Duration = Duration::from_millis(200);
/// Providers whose announcements wait to be handed on.
pub(crate) const OUTBOX: usize = 8192;
/// Of these, those of one neighbour: half of a second in a network of 300,000 providers.
pub(crate) const OUTBOX_PER_NEIGHBOUR: usize = 512;
/// Messages for one neighbour that does not read: 2 MiB of batches.
pub(crate) const ANNOUNCEMENT_BACKLOG: usize = 64;
/// Neighbours that hear the beacon of who sees 0.1 peers: more than there are connections.
pub(crate) const BEACON_MESH: usize = 100_000;
/// Of these, those that are handed on together: 2500 a second.
pub(crate) const OUTBOX_PER_TURN: usize = 512;
/// Announcements that wait for their list before they are spread.
pub(crate) const HELD_ANNOUNCEMENTS: usize = 8192;
/// Of these, those of one forwarder: changes of a second in a network of 100,000 providers.
pub(crate) const HELD_PER_FORWARDER: usize = 512;
/// How long an announcement waits for its list. It is not spread without: nobody passes on what it
/// can't give.
pub(crate) const HOLD: Duration = Duration::from_secs(4);
/// Requests to the task that owns the directory; those who ask wait.
pub(crate) const DISCOVERY_QUEUE: usize = 64;
/// What the swarm task tells that task: a sleep now and then, and one stop.
pub(crate) const ORDER_QUEUE: usize = 8;
/// News of providers waiting for the node. The task keeps what does not fit.
pub(crate) const OFFER_QUEUE: usize = 64;
/// Requests for lists at the same time.
pub(crate) const PULLS: usize = 64;
/// Of these to one peer, so that those that stall leave places to others.
pub(crate) const PULLS_PER_PEER: usize = 2;
/// The last places are for peers of whom nothing is asked so far.
pub(crate) const PULLS_KEPT: usize = 16;
/// Peers of whom is remembered how they answered: several times those connected.
pub(crate) const PULL_SOURCES: usize = 1024;
/// Lists for which their provider waits to be dialled. Others have to give the next.
pub(crate) const STRANGERS: usize = 64;
/// Of these to providers that are not connected: each is a dial.
pub(crate) const STRANGER_PULLS: usize = 4;
/// A connected peer begins to answer a request for lists within this, or others are asked: a change
/// is to reach everybody within 5 s also past one who stalls.
pub(crate) const PULL_BEGINS: Duration = Duration::from_secs(2);
/// Bytes a second at which the lists come behind that, all of a request together.
pub(crate) const PULL_PACE: u64 = 64 * 1024;
/// Reconciliations that this node has under way.
pub(crate) const RECONCILIATIONS: usize = 4;
/// One reconciliation: a hundred thousand announcements over 2 Mbit/s. What came stays.
pub(crate) const RECONCILE_DEADLINE: Duration = Duration::from_secs(120);
/// Peers that wait for the reconciliation at their connection. Beyond it, the periodic one comes.
pub(crate) const RECONCILE_QUEUE: usize = 512;
/// Round trips of one reconciliation; each halves what is left at least sixteenfold, or moves 8000
/// ids.
pub(crate) const RECONCILE_ROUNDS: u32 = 48;
/// Announcements that one reconciliation may bring.
pub(crate) const RECONCILE_IDS: usize = ANNOUNCEMENTS;
/// One exchange of the discovery protocol, opening included.
pub(crate) const DISCOVERY_DEADLINE: Duration = Duration::from_secs(20);
/// Exchanges of one peer that are served at the same time.
pub(crate) const DISCOVERY_PER_PEER: usize = 8;
/// Requests of over 16 KiB that are held in memory at the same time.
pub(crate) const LARGE_DISCOVERY: usize = 32;
