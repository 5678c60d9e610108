-- Usage of API keys and callbacks follow each change of a generation, in the transaction that makes the change.
-- A ledger takes one row for each change, so that nobody waits for a counter; readers add the rows up.

-- The turn of a generation that waits from now on. A minute of waiting is worth a step of priority, whatever else comes
-- in: so the order stands once it is made.
CREATE OR REPLACE FUNCTION turn_of(priority smallint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT now() - make_interval(mins => priority)
$$;

-- What is held in a batch reserves its money and is not counted as under way.
CREATE OR REPLACE FUNCTION generation_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT api_key_id, date_trunc('month', created_at AT TIME ZONE 'UTC'), count(*) FILTER (WHERE state <> 'HELD'),
        sum(reserved_usd), 0
    FROM made WHERE api_key_id <> '' AND ended_at IS NULL GROUP BY 1, 2;
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    SELECT replace(id, 'gen_', 'cb_') || '_2', id, 2, owner, api_key_id, 'generation.' || lower(state), callback_url,
        now() + interval '24 hours'
    FROM made WHERE callback_url IS NOT NULL AND ended_at IS NOT NULL;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_created AFTER INSERT ON generation_requests
REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION generation_created();

-- A generation that is inserted with its end (a late result, a reused result) and with what it cost.
CREATE OR REPLACE FUNCTION generation_made_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    cost numeric := round(CAST(COALESCE(NEW.cost_usd, 0) AS numeric), 6);
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    SELECT NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'), 0, 0, cost
    WHERE NEW.api_key_id <> '';
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, outcome, count, cost_usd)
    VALUES ('generation_ended', NEW.ended_at, NEW.model_identifier, NEW.provider_id, NEW.state, 0, cost);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_made_ended AFTER INSERT ON generation_requests
FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL AND NEW.cost_usd > 0) EXECUTE FUNCTION generation_made_ended();

-- Released from its batch, or held again: it begins or ceases to be under way.
CREATE OR REPLACE FUNCTION generation_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'),
        CASE WHEN NEW.state = 'HELD' THEN -1 ELSE 1 END, 0, 0);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_moved AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (NEW.api_key_id <> '' AND NEW.ended_at IS NULL AND (OLD.state = 'HELD') <> (NEW.state = 'HELD'))
EXECUTE FUNCTION generation_moved();

-- One callback when the provider has it (sequence 1) and one at its end (sequence 2). A late result that came to
-- nothing is not reported: the owner knows of the failure that it continues.
CREATE OR REPLACE FUNCTION generation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    place smallint := CASE WHEN NEW.ended_at IS NULL THEN 1 ELSE 2 END;
    event text := CASE WHEN NEW.is_late THEN 'late_result' WHEN place = 1 THEN 'processing' ELSE lower(NEW.state) END;
BEGIN
    IF NEW.is_late AND NEW.state <> 'SUCCESS' THEN
        RETURN NULL;
    END IF;
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    VALUES (replace(NEW.id, 'gen_', 'cb_') || '_' || place, NEW.id, place, NEW.owner, NEW.api_key_id,
        'generation.' || event, NEW.callback_url, now() + interval '24 hours')
    ON CONFLICT (generation_id, sequence) DO NOTHING;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_changed AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (NEW.callback_url IS NOT NULL AND (
    OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
    OR OLD.state IN ('HELD', 'PENDING', 'DISPATCHING') AND NEW.state IN ('PROCESSING', 'STORING')))
EXECUTE FUNCTION generation_changed();

-- The reservation goes, and what it cost is spent, whatever it ended as: a provider bills a result that could not be
-- stored as well.
CREATE OR REPLACE FUNCTION generation_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd)
    VALUES (NEW.api_key_id, date_trunc('month', NEW.created_at AT TIME ZONE 'UTC'),
        CASE WHEN OLD.state = 'HELD' THEN 0 ELSE -1 END, -NEW.reserved_usd,
        round(CAST(COALESCE(NEW.cost_usd, 0) AS numeric), 6));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_ended AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.api_key_id <> '')
EXECUTE FUNCTION generation_ended();

-- An uncertain submission that was repeated under the same id is at risk only once its generation has ended and no
-- later attempt has an outcome that covers it: until then the reservation holds its money.
CREATE OR REPLACE FUNCTION generation_left_uncertain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE submissions s
    SET at_risk_usd = COALESCE(NULLIF(s.expected_cost_usd, 0), CAST(NEW.expected_cost_usd AS numeric))
    WHERE s.generation_id = NEW.id AND s.state = 'UNCERTAIN' AND s.at_risk_usd = 0 AND s.billing IS NULL
        AND NOT EXISTS (
            SELECT FROM submissions later WHERE later.generation_id = NEW.id AND later.attempt > s.attempt
                AND later.state IN ('UNCERTAIN', 'ACCEPTED', 'COMPLETED'));
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER generation_left_uncertain AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.state IN ('FAILED', 'CANCELLED') AND NEW.attempts > 0)
EXECUTE FUNCTION generation_left_uncertain();
