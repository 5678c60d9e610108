-- Partitions of the tables by month. Services may run as a role that owns no tables: whoever may delete rows may create
-- and drop months, and nothing else. The search path is fixed when the function is made (`SECURITY DEFINER`), so that
-- objects which a caller names alike, temporary tables for instance, are never found first.

-- A month's partition, stored as `poll_tasks` is: a row at work changes half a dozen times within minutes and then never
-- again, so dead rows are vacuumed after some thousand rows, not after a fifth of a table that grows all month.
CREATE OR REPLACE FUNCTION make_month(parent text, part text, begins_at text, ends_before text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF part !~ ('^' || parent || '_[0-9]{4}_[0-9]{2}$')
        OR parent NOT IN ('generation_requests', 'submissions', 'error_logs') THEN
        RAISE EXCEPTION '% is no month of %', part, parent;
    ELSIF NOT has_table_privilege(session_user, parent, 'DELETE') THEN
        RAISE EXCEPTION '% may not change %', session_user, parent USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 85, '
        'autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000, '
        'autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02, '
        'autovacuum_analyze_threshold = 200, autovacuum_vacuum_cost_delay = 0)',
        part, parent, begins_at, ends_before);
END $$;

CREATE OR REPLACE FUNCTION drop_month(parent text, part text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    live_id text;
BEGIN
    IF part !~ ('^' || parent || '_([0-9]{4}_[0-9]{2}|first)$')
        OR parent NOT IN ('generation_requests', 'submissions', 'error_logs') THEN
        RAISE EXCEPTION '% is no month of %', part, parent;
    ELSIF NOT has_table_privilege(session_user, parent, 'DELETE') THEN
        RAISE EXCEPTION '% may not change %', session_user, parent USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF parent = 'generation_requests' THEN
        EXECUTE format('SELECT id FROM %I WHERE state <> ''SUCCESS'' AND ended_at IS NULL LIMIT 1', part) INTO live_id;
        IF live_id IS NOT NULL THEN
            RAISE EXCEPTION '% of % is under way', live_id, part;
        END IF;
    END IF;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
    EXECUTE format('DROP TABLE %I', part);
END $$;
