-- Partitions of the tables by month. Services may run as a role that owns no tables: whoever may delete rows may create
-- and drop months, and nothing else. The search path is fixed when the function is created (`SECURITY DEFINER`), so that
-- a caller's objects of the same names, temporary tables for instance, are never found first.

-- Refuses names other than those of a month of one of the tables, and callers without the right to delete its rows.
CREATE OR REPLACE FUNCTION check_month(parent text, part text, month_pattern text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF part !~ ('^' || parent || '_' || month_pattern || '$')
        OR parent NOT IN ('generation_requests', 'submissions', 'error_logs') THEN
        RAISE EXCEPTION '% is no month of %', part, parent;
    ELSIF NOT has_table_privilege(session_user, parent, 'DELETE') THEN
        RAISE EXCEPTION '% may not change %', session_user, parent USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- A month's partition has the storage parameters of `poll_tasks`, whose rows are updated as often.
CREATE OR REPLACE FUNCTION make_month(parent text, part text, begins_at text, ends_before text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    storage text := (SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'poll_tasks'::regclass);
BEGIN
    PERFORM check_month(parent, part, '[0-9]{4}_[0-9]{2}');
    EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L) WITH (%s)',
        part, parent, begins_at, ends_before, storage);
END $$;

CREATE OR REPLACE FUNCTION drop_month(parent text, part text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    live_id text;
BEGIN
    PERFORM check_month(parent, part, '([0-9]{4}_[0-9]{2}|first)');
    IF parent = 'generation_requests' THEN
        EXECUTE format('SELECT id FROM %I WHERE state <> ''SUCCESS'' AND ended_at IS NULL LIMIT 1', part) INTO live_id;
        IF live_id IS NOT NULL THEN
            RAISE EXCEPTION '% of % is under way', live_id, part;
        END IF;
    END IF;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, part);
    EXECUTE format('DROP TABLE %I', part);
END $$;
