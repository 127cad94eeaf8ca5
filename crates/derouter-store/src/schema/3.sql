-- Payloads that may be forgotten, oldest first, each with its bytes, so that their size is known
-- without reading them. (Not octet_length: other tools' SQLite may not know it.)
CREATE INDEX jobs_payloads ON jobs (
  created_at_local,
  id,
  iif(state IN ('open', 'undelivered'), 0, ifnull(length(CAST(job_args AS BLOB)), 0)
    + ifnull(length(CAST(private_payload AS BLOB)), 0))
) WHERE iif(state IN ('open', 'undelivered'), 0, ifnull(length(CAST(job_args AS BLOB)), 0)
    + ifnull(length(CAST(private_payload AS BLOB)), 0)) > 0;

-- What is owed without a signature, added up at each start: with all that is needed for that, as
-- consumers that never sign leave rows for ever.
DROP INDEX jobs_awaited;
CREATE INDEX jobs_debts ON jobs (consumer, balance_delta)
  WHERE state = 'awaited' AND balance_delta IS NOT NULL;

-- A module asks for the jobs of its protocol with this node on one side: without these, one whose
-- protocol is rare on a node with many jobs would have all of them read.
CREATE INDEX jobs_by_provider_protocol ON jobs (provider, protocol_id);
CREATE INDEX jobs_by_consumer_protocol ON jobs (consumer, protocol_id);
