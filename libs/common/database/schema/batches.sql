-- Batches: counters follow each end, and each end makes room for the next generation.

-- Releases held generations, as far as nobody else is writing them; returns the ids of those that were released.
CREATE OR REPLACE FUNCTION release_generations(ids text[]) RETURNS SETOF text LANGUAGE sql AS $$
    UPDATE generation_requests
    SET state = 'PENDING', released_at = now(), updated_at = now(), next_attempt_at = now(), turn_at = turn_of(priority)
    WHERE id = ANY(ARRAY(
        SELECT id FROM generation_requests WHERE id = ANY(ids) AND state = 'HELD' FOR UPDATE SKIP LOCKED))
    RETURNING id
$$;

-- What continues a generation takes its place in the batch: the end before is counted no more, and the batch has not
-- ended. Its row is written in any case, since whoever closes the batch holds it.
CREATE OR REPLACE FUNCTION batch_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM made WHERE batch_id IS NOT NULL AND (continues_id IS NOT NULL OR ended_at IS NOT NULL)) THEN
        RETURN NULL;
    END IF;
    UPDATE generation_batches SET ended_at = NULL
    WHERE id IN (SELECT batch_id FROM made WHERE continues_id IS NOT NULL);
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    SELECT made.batch_id, made.batch_index, 0, -(before.state = 'FAILED')::int,
        -(before.state = 'CANCELLED' AND before.error ->> 'code' IS DISTINCT FROM 'SKIPPED')::int,
        -(before.state = 'CANCELLED' AND before.error ->> 'code' IS NOT DISTINCT FROM 'SKIPPED')::int, 0
    FROM made JOIN generation_requests before ON before.id = made.continues_id WHERE made.batch_id IS NOT NULL
    UNION ALL
    SELECT batch_id, batch_index, 1, 0, 0, 0, COALESCE(cost_usd, 0)
    FROM made WHERE batch_id IS NOT NULL AND state = 'SUCCESS';
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER batch_made AFTER INSERT ON generation_requests
REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION batch_made();

-- The place that becomes free goes to the next generation of the same provider account, which has a place free as well;
-- else to the first that may go. What cannot be had at once (a row that somebody holds, a batch whose order is strict)
-- is left to the scheduler of batches, which counts.
CREATE OR REPLACE FUNCTION batch_followed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    batch record;
    next_id text;
BEGIN
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    VALUES (NEW.batch_id, NEW.batch_index, (NEW.state = 'SUCCESS')::int, (NEW.state = 'FAILED')::int,
        (NEW.state = 'CANCELLED' AND NEW.error ->> 'code' IS DISTINCT FROM 'SKIPPED')::int,
        (NEW.state = 'CANCELLED' AND NEW.error ->> 'code' IS NOT DISTINCT FROM 'SKIPPED')::int,
        CASE WHEN NEW.state = 'SUCCESS' THEN COALESCE(NEW.cost_usd, 0) ELSE 0 END);
    IF NEW.state = 'FAILED' THEN
        UPDATE generation_batches SET stopped_at = now()
        WHERE id = NEW.batch_id AND stop_on_error AND stopped_at IS NULL;
    END IF;
    IF OLD.state = 'HELD' THEN
        RETURN NULL;
    END IF;
    SELECT max_concurrency INTO batch FROM generation_batches
    WHERE id = NEW.batch_id AND is_parallel AND stopped_at IS NULL AND cancel_requested_at IS NULL;
    IF NOT FOUND OR NEW.continues_id IS NOT NULL AND batch.max_concurrency <= (
        SELECT count(*) FROM generation_requests
        WHERE batch_id = NEW.batch_id AND state IN ('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING')) THEN
        RETURN NULL;
    END IF;
    SELECT id INTO next_id FROM generation_requests
    WHERE batch_id = NEW.batch_id AND provider_id = NEW.provider_id AND state = 'HELD' AND waits_for = 0
    ORDER BY batch_index LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF next_id IS NULL THEN
        SELECT id INTO next_id FROM generation_requests
        WHERE batch_id = NEW.batch_id AND state = 'HELD' AND waits_for = 0
        ORDER BY batch_index LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    PERFORM release_generations(ARRAY[next_id]);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER batch_followed AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.batch_id IS NOT NULL)
EXECUTE FUNCTION batch_followed();

-- What cost something without a success; `batch_followed` counts the cost of a success.
CREATE OR REPLACE FUNCTION batch_cost() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        cost_usd)
    VALUES (NEW.batch_id, NEW.batch_index, 0, 0, 0, 0, NEW.cost_usd);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER batch_cost AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.state IN ('FAILED', 'CANCELLED') AND NEW.batch_id IS NOT NULL
    AND NEW.cost_usd > 0)
EXECUTE FUNCTION batch_cost();
