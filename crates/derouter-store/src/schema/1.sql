-- Peer ids are multihash bytes, amounts decimal wei text, times whole Unix seconds.

-- Providers as last announced, ourselves among them.
CREATE TABLE providers (
  peer_id             BLOB NOT NULL PRIMARY KEY,
  name                TEXT,
  teaser              TEXT,
  description         TEXT,
  updated_at          INTEGER NOT NULL CHECK (updated_at >= 0),          -- by the provider's clock
  heartbeat_timestamp INTEGER NOT NULL CHECK (heartbeat_timestamp >= 0), -- by the provider's clock
  heard_at            INTEGER NOT NULL CHECK (heard_at >= 0)             -- by our clock
) STRICT, WITHOUT ROWID;

-- A row stands for one (provider, protocol, offer, payload), for ever. Payloads are up to 64 KB,
-- so the index has their digest.
CREATE TABLE offer_snapshots (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  provider       BLOB NOT NULL,
  protocol_id    TEXT NOT NULL,
  offer_id       TEXT NOT NULL,
  payload        TEXT NOT NULL,
  payload_sha256 BLOB NOT NULL CHECK (length(payload_sha256) = 32),
  UNIQUE (provider, protocol_id, offer_id, payload_sha256)
) STRICT;

-- One row for each side of a job that this node is on. AUTOINCREMENT: a row id is never given
-- twice, as modules page by it.
CREATE TABLE jobs (
  id                 INTEGER PRIMARY KEY AUTOINCREMENT,
  role               TEXT NOT NULL CHECK (role IN ('consumer', 'provider')),
  provider           BLOB NOT NULL,
  job_id             TEXT NOT NULL,
  consumer           BLOB NOT NULL,
  snapshot_id        INTEGER NOT NULL REFERENCES offer_snapshots (id),
  protocol_id        TEXT NOT NULL, -- the snapshot's, for the index
  currency           INTEGER NOT NULL,
  created_at_sync    INTEGER NOT NULL CHECK (created_at_sync >= 0),
  created_at_local   INTEGER NOT NULL CHECK (created_at_local >= 0),
  job_args           TEXT, -- only when payloads are to be stored
  private_payload    TEXT,
  state              TEXT NOT NULL
    CHECK (state IN ('open', 'failed', 'awaited', 'undelivered', 'refused', 'confirmed')),
  -- failed
  failure_reason     TEXT,
  failure_class      INTEGER,
  failed_at_local    INTEGER,
  -- completed: awaited, undelivered, refused or confirmed
  public_payload     TEXT,
  balance_delta      TEXT, -- NULL also for a free job
  completed_at_sync  INTEGER,
  completed_at_local INTEGER,
  -- signed: undelivered, refused or confirmed
  signature          BLOB,
  delivery_attempts  INTEGER,
  confirmation_error TEXT,
  confirmed_at_local INTEGER,

  UNIQUE (role, provider, job_id),
  CHECK (role = 'provider' OR state <> 'awaited'),
  CHECK (role = 'consumer' OR state NOT IN ('undelivered', 'refused')),
  CHECK ((state = 'failed') = (failure_reason IS NOT NULL)),
  CHECK ((state = 'failed') = (failed_at_local IS NOT NULL)),
  CHECK (state = 'failed' OR failure_class IS NULL),
  CHECK ((state IN ('open', 'failed')) = (public_payload IS NULL)),
  CHECK ((state IN ('open', 'failed')) = (completed_at_sync IS NULL)),
  CHECK ((state IN ('open', 'failed')) = (completed_at_local IS NULL)),
  CHECK (state NOT IN ('open', 'failed') OR balance_delta IS NULL),
  CHECK ((state IN ('undelivered', 'refused', 'confirmed')) = (signature IS NOT NULL)),
  CHECK ((state = 'undelivered') = (delivery_attempts IS NOT NULL)),
  CHECK (state <> 'refused' OR confirmation_error IS NOT NULL),
  CHECK (state IN ('undelivered', 'refused') OR confirmation_error IS NULL),
  CHECK ((state = 'confirmed') = (confirmed_at_local IS NOT NULL))
) STRICT;

-- Pages of jobs come in the order of row ids, which every index ends with.
CREATE INDEX jobs_by_provider ON jobs (provider);
CREATE INDEX jobs_by_consumer ON jobs (consumer);
CREATE INDEX jobs_by_protocol ON jobs (protocol_id);
CREATE INDEX jobs_by_snapshot ON jobs (snapshot_id);
-- What has to be done still: small, whatever the number of jobs.
CREATE INDEX jobs_undelivered ON jobs (state) WHERE state = 'undelivered';
CREATE INDEX jobs_awaited ON jobs (state) WHERE state = 'awaited';
CREATE INDEX jobs_open ON jobs (role) WHERE state = 'open';

-- Our own announcements' clock, so that it never goes back over a restart. One row.
CREATE TABLE announcement_clock (
  id              INTEGER PRIMARY KEY CHECK (id = 1),
  updated_at      INTEGER NOT NULL CHECK (updated_at >= 0),
  digest          BLOB NOT NULL CHECK (length(digest) = 32),
  heartbeat_floor INTEGER NOT NULL CHECK (heartbeat_floor >= 0)
) STRICT;

-- Peers with the addresses under which they were last reached.
CREATE TABLE peers (
  peer_id      BLOB NOT NULL PRIMARY KEY,
  connected_at INTEGER NOT NULL CHECK (connected_at >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX peers_by_time ON peers (connected_at);
CREATE TABLE peer_addresses (
  peer_id BLOB NOT NULL REFERENCES peers (peer_id) ON DELETE CASCADE,
  rank    INTEGER NOT NULL, -- 0 is the best
  address TEXT NOT NULL,
  PRIMARY KEY (peer_id, rank)
) STRICT, WITHOUT ROWID;

-- Databases of 0.1.0 that were imported, by what tells a file from its later self.
CREATE TABLE legacy_imports (
  path        TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  imported_at INTEGER NOT NULL,
  PRIMARY KEY (path, fingerprint)
) STRICT, WITHOUT ROWID;
