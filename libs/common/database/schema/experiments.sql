-- What happens in experiments, one row of their ledger for each event. What takes part in no experiment writes nothing.
-- A continuation is no new assignment: when it is made, the outcome of what it continues is taken back (`reopened`), and
-- its own outcome is counted once it has ended. So the sums hold one outcome for each assignment.

-- A user among those of all owners; nobody without a user_id.
CREATE OR REPLACE FUNCTION experiment_unit(owner text, user_id text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT md5(owner || chr(10) || user_id)::uuid
$$;

-- A continuation that takes over a task which was submitted before it was made measures no duration: part of the time
-- passed while nobody waited for the task.
CREATE OR REPLACE FUNCTION experiment_seconds(continues_id text, is_late boolean, submitted_at timestamptz,
    created_at timestamptz, ended_at timestamptz) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN continues_id IS NULL OR NOT is_late AND submitted_at >= created_at
        THEN CAST(extract(epoch FROM ended_at - created_at) AS double precision) END
$$;

-- A generation may be continued twice: resumed, and by a late result of its first task. The first continuation counts.
CREATE OR REPLACE FUNCTION is_first_continuation(own_id text, original_id text, own_created_at timestamptz)
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (SELECT FROM generation_requests other
        WHERE other.continues_id = original_id AND (other.created_at, other.id) < (own_created_at, own_id))
$$;

CREATE OR REPLACE FUNCTION experiment_assigned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind)
    SELECT experiment_id, variant_id, experiment_version, experiment_unit(owner, user_id), owner, user_id, 'assigned'
    FROM made WHERE experiment_id IS NOT NULL AND continues_id IS NULL;
    IF EXISTS (SELECT FROM made WHERE experiment_id IS NOT NULL AND continues_id IS NOT NULL) THEN
        INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
            cost_usd)
        SELECT g.experiment_id, g.variant_id, g.experiment_version, experiment_unit(g.owner, g.user_id), g.owner,
            g.user_id, kind, g.state,
            experiment_seconds(g.continues_id, g.is_late, g.submitted_at, g.created_at, g.ended_at),
            COALESCE(g.cost_usd, 0)
        FROM made CROSS JOIN LATERAL (VALUES ('reopened', made.continues_id), ('ended', made.id)) AS line(kind, id)
        JOIN generation_requests g ON g.id = line.id
        WHERE made.experiment_id IS NOT NULL AND made.continues_id IS NOT NULL AND g.ended_at IS NOT NULL
            AND g.experiment_id = made.experiment_id
            AND is_first_continuation(made.id, made.continues_id, made.created_at);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER experiment_assigned AFTER INSERT ON generation_requests
REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION experiment_assigned();

CREATE OR REPLACE FUNCTION experiment_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.continues_id IS NULL OR is_first_continuation(NEW.id, NEW.continues_id, NEW.created_at) THEN
        INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, outcome, seconds,
            cost_usd)
        VALUES (NEW.experiment_id, NEW.variant_id, NEW.experiment_version,
            experiment_unit(NEW.owner, NEW.user_id), NEW.owner, NEW.user_id, 'ended', NEW.state,
            experiment_seconds(NEW.continues_id, NEW.is_late, NEW.submitted_at, NEW.created_at, NEW.ended_at),
            COALESCE(NEW.cost_usd, 0));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER experiment_ended AFTER UPDATE ON generation_requests
FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.experiment_id IS NOT NULL)
EXECUTE FUNCTION experiment_ended();
