-- Stores a batch of groups (see schema.Group) in one statement, so in one transaction with one flush of the log.
-- Its parameters are few, as each costs the client: columns of four kinds of rows, one behind the other.
-- A thread not written since ended_before has ended; its time is written when it is older than touched_before.
-- n: how many groups (t_), chunks (c_), steps (s_) and writes (w_), then their columns of numbers; b: those of bytes, as
-- they are taken apart below. `at` counts groups from 1.
-- Returns one row of arrays, for each group its status (schema.Status), the stamp before, the epoch and the bytes after,
-- and the numbers (from 1) of the steps that had pending writes already. Its statements are planned once a connection.
CREATE FUNCTION {name}(moment float8, ended_before float8, touched_before float8, n bigint[], b bytea[])
RETURNS TABLE (statuses int[], priors bigint[], epochs bigint[], sizes bigint[], early int[])
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $body$
DECLARE
    many_t int := n[1]; many_c int := n[2]; many_s int := n[3]; many_w int := n[4];
    nn int := 4 + 4 * many_t + many_c;
    bc int := 4 * many_t; bs int := bc + 2 * many_c; bw int := bs + 6 * many_s;
    t_epoch bigint[] := n[5 : 4 + many_t]; t_stamp bigint[] := n[5 + many_t : 4 + 2 * many_t];
    t_fresh bigint[] := n[5 + 2 * many_t : 4 + 3 * many_t]; t_bytes bigint[] := n[5 + 3 * many_t : 4 + 4 * many_t];
    t_thread bytea[] := b[1 : many_t]; t_label bytea[] := b[1 + many_t : 2 * many_t];
    t_tenant bytea[] := b[1 + 2 * many_t : 3 * many_t]; t_owner bytea[] := b[1 + 3 * many_t : 4 * many_t];
    c_at int[] := n[5 + 4 * many_t : nn];
    c_name bytea[] := b[bc + 1 : bc + many_c]; c_body bytea[] := b[bc + many_c + 1 : bs];
    s_at int[] := n[nn + 1 : nn + many_s]; s_base int[] := n[nn + many_s + 1 : nn + 2 * many_s];
    s_strict int[] := n[nn + 2 * many_s + 1 : nn + 3 * many_s];
    s_ns bytea[] := b[bs + 1 : bs + many_s]; s_id bytea[] := b[bs + many_s + 1 : bs + 2 * many_s];
    s_parent bytea[] := b[bs + 2 * many_s + 1 : bs + 3 * many_s];
    s_run bytea[] := b[bs + 3 * many_s + 1 : bs + 4 * many_s];
    s_metadata bytea[] := b[bs + 4 * many_s + 1 : bs + 5 * many_s]; s_body bytea[] := b[bs + 5 * many_s + 1 : bw];
    w_at int[] := n[nn + 3 * many_s + 1 : nn + 3 * many_s + many_w];
    w_idx int[] := n[nn + 3 * many_s + many_w + 1 : nn + 3 * many_s + 2 * many_w];
    w_keep int[] := n[nn + 3 * many_s + 2 * many_w + 1 : nn + 3 * many_s + 3 * many_w];
    w_ns bytea[] := b[bw + 1 : bw + many_w]; w_id bytea[] := b[bw + many_w + 1 : bw + 2 * many_w];
    w_task bytea[] := b[bw + 2 * many_w + 1 : bw + 3 * many_w];
    w_body bytea[] := b[bw + 3 * many_w + 1 : bw + 4 * many_w];
    head bytea;
    differs boolean;
    replaced bytea[];
