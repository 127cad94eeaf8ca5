-- Jobs of wire 0.2: how far an open job is, who ended a failed one and whether the other side knows,
-- disputes, and the provider's signature. SQLite can't change a CHECK, so the table is made anew.
CREATE TABLE jobs_new (
  id                 INTEGER PRIMARY KEY AUTOINCREMENT,
  wire               INTEGER NOT NULL CHECK (wire IN (1, 2)), -- 0.1 or 0.2
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
  state              TEXT NOT NULL CHECK (state IN ('created', 'accepted', 'running', 'failed',
                       'awaited', 'disputed', 'undelivered', 'refused', 'confirmed')),
  -- 1 while the other side is to be told of something
  news               INTEGER NOT NULL CHECK (news IN (0, 1)),
  -- failed
  failure_cause      TEXT,
  failure_reason     TEXT,
  failure_class      INTEGER,
  failed_at_local    INTEGER,
  notice             TEXT CHECK (notice IN ('unneeded', 'undelivered', 'delivered')),
  -- completed: awaited, disputed, undelivered, refused or confirmed
  public_payload     TEXT,
  balance_delta      TEXT, -- NULL also for a free job
  completed_at_sync  INTEGER,
  completed_at_local INTEGER,
  provider_signature BLOB, -- wire 0.2
  -- signed: undelivered, refused or confirmed
  signature          BLOB,
  delivery_attempts  INTEGER, -- while there is news
  confirmation_error TEXT,    -- also why a job is disputed
  disputed_at_local  INTEGER,
  confirmed_at_local INTEGER,

  UNIQUE (role, provider, job_id),
  CHECK (role = 'provider' OR state NOT IN ('awaited', 'disputed')),
  CHECK (role = 'consumer' OR state NOT IN ('created', 'undelivered', 'refused')),
  CHECK ((state = 'failed') = (failure_cause IS NOT NULL)),
  CHECK ((state = 'failed') = (failure_reason IS NOT NULL)),
  CHECK ((state = 'failed') = (failed_at_local IS NOT NULL)),
  CHECK ((state = 'failed') = (notice IS NOT NULL)),
  CHECK (state = 'failed' OR failure_class IS NULL),
  CHECK ((state IN ('created', 'accepted', 'running', 'failed')) = (public_payload IS NULL)),
  CHECK ((state IN ('created', 'accepted', 'running', 'failed')) = (completed_at_sync IS NULL)),
  CHECK ((state IN ('created', 'accepted', 'running', 'failed')) = (completed_at_local IS NULL)),
  CHECK (public_payload IS NOT NULL OR balance_delta IS NULL),
  CHECK (public_payload IS NOT NULL OR provider_signature IS NULL),
  CHECK (wire = 2 OR provider_signature IS NULL),
  CHECK ((state IN ('undelivered', 'refused', 'confirmed')) = (signature IS NOT NULL)),
  CHECK ((news = 1) = (state = 'undelivered' OR coalesce(notice = 'undelivered', 0))),
  CHECK ((news = 1) = (delivery_attempts IS NOT NULL)),
  CHECK (state NOT IN ('refused', 'disputed') OR confirmation_error IS NOT NULL),
  CHECK (state IN ('undelivered', 'refused', 'disputed') OR confirmation_error IS NULL),
  CHECK ((state = 'disputed') = (disputed_at_local IS NOT NULL)),
  CHECK ((state = 'confirmed') = (confirmed_at_local IS NOT NULL))
) STRICT;

INSERT INTO jobs_new (id, wire, role, provider, job_id, consumer, snapshot_id, protocol_id, currency,
  created_at_sync, created_at_local, job_args, private_payload, state, news, failure_cause,
  failure_reason, failure_class, failed_at_local, notice, public_payload, balance_delta,
  completed_at_sync, completed_at_local, signature, delivery_attempts, confirmation_error,
  confirmed_at_local)
SELECT id, 1, role, provider, job_id, consumer, snapshot_id, protocol_id, currency,
  created_at_sync, created_at_local, job_args, private_payload,
  iif(state = 'open', 'accepted', state), state = 'undelivered',
  iif(state = 'failed', role || '-gave-up', NULL),
  failure_reason, failure_class, failed_at_local, iif(state = 'failed', 'unneeded', NULL),
  public_payload, balance_delta, completed_at_sync, completed_at_local, signature,
  delivery_attempts, confirmation_error, confirmed_at_local
FROM jobs ORDER BY id;

-- A row id is never given twice, also when the latest jobs are not there any more.
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'jobs')
WHERE name = 'jobs_new';
DROP TABLE jobs;
ALTER TABLE jobs_new RENAME TO jobs;

-- Pages of jobs come in the order of row ids, which every index ends with.
CREATE INDEX jobs_by_provider ON jobs (provider);
CREATE INDEX jobs_by_consumer ON jobs (consumer);
CREATE INDEX jobs_by_protocol ON jobs (protocol_id);
CREATE INDEX jobs_by_snapshot ON jobs (snapshot_id);
-- What has to be done still: small, whatever the number of jobs.
CREATE INDEX jobs_with_news ON jobs (news) WHERE news = 1;
CREATE INDEX jobs_awaited ON jobs (completed_at_local) WHERE state = 'awaited';
CREATE INDEX jobs_open ON jobs (role) WHERE state IN ('created', 'accepted', 'running');
-- What is owed without a signature, added up at each start: with all that is needed for that, as
-- consumers that never sign leave rows for ever.
CREATE INDEX jobs_debts ON jobs (consumer, balance_delta, state)
  WHERE state IN ('awaited', 'disputed') AND balance_delta IS NOT NULL;
-- Payloads that may be forgotten, oldest first, each with its bytes, so that their size is known
-- without reading them. (Not octet_length: other tools' SQLite may not know it.)
CREATE INDEX jobs_payloads ON jobs (
  created_at_local,
  id,
  iif(state IN ('created', 'accepted', 'running', 'undelivered'), 0,
    ifnull(length(CAST(job_args AS BLOB)), 0) + ifnull(length(CAST(private_payload AS BLOB)), 0))
) WHERE iif(state IN ('created', 'accepted', 'running', 'undelivered'), 0,
    ifnull(length(CAST(job_args AS BLOB)), 0) + ifnull(length(CAST(private_payload AS BLOB)), 0)) > 0;
-- A module asks for the jobs of its protocol with this node on one side: without these, one whose
-- protocol is rare on a node with many jobs would have all of them read.
CREATE INDEX jobs_by_provider_protocol ON jobs (provider, protocol_id);
CREATE INDEX jobs_by_consumer_protocol ON jobs (consumer, protocol_id);
