-- The whole schema of the node's database. Applied once to an empty database; later changes come as
-- numbered forward steps. Amounts are integers in the smallest unit of their asset.
--
-- Every write to tenants, assets, peers, peer_routes and incoming_tokens moves directory_version and
-- notifies the channel "directory": workers then load a new directory. These tables change at the
-- pace of people; nothing on a packet's way reads or writes them.

-- Which numbered step this database has reached. One row; a worker refuses a version it does not know.
CREATE TABLE schema_version (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    version integer NOT NULL CHECK (version > 0)
);
INSERT INTO schema_version (version) VALUES (1);

-- An ILP amount.
CREATE DOMAIN amount_u64 AS numeric(20, 0) CHECK (VALUE BETWEEN 0 AND 18446744073709551615);

-- An ILP address (RFC 15).
CREATE DOMAIN ilp_address AS text CHECK (
    char_length(VALUE) <= 1023
    AND VALUE ~ '^(g|private|example|peer|self|test[1-3]?|local)([.][A-Za-z0-9_~-]+)+$'
);

-- A route's prefix: an address or its beginning on whole segments; '' is the default route. What
-- begins with "peer" or "self" belongs to one link or one host and is never routed.
CREATE DOMAIN ilp_prefix AS text CHECK (
    VALUE = ''
    OR (
        char_length(VALUE) <= 1023
        AND VALUE ~ '^(g|private|example|test[1-3]?|local)([.][A-Za-z0-9_~-]+)*$'
    )
);

-- Whoever has assets and peers of his own. Exactly one is the operator, written at the first start
-- from OPERATOR_TENANT_ID. ilp_address NULL: ILP_ADDRESS for the operator, ILP_ADDRESS.<id> for others.
CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    name text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    is_operator boolean NOT NULL DEFAULT false,
    ilp_address ilp_address,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CHECK (NOT is_operator OR deleted_at IS NULL)
);
CREATE UNIQUE INDEX tenants_operator ON tenants (is_operator) WHERE is_operator;

-- The number of an asset's ledger, also the id of its settlement account. Never used twice.
CREATE SEQUENCE asset_ledger_seq AS smallint MINVALUE 1 MAXVALUE 32767 NO CYCLE;

-- One currency of one tenant in one scale. The row is written after its ledger accounts exist, and
-- outlives its removal (deleted_at), because those accounts do: adding it again brings it back.
CREATE TABLE assets (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    code text NOT NULL CHECK (code ~ '^[A-Za-z0-9._-]{1,32}$'),
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 255),
    ledger smallint NOT NULL UNIQUE CHECK (ledger > 0),
    liquidity_threshold amount_u64,
    withdrawal_threshold amount_u64,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (code, scale, tenant_id),
    UNIQUE (tenant_id, id)
);
ALTER SEQUENCE asset_ledger_seq OWNED BY assets.ledger;

-- A node we exchange packets with, in one asset. The row is written after its ledger account exists,
-- and outlives its removal, so that a balance can always be traced. outgoing_token is encrypted
-- (AES-256-GCM under DB_ENCRYPTION_SECRET, bound to the id). max_packet_amount and
-- max_in_flight_amount: 0 = no limit. Both halves of a rate limit or none.
CREATE TABLE peers (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants,
    asset_id uuid NOT NULL,
    name text NOT NULL DEFAULT '' CHECK (char_length(name) <= 200),
    static_ilp_address ilp_address NOT NULL CHECK (static_ilp_address !~ '^(peer|self)[.]'),
    outgoing_endpoint text CHECK (
        char_length(outgoing_endpoint) <= 2048 AND outgoing_endpoint ~ '^https?://[^@/?#]+(/[^@]*)?$'
    ),
    outgoing_token bytea CHECK (octet_length(outgoing_token) BETWEEN 29 AND 8192),
    max_packet_amount amount_u64 NOT NULL DEFAULT 0,
    liquidity_threshold amount_u64,
    packets_per_second integer CHECK (packets_per_second > 0),
    packets_burst integer CHECK (packets_burst > 0),
    amount_per_second amount_u64 CHECK (amount_per_second > 0),
    amount_burst amount_u64 CHECK (amount_burst > 0),
    max_in_flight integer NOT NULL DEFAULT 1000 CHECK (max_in_flight BETWEEN 1 AND 1000000),
    max_in_flight_amount amount_u64 NOT NULL DEFAULT 0,
    pipeline_depth integer NOT NULL DEFAULT 1 CHECK (pipeline_depth BETWEEN 1 AND 256),
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    FOREIGN KEY (tenant_id, asset_id) REFERENCES assets (tenant_id, id),
    CHECK ((outgoing_endpoint IS NULL) = (outgoing_token IS NULL)),
    CHECK ((packets_per_second IS NULL) = (packets_burst IS NULL)),
    CHECK ((amount_per_second IS NULL) = (amount_burst IS NULL))
);
CREATE UNIQUE INDEX peers_address ON peers (asset_id, static_ilp_address) WHERE deleted_at IS NULL;

-- Prefixes that a peer carries besides its own address.
CREATE TABLE peer_routes (
    peer_id uuid NOT NULL REFERENCES peers,
    prefix ilp_prefix NOT NULL,
    PRIMARY KEY (peer_id, prefix)
);

-- What peers authenticate with, as SHA-256 digests. A peer has several while one replaces another.
CREATE TABLE incoming_tokens (
    id uuid PRIMARY KEY,
    peer_id uuid NOT NULL REFERENCES peers,
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX incoming_tokens_peer ON incoming_tokens (peer_id);

-- Numbers the starts of workers: the tag by which a later start finds what a dead one left in the
-- ledger. 24 bits, because that is the room in a transfer's user_data_32.
CREATE SEQUENCE ledger_slot_seq AS integer MINVALUE 1 MAXVALUE 16777215 CYCLE;

-- What is owed but could not be booked, for clearing between people. base: the packet's id.
-- unpaid - the peer got our fulfil and its balance was gone; owed - we owe the peer and our liquidity
-- was gone; unacknowledged, answered_late - the peer was debited and may not have heard of it.
CREATE TABLE ledger_claims (
    peer_id uuid NOT NULL REFERENCES peers,
    base uuid NOT NULL,
    reason text NOT NULL CHECK (reason IN ('unpaid', 'owed', 'unacknowledged', 'answered_late')),
    amount amount_u64 NOT NULL CHECK (amount > 0),
    asset_id uuid NOT NULL REFERENCES assets,
    fulfillment bytea NOT NULL CHECK (octet_length(fulfillment) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_id, base, reason)
);

-- Grows with every change of what a directory is built from. Read in one snapshot with the rest.
CREATE TABLE directory_version (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    version bigint NOT NULL CHECK (version > 0)
);
INSERT INTO directory_version (version) VALUES (1);

CREATE FUNCTION directory_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    new_version bigint;
BEGIN
    UPDATE directory_version SET version = version + 1 RETURNING version INTO new_version;
    PERFORM pg_notify('directory', new_version::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON assets
    FOR EACH STATEMENT EXECUTE FUNCTION directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON peers
    FOR EACH STATEMENT EXECUTE FUNCTION directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON peer_routes
    FOR EACH STATEMENT EXECUTE FUNCTION directory_changed();
CREATE TRIGGER directory_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON incoming_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION directory_changed();

-- ledger: begin
CREATE TABLE ledger_accounts (
    id uuid PRIMARY KEY
);
-- ledger: end
