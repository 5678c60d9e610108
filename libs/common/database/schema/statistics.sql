-- What is counted for the statistics: one row of the ledger for each event, in the transaction of the event. The
-- monitor adds them up.

CREATE OR REPLACE FUNCTION generation_counted_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count)
    SELECT 'generation_created', now(), model_identifier, provider_id, count(*)
    FROM made GROUP BY model_identifier, provider_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_counted_in AFTER INSERT ON generation_requests
REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION generation_counted_in();

-- The duration is measured from the release: what a batch holds waits by its owner's wish.
CREATE OR REPLACE FUNCTION generation_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN NEW.error ->> 'code' ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.released_at), round(CAST(COALESCE(NEW.cost_usd, 0) AS numeric), 6));
    IF NEW.fallback_path <> '[]'::jsonb THEN
        INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count)
        SELECT 'model_left', NEW.ended_at, step ->> 'model_identifier', step ->> 'provider_id', 'FAILED',
            COALESCE(step ->> 'code', ''), 1
        FROM jsonb_array_elements(NEW.fallback_path) AS step;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_counted_out AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION generation_counted_out();

CREATE OR REPLACE FUNCTION submission_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds)
    VALUES ('submission_ended', NEW.ended_at, COALESCE(NEW.model_identifier, ''), NEW.provider_id, NEW.state,
        COALESCE(NEW.error ->> 'code', ''), 1, NEW.latency_ms / 1000.0);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER submission_counted AFTER UPDATE ON submissions
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION submission_counted();

CREATE OR REPLACE FUNCTION task_counted_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count)
    SELECT 'task_created', now(), '', provider_id, count(*) FROM made GROUP BY provider_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER task_counted_in AFTER INSERT ON poll_tasks
REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION task_counted_in();

CREATE OR REPLACE FUNCTION task_counted_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, code, count, seconds)
    VALUES ('task_ended', NEW.ended_at, '', NEW.provider_id, NEW.state,
        CASE WHEN NEW.state = 'FAILED' THEN COALESCE(NEW.last_error ->> 'code', '') ELSE '' END, 1,
        extract(epoch FROM NEW.ended_at - NEW.created_at));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER task_counted_out AFTER UPDATE ON poll_tasks
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION task_counted_out();
