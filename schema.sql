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
        char_length(outgoing_endpoint) <= 2048 AND outgoing_endpoint ~ '^https?://[!"$-.0->A-Z\[-~]+([/?][!"$-?A-Z\[-~]*)?$'
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
-- The Postgres ledger: TigerBeetle's rules in one call for each batch (connector/ledger/postgres.py).
-- Ids and 128-bit user data are uuids; unsigned 64 and 32 bit user data are stored as the signed
-- integers of the same bits. Timestamps are ns since the epoch, unique, and grow for each account
-- in the order of commits. Statuses are TigerBeetle's numbers (connector/ledger/ledger.py).
--
-- Locks: every writer takes its accounts in the order of their ids before it touches anything else,
-- so writers queue and never wait in a circle; a pending transfer changes only under the locks of
-- both its accounts.

CREATE TABLE ledger_accounts (
    id uuid PRIMARY KEY,
    user_data_128 uuid NOT NULL,
    user_data_64 bigint NOT NULL,
    user_data_32 integer NOT NULL,
    ledger bigint NOT NULL,
    code integer NOT NULL,
    flags integer NOT NULL,
    timestamp bigint NOT NULL UNIQUE,
    debits_pending numeric(39) NOT NULL DEFAULT 0,
    debits_posted numeric(39) NOT NULL DEFAULT 0,
    credits_pending numeric(39) NOT NULL DEFAULT 0,
    credits_posted numeric(39) NOT NULL DEFAULT 0,
    -- Limits hold at every instant: a second lock on the door of the functions below.
    CONSTRAINT balances_not_negative CHECK (
        debits_pending >= 0 AND debits_posted >= 0 AND credits_pending >= 0 AND credits_posted >= 0
    ),
    CONSTRAINT debits_must_not_exceed_credits CHECK (
        flags & 2 = 0 OR debits_pending + debits_posted <= credits_posted
    ),
    CONSTRAINT credits_must_not_exceed_debits CHECK (
        flags & 4 = 0 OR credits_pending + credits_posted <= debits_posted
    )
-- Room on each page, so that a new version of a row stays on it and no index is touched.
) WITH (fillfactor = 30);

-- Every transfer as it was applied, for ever; rows are only ever inserted.
CREATE TABLE ledger_transfers (
    timestamp bigint NOT NULL,
    user_data_64 bigint NOT NULL,
    ledger bigint NOT NULL,
    timeout bigint NOT NULL,
    user_data_32 integer NOT NULL,
    code integer NOT NULL,
    flags integer NOT NULL,
    id uuid NOT NULL,
    debit_account_id uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    user_data_128 uuid NOT NULL,
    pending_id uuid, -- of a post or void
    amount numeric(39) NOT NULL,
    CONSTRAINT ledger_transfers_pkey PRIMARY KEY (id)
);
CREATE INDEX ledger_transfers_debit ON ledger_transfers (debit_account_id, timestamp);
CREATE INDEX ledger_transfers_credit ON ledger_transfers (credit_account_id, timestamp);
CREATE UNIQUE INDEX ledger_transfers_timestamp ON ledger_transfers (timestamp);
-- A pending transfer is resolved once, whatever else goes wrong.
CREATE UNIQUE INDEX ledger_transfers_pending ON ledger_transfers (pending_id)
    WHERE pending_id IS NOT NULL;

