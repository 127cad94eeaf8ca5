//! Size caps of everything that comes from outside. A length is checked against its cap before
//! memory is taken for it.

/// A gossip heartbeat's CBOR. Gossipsub drops messages over 65,536 bytes, and that counts the
/// envelope too: source, sequence number, topic, signature, about 250 bytes. The rest is slack.
pub const HEARTBEAT_BYTES: usize = 64_000;

/// A request on `/derouter/reqres/0.1.0`, fixed by the libp2p CBOR codec that 0.1 peers use.
pub const REQRES_REQUEST_BYTES: usize = 1024 * 1024;

/// A response on `/derouter/reqres/0.1.0`, fixed like the request.
pub const REQRES_RESPONSE_BYTES: usize = 10 * 1024 * 1024;

/// A head on a job stream. Real ones are under 200 bytes; error texts may be longer.
pub const STREAM_HEAD_BYTES: usize = 64 * 1024;

/// An RPC frame between module and node. A `ConsumerCreateJob` holds a whole prompt.
pub const RPC_FRAME_BYTES: usize = 8 * 1024 * 1024;

/// Substreams of one module's RPC connection. JavaScript modules leak one for each job.
pub const RPC_STREAMS: usize = 4096;

/// Ids in one `QueryOfferSnapshots` or `QueryProviders`, rows in one `QueryJobs` or `QueryPeers`.
pub const RPC_QUERY_ITEMS: usize = 100;

/// Requests of one RPC connection in work. Further ones wait unread, so that a module that floods
/// slows itself alone.
pub const RPC_IN_FLIGHT: usize = 256;

/// Subscriptions of one RPC connection. A module needs three.
pub const RPC_SUBSCRIPTIONS: usize = 64;

/// The longest deadline of a request (RPC 0.2), in milliseconds: longer than anything that a node
/// waits for. What asks for more gets this.
pub const RPC_DEADLINE_MILLISECONDS: u64 = 120_000;

/// A first frame of whoever must prove itself first, in bytes. A `Hello` is some 300.
pub const RPC_HELLO_BYTES: usize = 16 * 1024;

/// Names in a `Hello`: features, capabilities.
pub const RPC_HELLO_NAMES: usize = 64;

/// A name or version in a `Hello`, in bytes.
pub const RPC_NAME_BYTES: usize = 128;

/// A cursor of a subscription or a list, in bytes. Ours are under 60 but for offers, whose names
/// are part of it.
pub const RPC_CURSOR_BYTES: usize = 2048;

/// Bytes of what one module tells of itself. A provider of a thousand offers tells about as much.
pub const RPC_MODULE_STATE_BYTES: usize = 2 * 1024 * 1024;

/// Milliseconds that one `PingPeer` may wait: longer than any dial, and short for who waits.
pub const RPC_PING_MILLISECONDS: u64 = 60_000;

/// A multiaddr in a request, in bytes. Real ones are under 200.
pub const ADDRESS_BYTES: usize = 1024;

/// Peer or protocol ids in one RPC filter. More than any user interface shows.
pub const RPC_FILTER_ITEMS: usize = 1024;

/// `protocol_id` of an offer, in bytes.
pub const PROTOCOL_ID_BYTES: usize = 128;

/// `offer_id`, in bytes.
pub const OFFER_ID_BYTES: usize = 256;

/// `provider_job_id`, in bytes. 0.1 peers send a UUID of 36.
pub const JOB_ID_BYTES: usize = 256;

/// An offer's `protocol_payload`, in bytes: what fits a heartbeat next to nothing else.
pub const OFFER_PAYLOAD_BYTES: usize = HEARTBEAT_BYTES;

/// `public_payload` of a job, in bytes. It is hashed and kept for good, so it stays small.
pub const PUBLIC_PAYLOAD_BYTES: usize = 256 * 1024;

/// `private_payload` of a job, in bytes.
pub const PRIVATE_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

/// Failure reasons and other short texts from outside, in bytes. Longer ones are cut.
pub const REASON_BYTES: usize = 4096;

/// Entries of a CBOR map whose keys we look at one by one (frames and tagged results).
pub const CBOR_MAP_ENTRIES: usize = 64;

/// A signed announcement (0.2). Small enough that a node hears ten thousand providers for some
/// kilobytes a second.
pub const ANNOUNCEMENT_BYTES: usize = 512;

/// The longest that one announcement holds, in seconds: three refreshes.
pub const LASTING_SECS: u32 = 900;

/// Announcements that a node hands on in one message.
pub const BATCH_ANNOUNCEMENTS: usize = 64;

/// Such a message.
pub const BATCH_BYTES: usize = BATCH_ANNOUNCEMENTS * (ANNOUNCEMENT_BYTES + 3) + 16;

/// Protocol tags in an announcement.
pub const ANNOUNCEMENT_TAGS: usize = 16;

/// Addresses in an announcement.
pub const ANNOUNCEMENT_ADDRESSES: usize = 4;

/// The list of a provider's offers (0.2), in bytes: it is pulled by everyone who hears of it.
pub const OFFER_LIST_BYTES: usize = 256 * 1024;

/// Offers in such a list. A provider of more would fill every consumer's index on its own.
pub const OFFER_LIST_OFFERS: usize = 1024;

/// Lists that one request may ask for.
pub const PULL_LISTS: usize = 64;

/// What the answer to such a request holds at most; what does not fit is asked for again.
pub const PULL_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// A message of a set reconciliation: some 8000 ids.
pub const RECONCILE_BYTES: usize = 256 * 1024;

/// Announcements in one request or answer: at most 300 KiB.
pub const FETCH_IDS: usize = 512;

/// A request of the discovery protocol: one that offers [`FETCH_IDS`] announcements.
pub const DISCOVERY_REQUEST_BYTES: usize = FETCH_IDS * (ANNOUNCEMENT_BYTES + 48) + 64;

/// A call on the jobs protocol (0.2). The largest tells of [`SETTLE_JOBS`] jobs.
pub const JOB_CALL_BYTES: usize = 64 * 1024;

/// An answer on it. The largest holds the outcome of a job.
pub const JOB_ANSWER_BYTES: usize = PUBLIC_PAYLOAD_BYTES + 16 * 1024;

/// The arguments of a job (0.2), in bytes: as much as wire 0.1 carries.
pub const JOB_ARGS_BYTES: usize = 1024 * 1024;

/// Jobs that one call settles.
pub const SETTLE_JOBS: usize = 64;

/// The reason in a notice that a job was given up, in bytes: [`SETTLE_JOBS`] of them fit a call.
pub const NOTICE_REASON_BYTES: usize = 512;
