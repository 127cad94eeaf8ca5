-- The order in which jobs changed, so that a watcher can go on from where it was, also after a
-- restart: each job's latest change, with a number that is never used again. The triggers are its
-- only writers.
CREATE TABLE job_changes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  job INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO job_changes (job) SELECT id FROM jobs ORDER BY id;
CREATE TRIGGER job_was_made AFTER INSERT ON jobs BEGIN
  INSERT INTO job_changes (job) VALUES (new.id);
END;
CREATE TRIGGER job_was_changed AFTER UPDATE ON jobs BEGIN
  DELETE FROM job_changes WHERE job = new.id;
  INSERT INTO job_changes (job) VALUES (new.id);
END;
CREATE TRIGGER job_was_forgotten AFTER DELETE ON jobs BEGIN
  DELETE FROM job_changes WHERE job = old.id;
END;

-- What tells this history from that of another database. One row.
CREATE TABLE job_history (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id  BLOB NOT NULL CHECK (length(id) = 8)
) STRICT;
INSERT INTO job_history (one, id) VALUES (1, randomblob(8));