BEGIN
    WITH given AS (
        SELECT * FROM unnest(t_thread, t_label, t_tenant, t_owner, t_epoch, t_stamp, t_fresh, t_bytes)
            WITH ORDINALITY AS g(thread, label, tenant, owner, epoch, stamp, fresh, bytes, at)
    ), touched AS (
        INSERT INTO llmops_ck_thread AS t (
            thread, label, tenant, owner, tier, stamp, prior, epoch, created_at, updated_at, stored_bytes)
        SELECT g.thread, g.label, g.tenant, g.owner, 'warm', g.stamp, 0, g.fresh, moment, moment, g.bytes FROM given g
        WHERE NOT EXISTS (SELECT 1 FROM llmops_ck_erasure e WHERE e.owner = g.owner AND e.until > moment)
            AND NOT (g.owner IS NULL
                AND NOT EXISTS (SELECT 1 FROM llmops_ck_thread o WHERE o.thread = g.thread)
                AND EXISTS (
                    SELECT 1 FROM llmops_ck_erased d JOIN llmops_ck_erasure e ON e.owner = d.owner
                    WHERE d.thread = g.thread AND e.until > moment))
        ORDER BY g.thread
        ON CONFLICT (thread) DO UPDATE SET
            prior = t.stamp, stamp = excluded.stamp, owner = COALESCE(t.owner, excluded.owner),
            is_ended = CASE WHEN t.updated_at < ended_before THEN 1 ELSE t.is_ended END,
            updated_at = CASE WHEN t.updated_at < touched_before THEN excluded.updated_at ELSE t.updated_at END,
            stored_bytes = t.stored_bytes + excluded.stored_bytes
        RETURNING t.thread, t.owner, t.tier, t.prior, t.epoch, t.is_ended, t.stored_bytes
    )
    SELECT array_agg(x.status ORDER BY x.at), array_agg(x.prior ORDER BY x.at), array_agg(x.epoch ORDER BY x.at),
        array_agg(x.size ORDER BY x.at)
    INTO statuses, priors, epochs, sizes
    FROM (
        SELECT g.at, COALESCE(k.prior, 0) AS prior, COALESCE(k.epoch, 0) AS epoch,
            COALESCE(k.stored_bytes, 0) AS size,
            CASE WHEN k.thread IS NULL THEN 6
                WHEN k.owner <> g.owner THEN 3
                WHEN k.is_ended = 1 THEN 7
                WHEN k.tier = 'cold' THEN 2
                WHEN k.epoch <> g.epoch THEN 1
                WHEN EXISTS (SELECT 1 FROM llmops_ck_erasure e WHERE e.owner = k.owner AND e.until > moment) THEN 6
                ELSE 0 END AS status
        FROM given g LEFT JOIN touched k ON k.thread = g.thread
    ) x;

    FOR i IN 1 .. cardinality(s_id) LOOP
        CONTINUE WHEN statuses[s_at[i]] <> 0;
        SELECT s.id INTO head FROM llmops_ck_step s
            WHERE s.thread = t_thread[s_at[i]] AND s.ns = s_ns[i] ORDER BY s.id DESC LIMIT 1;
        IF head > s_id[i] THEN
            SELECT s.body <> s_body[i] OR s.metadata <> s_metadata[i] OR s.parent IS DISTINCT FROM s_parent[i]
                INTO differs FROM llmops_ck_step s
                WHERE s.thread = t_thread[s_at[i]] AND s.ns = s_ns[i] AND s.id = s_id[i];
            IF FOUND THEN -- put again, when its answer was lost: that overtakes nobody
                statuses[s_at[i]] := CASE WHEN differs THEN 5 ELSE 0 END;
                CONTINUE;
            END IF;
        END IF;
        IF s_strict[i] = 1 AND head IS NOT NULL AND head <> s_id[i] AND head IS DISTINCT FROM s_parent[i] THEN
            statuses[s_at[i]] := 4;
        END IF;
    END LOOP;

    INSERT INTO llmops_ck_chunk (thread, name, body)
    SELECT t_thread[c.at], c.name, c.body FROM unnest(c_at, c_name, c_body) AS c(at, name, body)
    WHERE statuses[c.at] = 0
    ON CONFLICT DO NOTHING;

    SELECT array_agg(s.i) INTO early
    FROM unnest(s_at, s_ns, s_id) WITH ORDINALITY AS s(at, ns, id, i)
    WHERE statuses[s.at] = 0 AND EXISTS (
        SELECT 1 FROM llmops_ck_write w WHERE w.thread = t_thread[s.at] AND w.ns = s.ns AND w.id = s.id);

    WITH stored AS (
        INSERT INTO llmops_ck_step AS k (thread, ns, id, parent, run, base, metadata, body)
        SELECT t_thread[s.at], s.ns, s.id, s.parent, s.run, s.base, s.metadata, s.body
        FROM unnest(s_at, s_ns, s_id, s_parent, s_run, s_base, s_metadata, s_body)
            AS s(at, ns, id, parent, run, base, metadata, body)
        WHERE statuses[s.at] = 0
        ON CONFLICT (thread, ns, id) DO UPDATE SET
            parent = excluded.parent, run = excluded.run, base = excluded.base,
            metadata = excluded.metadata, body = excluded.body
            WHERE k.body <> excluded.body OR k.metadata <> excluded.metadata
                OR k.parent IS DISTINCT FROM excluded.parent
        RETURNING k.thread, k.xmax <> 0 AS is_replaced
    )
    SELECT array_agg(stored.thread) INTO replaced FROM stored WHERE stored.is_replaced;

    IF replaced IS NOT NULL THEN
        FOR i IN 1 .. cardinality(t_thread) LOOP
            CONTINUE WHEN NOT t_thread[i] = ANY (replaced);
            UPDATE llmops_ck_thread SET epoch = t_fresh[i] WHERE thread = t_thread[i];
            epochs[i] := t_fresh[i];
        END LOOP;
    END IF;

    INSERT INTO llmops_ck_write (thread, ns, id, task, idx, body)
    SELECT t_thread[w.at], w.ns, w.id, w.task, w.idx, w.body
    FROM unnest(w_at, w_ns, w_id, w_task, w_idx, w_keep, w_body) AS w(at, ns, id, task, idx, keep, body)
    WHERE statuses[w.at] = 0 AND w.keep = 1
    ON CONFLICT DO NOTHING;

    INSERT INTO llmops_ck_write AS k (thread, ns, id, task, idx, body)
    SELECT t_thread[w.at], w.ns, w.id, w.task, w.idx, w.body
    FROM unnest(w_at, w_ns, w_id, w_task, w_idx, w_keep, w_body) AS w(at, ns, id, task, idx, keep, body)
    WHERE statuses[w.at] = 0 AND w.keep = 0
    ON CONFLICT (thread, ns, id, task, idx) DO UPDATE SET body = excluded.body;

    RETURN NEXT;
END
$body$
