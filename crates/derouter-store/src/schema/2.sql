-- What the peer book knows beside addresses. A `connected_at` of 0 means never.
ALTER TABLE peers ADD COLUMN agent TEXT;
ALTER TABLE peers ADD COLUMN relays INTEGER NOT NULL DEFAULT 0 CHECK (relays IN (0, 1));
-- Misbehaviour: 0 is good, at -100 a peer is banned.
ALTER TABLE peers ADD COLUMN score REAL NOT NULL DEFAULT 0 CHECK (score BETWEEN -100 AND 0);
ALTER TABLE peers ADD COLUMN score_at INTEGER NOT NULL DEFAULT 0 CHECK (score_at >= 0);
ALTER TABLE peers ADD COLUMN banned_until INTEGER CHECK (banned_until >= 0);
ALTER TABLE peers ADD COLUMN bans INTEGER NOT NULL DEFAULT 0 CHECK (bans >= 0);
ALTER TABLE peer_addresses ADD COLUMN last_success INTEGER CHECK (last_success >= 0);