-- Pending transfers that are neither posted, voided nor expired. A pending transfer that is absent
-- here was resolved by the transfer that has its id as pending_id, or, if there is none, expired.
CREATE TABLE ledger_pendings (
    expires_at bigint NOT NULL, -- ns; the largest bigint: never
    user_data_64 bigint NOT NULL, -- decision deadline of a packet, ms
    ledger bigint NOT NULL,
    user_data_32 integer NOT NULL,
    slot integer NOT NULL, -- low 24 bits of user_data_32: the worker start that made it
    code integer NOT NULL,
    id uuid NOT NULL,
    debit_account_id uuid NOT NULL,
    credit_account_id uuid NOT NULL,
    user_data_128 uuid NOT NULL,
    amount numeric(39) NOT NULL,
    CONSTRAINT ledger_pendings_pkey PRIMARY KEY (id)
) WITH (
    -- Rows live for milliseconds, so vacuum is due by their number, not by a share of the table.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000,
    autovacuum_analyze_threshold = 1000000000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX ledger_pendings_expiry ON ledger_pendings (expires_at);
CREATE INDEX ledger_pendings_slot ON ledger_pendings (slot, user_data_64);

-- Ids of deposits and withdrawals (codes 2 and 3) that were refused for a passing reason: spent.
CREATE TABLE ledger_refusals (
    id uuid PRIMARY KEY
);

CREATE SEQUENCE ledger_clock AS bigint;

CREATE TYPE ledger_event AS (
    id uuid,
    debit_account_id uuid,
    credit_account_id uuid,
    amount bigint, -- of a post, -1: all of it
    pending_id uuid,
    user_data_128 uuid,
    user_data_64 bigint,
    user_data_32 integer,
    timeout bigint,
    ledger bigint,
    code integer,
    flags integer
);

CREATE FUNCTION ledger_now() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000;

-- Give out `events` timestamps; returns the first. The lock is held for microseconds, not until the
-- commit: writers of different accounts must not wait for each other's disk. Whoever is cut off
-- between lock and unlock must end his session (connector/ledger/postgres.py does).
CREATE FUNCTION ledger_timestamps(events integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
BEGIN
    PERFORM pg_advisory_lock(1279542343, 1);
    SELECT greatest(ledger_now(), last_value + 1) INTO first FROM ledger_clock;
    PERFORM setval('ledger_clock', first + events - 1);
    PERFORM pg_advisory_unlock(1279542343, 1);
    RETURN first;
END $$;

-- Apply events one after the other, in memory, then write what they came to; the locks are the
-- caller's. This path knows every rule and every dependency between events; the set-based one is
-- for the rest.
--
-- numbers: the events to apply, from 1, ascending, whole chains. accounts: every account that they
-- touch and that exists. amounts: all amounts, where one does not fit a bigint. faults: what is wrong
-- with each event by itself, or 0. same_id, same_pending: the event before that has the same id, or
-- the same pending_id; origin: the last event before whose id is this one's pending_id; 0: none.
-- Returns failures as index << 32 | status, index from 0.
CREATE FUNCTION ledger_apply_in_order(
    batch ledger_event[],
    numbers integer[],
    accounts uuid[],
    first_timestamp bigint,
    amounts numeric[],
    faults integer[],
    same_id integer[],
    same_pending integer[],
    origin integer[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    amount_max CONSTANT numeric := 340282366920938463463374607431768211455;
    zero CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    never CONSTANT bigint := 9223372036854775807;
    ids uuid[];
    account_ledgers bigint[];
    account_flags integer[];
    -- Balances of the accounts at the same positions, dr: debits, cr: credits.
    dr_pending numeric[];
    dr_posted numeric[];
    cr_pending numeric[];
    cr_posted numeric[];
    events CONSTANT integer := cardinality(batch);
    statuses integer[] := array_fill(0, ARRAY[events]);
    stored ledger_transfers[] := array_fill(NULL::ledger_transfers, ARRAY[events]);
    -- Of a post or void: what its pending transfer had held. Positions of each event's accounts.
    released numeric[] := array_fill(NULL::numeric, ARRAY[events]);
    debit_positions integer[] := array_fill(0, ARRAY[events]);
    credit_positions integer[] := array_fill(0, ARRAY[events]);
    e record;
    t ledger_transfers;
    existing ledger_transfers;
    p ledger_transfers;
    status integer;
    resolves boolean;
    is_open boolean;
    failed_before boolean;
    rival_flags integer;
    expires_at bigint;
    amount numeric;
    d integer;
    c integer;
    n integer;
    i integer;
    chain_start integer := 0;
    broken boolean := false;
    applied integer := 0;
    burns boolean := false; -- a refused id may have to be remembered
BEGIN
    SELECT array_agg(a.id), array_agg(a.ledger), array_agg(a.flags), array_agg(a.debits_pending),
        array_agg(a.debits_posted), array_agg(a.credits_pending), array_agg(a.credits_posted)
    INTO ids, account_ledgers, account_flags, dr_pending, dr_posted, cr_pending, cr_posted
    FROM ledger_accounts a WHERE a.id = ANY (accounts);

    FOR e IN
        SELECT v.*, coalesce(amounts[v.number], v.amount) AS asked, d.position AS debit_position,
            c.position AS credit_position, stored_before AS existing, origin_row AS pending, r.id IS NOT NULL AS burnt,
            o.expires_at, z.flags AS rival_flags
        FROM unnest(batch) WITH ORDINALITY AS v (
            id, debit_account_id, credit_account_id, amount, pending_id, user_data_128,
            user_data_64, user_data_32, timeout, ledger, code, flags, number
        )
        LEFT JOIN ledger_transfers stored_before ON stored_before.id = v.id
        LEFT JOIN ledger_refusals r ON r.id = v.id AND v.code IN (2, 3)
        LEFT JOIN ledger_transfers origin_row
            ON origin_row.id = v.pending_id AND v.flags & 12 <> 0
        LEFT JOIN ledger_pendings o ON o.id = origin_row.id
        LEFT JOIN ledger_transfers z ON z.pending_id = origin_row.id AND o.id IS NULL
        LEFT JOIN unnest(ids) WITH ORDINALITY AS d (id, position)
            ON d.id = coalesce(origin_row.debit_account_id, v.debit_account_id)
        LEFT JOIN unnest(ids) WITH ORDINALITY AS c (id, position)
            ON c.id = coalesce(origin_row.credit_account_id, v.credit_account_id)
        WHERE v.number = ANY (numbers)
        ORDER BY v.number
    LOOP
        n := e.number;
        resolves := e.flags & 12 <> 0;
        existing := e.existing;
        p := e.pending;
        d := e.debit_position;
        c := e.credit_position;
        is_open := e.expires_at IS NOT NULL;
        expires_at := e.expires_at;
        rival_flags := e.rival_flags;
        failed_before := e.burnt;
        t := NULL;

        -- What earlier events of this batch did to the same ids.
        IF same_id IS NOT NULL THEN
            i := same_id[n];
            WHILE i > 0 LOOP
                IF (stored[i]).id IS NOT NULL THEN
                    existing := stored[i];
                END IF;
                IF statuses[i] IN (21, 22, 25, 54, 55) AND (batch[i]).code IN (2, 3) THEN
                    failed_before := failed_before OR e.code IN (2, 3);
                END IF;
                i := same_id[i];
            END LOOP;
            IF resolves THEN
                i := origin[n];
                WHILE i > 0 LOOP
                    IF (stored[i]).id IS NOT NULL THEN
                        p := stored[i];
                        d := debit_positions[i];
                        c := credit_positions[i];
                        is_open := p.flags & 2 <> 0;
                        expires_at := CASE WHEN p.timeout = 0 THEN never
                            ELSE p.timestamp + p.timeout * 1000000000 END;
                    END IF;
                    i := same_id[i];
                END LOOP;
                i := same_pending[n];
                WHILE i > 0 LOOP
                    IF (stored[i]).id IS NOT NULL THEN
                        is_open := false;
                        rival_flags := (stored[i]).flags;
                    END IF;
                    i := same_pending[i];
                END LOOP;
            END IF;
        END IF;

        status := coalesce(faults[n], 0);
        amount := e.asked;
        IF resolves THEN
            amount := CASE
                WHEN e.flags & 4 <> 0 AND amount IN (-1, amount_max) THEN p.amount
                WHEN e.flags & 8 <> 0 AND amount = 0 THEN p.amount
                ELSE amount
            END;
        END IF;

        IF e.flags & 1 <> 0 AND chain_start = 0 THEN
            chain_start := n;
        END IF;
        IF e.flags & 1 <> 0 AND n = events THEN
            status := 2;
        ELSIF broken THEN
            status := 1;
        ELSIF status IN (4, 5, 6) THEN
            NULL;
        ELSIF existing.id IS NOT NULL THEN
            IF resolves AND p.id IS DISTINCT FROM existing.pending_id THEN
                p := NULL;
            END IF;
            status := CASE
                WHEN e.flags <> existing.flags THEN 36
                WHEN e.pending_id <> coalesce(existing.pending_id, zero) THEN 40
                WHEN e.timeout <> existing.timeout THEN 44
                WHEN e.debit_account_id <> existing.debit_account_id
                    AND NOT (resolves AND e.debit_account_id = zero) THEN 37
                WHEN e.credit_account_id <> existing.credit_account_id
                    AND NOT (resolves AND e.credit_account_id = zero) THEN 38
                WHEN CASE WHEN e.flags & 16 <> 0 THEN amount < existing.amount
                    ELSE amount <> existing.amount END THEN 39
                WHEN existing.user_data_128 <> CASE WHEN resolves AND e.user_data_128 = zero
                    THEN p.user_data_128 ELSE e.user_data_128 END THEN 41
                WHEN existing.user_data_64 <> CASE WHEN resolves AND e.user_data_64 = 0
                    THEN p.user_data_64 ELSE e.user_data_64 END THEN 42
                WHEN existing.user_data_32 <> CASE WHEN resolves AND e.user_data_32 = 0
                    THEN p.user_data_32 ELSE e.user_data_32 END THEN 43
                WHEN e.ledger <> existing.ledger AND NOT (resolves AND e.ledger = 0) THEN 67
                WHEN e.code <> existing.code AND NOT (resolves AND e.code = 0) THEN 45
                ELSE 46
            END;
        ELSIF failed_before THEN
            status := 68;
        ELSIF status <> 0 THEN
            NULL;
        ELSIF resolves THEN
            status := CASE
                WHEN p.id IS NULL THEN 25
                WHEN p.flags & 2 = 0 THEN 26
                WHEN e.debit_account_id NOT IN (zero, p.debit_account_id) THEN 27
                WHEN e.credit_account_id NOT IN (zero, p.credit_account_id) THEN 28
                WHEN e.ledger NOT IN (0, p.ledger) THEN 29
                WHEN e.code NOT IN (0, p.code) THEN 30
                WHEN amount > p.amount THEN 31
                WHEN e.flags & 8 <> 0 AND amount < p.amount THEN 32
                WHEN NOT is_open AND rival_flags & 4 <> 0 THEN 33
                WHEN NOT is_open AND rival_flags & 8 <> 0 THEN 34
                WHEN NOT is_open OR expires_at <= first_timestamp + n - 1 THEN 35
                ELSE 0
            END;
            IF status = 0 THEN
                IF d IS NULL OR c IS NULL THEN
                    -- It was created after its accounts were looked for: begin again.
                    RAISE serialization_failure;
                END IF;
                t := ROW(
                    first_timestamp + n - 1,
                    CASE WHEN e.user_data_64 = 0 THEN p.user_data_64 ELSE e.user_data_64 END,
                    p.ledger, 0,
                    CASE WHEN e.user_data_32 = 0 THEN p.user_data_32 ELSE e.user_data_32 END,
                    p.code, e.flags, e.id, p.debit_account_id, p.credit_account_id,
                    CASE WHEN e.user_data_128 = zero THEN p.user_data_128 ELSE e.user_data_128 END,
                    e.pending_id, amount
                );
                released[n] := p.amount;
                dr_pending[d] := dr_pending[d] - p.amount;
                cr_pending[c] := cr_pending[c] - p.amount;
            END IF;
        ELSE
            status := CASE
                WHEN d IS NULL THEN 21
                WHEN c IS NULL THEN 22
                WHEN account_ledgers[d] <> account_ledgers[c] THEN 23
                WHEN e.ledger <> account_ledgers[d] THEN 24
                ELSE 0
            END;
            IF status = 0 THEN
                IF e.flags & 16 <> 0 THEN
                    amount := least(amount, greatest(
                        0, cr_posted[d] - dr_posted[d] - dr_pending[d]
                    ));
                END IF;
                status := CASE
                    WHEN e.flags & 2 <> 0 AND amount + dr_pending[d] > amount_max THEN 47
                    WHEN e.flags & 2 <> 0 AND amount + cr_pending[c] > amount_max THEN 48
                    WHEN amount + dr_posted[d] > amount_max THEN 49
                    WHEN amount + cr_posted[c] > amount_max THEN 50
                    WHEN amount + dr_pending[d] + dr_posted[d] > amount_max THEN 51
                    WHEN amount + cr_pending[c] + cr_posted[c] > amount_max THEN 52
                    WHEN first_timestamp::numeric + n - 1 + e.timeout * 1000000000 > never THEN 53
                    WHEN account_flags[d] & 2 <> 0
                        AND amount + dr_pending[d] + dr_posted[d] > cr_posted[d] THEN 54
                    WHEN account_flags[c] & 4 <> 0
                        AND amount + cr_pending[c] + cr_posted[c] > dr_posted[c] THEN 55
                    ELSE 0
                END;
            END IF;
            IF status = 0 THEN
                t := ROW(
                    first_timestamp + n - 1, e.user_data_64, e.ledger, e.timeout, e.user_data_32,
                    e.code, e.flags, e.id, e.debit_account_id, e.credit_account_id,
                    e.user_data_128, NULL, amount
                );
            END IF;
        END IF;

        IF status = 0 THEN
            stored[n] := t;
            applied := applied + 1;
            debit_positions[n] := d;
            credit_positions[n] := c;
            IF e.flags & 2 <> 0 THEN
                dr_pending[d] := dr_pending[d] + amount;
                cr_pending[c] := cr_pending[c] + amount;
            ELSIF e.flags & 8 = 0 THEN
                dr_posted[d] := dr_posted[d] + amount;
                cr_posted[c] := cr_posted[c] + amount;
            END IF;
        ELSE
            statuses[n] := status;
            burns := burns OR e.code IN (2, 3);
            IF chain_start > 0 AND NOT broken THEN
                broken := true;
                FOR i IN REVERSE n - 1 .. chain_start LOOP
                    t := stored[i];
                    d := debit_positions[i];
                    c := credit_positions[i];
                    IF t.flags & 2 <> 0 THEN
                        dr_pending[d] := dr_pending[d] - t.amount;
                        cr_pending[c] := cr_pending[c] - t.amount;
                    ELSIF t.flags & 8 = 0 THEN
                        dr_posted[d] := dr_posted[d] - t.amount;
                        cr_posted[c] := cr_posted[c] - t.amount;
                    END IF;
                    IF t.flags & 12 <> 0 THEN
                        dr_pending[d] := dr_pending[d] + released[i];
                        cr_pending[c] := cr_pending[c] + released[i];
                    END IF;
                    stored[i] := NULL;
                    applied := applied - 1;
                    statuses[i] := 1;
                END LOOP;
            END IF;
        END IF;
        IF e.flags & 1 = 0 THEN
            chain_start := 0;
            broken := false;
        END IF;
    END LOOP;

    IF applied > 0 THEN
        INSERT INTO ledger_transfers SELECT s.* FROM unnest(stored) s WHERE s.id IS NOT NULL;
        INSERT INTO ledger_pendings
        SELECT CASE WHEN s.timeout = 0 THEN never ELSE s.timestamp + s.timeout * 1000000000 END,
            s.user_data_64, s.ledger, s.user_data_32, s.user_data_32 & 16777215, s.code, s.id,
            s.debit_account_id, s.credit_account_id, s.user_data_128, s.amount
        FROM unnest(stored) s WHERE s.flags & 2 <> 0;
        DELETE FROM ledger_pendings o USING unnest(stored) s WHERE o.id = s.pending_id;
        UPDATE ledger_accounts a
        SET debits_pending = b.debits_pending, debits_posted = b.debits_posted,
            credits_pending = b.credits_pending, credits_posted = b.credits_posted
        FROM unnest(ids, dr_pending, dr_posted, cr_pending, cr_posted)
            AS b (id, debits_pending, debits_posted, credits_pending, credits_posted)
        WHERE a.id = b.id AND (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
            IS DISTINCT FROM (b.debits_pending, b.debits_posted, b.credits_pending, b.credits_posted);
    END IF;
    IF burns THEN
        INSERT INTO ledger_refusals
        SELECT DISTINCT v.id
        FROM unnest(batch) WITH ORDINALITY AS v (
            id, debit_account_id, credit_account_id, amount, pending_id, user_data_128,
            user_data_64, user_data_32, timeout, ledger, code, flags, number
        )
        WHERE v.code IN (2, 3) AND statuses[v.number] IN (21, 22, 25, 54, 55)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN ARRAY(
        SELECT (number - 1) << 32 | s.status
        FROM unnest(statuses) WITH ORDINALITY AS s (status, number) WHERE s.status <> 0
    );
END $$;

-- Apply a batch of transfers. Arguments after the first are given for a batch that has to be applied
-- in order from the start, see ledger_apply_in_order; without them the caller vouches that no event
-- is malformed, refers to another one of the batch, or names anything in a post or void but an id,
-- user data and the whole amount.
--
-- Set-based as far as order cannot matter: an account whose debits of the whole batch fit without
-- any credit of the batch admits them in every order. Chains that touch another account are applied
-- in order, after the rest; unless no order could admit them, which is how payers without funds are
-- refused cheaply.
--
-- Returns failures as index << 32 | status, index from 0. Raises: serialization_failure and
-- unique_violation - somebody else was at the same ids at the same time: call again, in order.
CREATE FUNCTION ledger_create_transfers(
    batch ledger_event[],
    amounts numeric[] DEFAULT NULL,
    faults integer[] DEFAULT NULL,
    same_id integer[] DEFAULT NULL,
    same_pending integer[] DEFAULT NULL,
    origin integer[] DEFAULT NULL
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    amount_max CONSTANT numeric := 340282366920938463463374607431768211455;
    events CONSTANT integer := cardinality(batch);
    accounts uuid[]; -- of the batch, those that exist; all are locked
    narrow uuid[]; -- those whose limits order may decide
    plain boolean; -- all that is referred to is there and fits
    hopeless boolean; -- the narrow ones can afford no debit of the batch, in whatever order
    in_order integer[]; -- events not for the set-based part
    first bigint;
    complete boolean;
BEGIN
    WITH event AS MATERIALIZED (
        SELECT * FROM unnest(batch)
    ), pending AS MATERIALIZED (
        SELECT o.debit_account_id, o.credit_account_id, o.expires_at
        FROM event e JOIN ledger_pendings o ON o.id = e.pending_id WHERE e.flags & 12 <> 0
    ), touched AS MATERIALIZED (
        SELECT t.id, coalesce(sum(t.debit), 0) AS debit, coalesce(sum(t.credit), 0) AS credit,
            min(t.debit) AS debit_min, bool_or(t.relief) AS relief,
            min(t.ledger) AS ledger_min, max(t.ledger) AS ledger_max
        FROM (
            SELECT debit_account_id, amount, NULL, ledger, false FROM event WHERE flags & 12 = 0
            UNION ALL
            SELECT credit_account_id, NULL, amount, ledger, flags & 2 = 0
            FROM event WHERE flags & 12 = 0
            UNION ALL SELECT debit_account_id, NULL, NULL, NULL, true FROM pending
            UNION ALL SELECT credit_account_id, NULL, NULL, NULL, true FROM pending
        ) AS t (id, debit, credit, ledger, relief)
        GROUP BY t.id
    ), locked AS MATERIALIZED (
        SELECT a.id,
            t.ledger_min <> a.ledger OR t.ledger_max <> a.ledger AS astray,
            (a.flags & 2 <> 0
                AND a.debits_pending + a.debits_posted + t.debit > a.credits_posted)
            OR (a.flags & 4 <> 0
                AND a.credits_pending + a.credits_posted + t.credit > a.debits_posted)
            OR a.debits_pending + a.debits_posted + t.debit > amount_max
            OR a.credits_pending + a.credits_posted + t.credit > amount_max AS narrow,
            a.flags & 2 <> 0 AND NOT t.relief
                AND a.debits_pending + a.debits_posted + t.debit_min > a.credits_posted
                AND a.credits_pending + a.credits_posted + t.credit <= amount_max AS empty
        FROM touched t JOIN ledger_accounts a ON a.id = t.id
        ORDER BY a.id
        FOR NO KEY UPDATE OF a
    )
    SELECT array_agg(l.id), array_agg(l.id) FILTER (WHERE l.narrow),
        count(*) = (SELECT count(*) FROM touched) AND NOT coalesce(bool_or(l.astray), false)
            AND (SELECT count(*) FROM pending WHERE expires_at > ledger_now())
                = (SELECT count(*) FROM event WHERE flags & 12 <> 0),
        bool_and(l.empty) FILTER (WHERE l.narrow)
            AND NOT EXISTS (SELECT FROM event WHERE flags & 1 <> 0)
    INTO accounts, narrow, plain, hopeless
    FROM locked l;

    first := ledger_timestamps(events);
    IF faults IS NOT NULL OR NOT plain THEN
        RETURN ledger_apply_in_order(
            batch, ARRAY(SELECT generate_series(1, events)), accounts, first,
            amounts, faults, same_id, same_pending, origin
        );
    END IF;
    IF hopeless THEN
        in_order := ARRAY(
            SELECT v.number
            FROM unnest(batch) WITH ORDINALITY AS v (
                id, debit_account_id, credit_account_id, amount, pending_id, user_data_128,
                user_data_64, user_data_32, timeout, ledger, code, flags, number
            )
            WHERE v.flags & 12 = 0 AND v.debit_account_id = ANY (narrow) ORDER BY v.number
        );
    ELSIF narrow IS NOT NULL THEN
        in_order := ARRAY(
            SELECT c.number FROM (
                SELECT e.number, bool_or(e.touches) OVER (PARTITION BY e.chain) AS touches
                FROM (
                    SELECT v.number,
                        count(*) FILTER (WHERE v.flags & 1 = 0) OVER (
                            ORDER BY v.number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                        ) AS chain,
                        coalesce(o.debit_account_id, v.debit_account_id) = ANY (narrow)
                        OR coalesce(o.credit_account_id, v.credit_account_id) = ANY (narrow)
                        AS touches
                    FROM unnest(batch) WITH ORDINALITY AS v (
                        id, debit_account_id, credit_account_id, amount, pending_id, user_data_128,
                        user_data_64, user_data_32, timeout, ledger, code, flags, number
                    )
                    LEFT JOIN ledger_pendings o ON o.id = v.pending_id AND v.flags & 12 <> 0
                ) e
            ) c WHERE c.touches ORDER BY c.number
        );
    END IF;

    WITH event AS MATERIALIZED (
        SELECT * FROM unnest(batch) WITH ORDINALITY AS v (
            id, debit_account_id, credit_account_id, amount, pending_id, user_data_128,
            user_data_64, user_data_32, timeout, ledger, code, flags, number
        )
        WHERE in_order IS NULL OR v.number <> ALL (in_order)
    ), resolved AS (
        DELETE FROM ledger_pendings o USING event e
        WHERE e.flags & 12 <> 0 AND o.id = e.pending_id
        RETURNING e.number, e.id, e.flags, o.id AS pending_id, o.debit_account_id,
            o.credit_account_id, o.amount, o.ledger, o.code,
            CASE WHEN e.user_data_128 = '00000000-0000-0000-0000-000000000000'
                THEN o.user_data_128 ELSE e.user_data_128 END AS user_data_128,
            CASE WHEN e.user_data_64 = 0 THEN o.user_data_64 ELSE e.user_data_64 END
                AS user_data_64,
            CASE WHEN e.user_data_32 = 0 THEN o.user_data_32 ELSE e.user_data_32 END
                AS user_data_32
    ), pending AS (
        INSERT INTO ledger_pendings
        SELECT CASE WHEN timeout = 0 THEN 9223372036854775807
                ELSE first + number - 1 + timeout * 1000000000 END,
            user_data_64, ledger, user_data_32, user_data_32 & 16777215, code, id,
            debit_account_id, credit_account_id, user_data_128, amount
        FROM event WHERE flags & 2 <> 0
    ), stored AS (
        INSERT INTO ledger_transfers
        SELECT first + number - 1, user_data_64, ledger, timeout, user_data_32, code, flags, id,
            debit_account_id, credit_account_id, user_data_128, NULL, amount
        FROM event WHERE flags & 12 = 0
        UNION ALL
        SELECT first + number - 1, user_data_64, ledger, 0, user_data_32, code, flags, id,
            debit_account_id, credit_account_id, user_data_128, pending_id, amount
        FROM resolved
    ), change AS (
        SELECT l.id, sum(l.debit_pending) AS debit_pending, sum(l.debit_posted) AS debit_posted,
            sum(l.credit_pending) AS credit_pending, sum(l.credit_posted) AS credit_posted
        FROM (
            SELECT debit_account_id, CASE WHEN flags & 2 <> 0 THEN amount ELSE 0 END,
                CASE WHEN flags & 2 <> 0 THEN 0 ELSE amount END, 0, 0
            FROM event WHERE flags & 12 = 0
            UNION ALL
            SELECT credit_account_id, 0, 0, CASE WHEN flags & 2 <> 0 THEN amount ELSE 0 END,
                CASE WHEN flags & 2 <> 0 THEN 0 ELSE amount END
            FROM event WHERE flags & 12 = 0
            UNION ALL
            SELECT debit_account_id, -amount, CASE WHEN flags & 4 <> 0 THEN amount ELSE 0 END, 0, 0
            FROM resolved
            UNION ALL
            SELECT credit_account_id, 0, 0, -amount, CASE WHEN flags & 4 <> 0 THEN amount ELSE 0 END
            FROM resolved
        ) AS l (id, debit_pending, debit_posted, credit_pending, credit_posted)
        GROUP BY l.id
    ), changed AS (
        UPDATE ledger_accounts a
        SET debits_pending = a.debits_pending + c.debit_pending,
            debits_posted = a.debits_posted + c.debit_posted,
            credits_pending = a.credits_pending + c.credit_pending,
            credits_posted = a.credits_posted + c.credit_posted
        FROM change c WHERE a.id = c.id
    )
    SELECT (SELECT count(*) FROM resolved) = (SELECT count(*) FROM event WHERE flags & 12 <> 0)
    INTO complete;
    IF NOT complete THEN
        -- Another writer resolved one of them while this one waited for the accounts.
        RAISE serialization_failure;
    END IF;
    IF in_order IS NULL THEN
        RETURN NULL;
    END IF;
    IF hopeless THEN
        RETURN ARRAY(SELECT (number::bigint - 1) << 32 | 54 FROM unnest(in_order) AS number);
    END IF;
    RETURN ledger_apply_in_order(
        batch, in_order, accounts, first, NULL, NULL, NULL, NULL, NULL
    );
END $$;

-- Release pending transfers that are past their time; returns how many, at most `page`. One worker
-- at a time does this, the others find nothing to do.
CREATE FUNCTION ledger_expire(page integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    due uuid[];
    expired integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1279542343, 2) THEN
        RETURN 0;
    END IF;
    due := ARRAY(
        SELECT id FROM ledger_pendings WHERE expires_at <= ledger_now() ORDER BY expires_at LIMIT page
    );
    IF cardinality(due) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM FROM ledger_accounts a
    WHERE a.id IN (
        SELECT unnest(ARRAY[o.debit_account_id, o.credit_account_id])
        FROM ledger_pendings o WHERE o.id = ANY (due)
    )
    ORDER BY a.id FOR NO KEY UPDATE OF a;
    WITH expired AS (
        DELETE FROM ledger_pendings o WHERE o.id = ANY (due) RETURNING *
    ), change AS (
        SELECT l.id, sum(l.debit) AS debit, sum(l.credit) AS credit
        FROM (
            SELECT debit_account_id, amount, 0 FROM expired
            UNION ALL SELECT credit_account_id, 0, amount FROM expired
        ) AS l (id, debit, credit)
        GROUP BY l.id
    ), changed AS (
        UPDATE ledger_accounts a
        SET debits_pending = a.debits_pending - c.debit,
            credits_pending = a.credits_pending - c.credit
        FROM change c WHERE a.id = c.id
    )
    SELECT count(*) INTO expired FROM expired;
    RETURN expired;
END $$;

-- Create accounts in order, chain by chain; the faults are those that need no look at the table.
-- Returns failures as index << 32 | status, index from 0.
CREATE FUNCTION ledger_create_accounts(
    ids uuid[],
    user_data_128s uuid[],
    user_data_64s bigint[],
    user_data_32s integer[],
    ledgers bigint[],
    codes integer[],
    all_flags integer[],
    faults integer[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    events CONSTANT integer := cardinality(ids);
    statuses integer[] := array_fill(0, ARRAY[events]);
    existing ledger_accounts;
    first bigint;
    status integer;
    chain_start integer := 0;
    broken boolean := false;
BEGIN
    -- One writer at a time, so that two of the same accounts in different orders cannot block.
    PERFORM pg_advisory_xact_lock(1279542343, 3);
    first := ledger_timestamps(events);
    FOR n IN 1 .. events LOOP
        status := faults[n];
        IF all_flags[n] & 1 <> 0 AND chain_start = 0 THEN
            chain_start := n;
        END IF;
        IF all_flags[n] & 1 <> 0 AND n = events THEN
            status := 2;
        ELSIF broken THEN
            status := 1;
        ELSIF status NOT IN (5, 6, 7) THEN
            SELECT * INTO existing FROM ledger_accounts a WHERE a.id = ids[n];
            IF FOUND THEN
                status := CASE
                    WHEN all_flags[n] <> existing.flags THEN 15
                    WHEN user_data_128s[n] <> existing.user_data_128 THEN 16
                    WHEN user_data_64s[n] <> existing.user_data_64 THEN 17
                    WHEN user_data_32s[n] <> existing.user_data_32 THEN 18
                    WHEN ledgers[n] <> existing.ledger THEN 19
                    WHEN codes[n] <> existing.code THEN 20
                    ELSE 21
                END;
            END IF;
        END IF;
        IF status = 0 THEN
            INSERT INTO ledger_accounts (
                id, user_data_128, user_data_64, user_data_32, ledger, code, flags, timestamp
            ) VALUES (
                ids[n], user_data_128s[n], user_data_64s[n], user_data_32s[n], ledgers[n], codes[n],
                all_flags[n], first + n - 1
            );
        ELSE
            statuses[n] := status;
            IF chain_start > 0 AND NOT broken THEN
                broken := true;
                DELETE FROM ledger_accounts a WHERE a.id = ANY (ids[chain_start : n - 1]);
                FOR i IN chain_start .. n - 1 LOOP
                    statuses[i] := 1;
                END LOOP;
            END IF;
        END IF;
        IF all_flags[n] & 1 = 0 THEN
            chain_start := 0;
            broken := false;
        END IF;
    END LOOP;
    RETURN ARRAY(
        SELECT (number - 1) << 32 | s.status
        FROM unnest(statuses) WITH ORDINALITY AS s (status, number) WHERE s.status <> 0
    );
END $$;
-- ledger: end
