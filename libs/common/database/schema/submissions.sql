-- Money at risk and money spent without a result, in the usage of the API key and in the statistics. Money of a
-- submission counts in the month and at the time of the submission, whenever it changes: so it leaves the budget window
-- in which it came.
CREATE OR REPLACE FUNCTION submission_money() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    risk numeric := NEW.at_risk_usd;
    spent numeric := NEW.spent_usd;
    risks integer := (NEW.at_risk_usd > 0)::int;
    spendings integer := (NEW.spent_usd > 0)::int;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        risk := risk - OLD.at_risk_usd;
        spent := spent - OLD.spent_usd;
        risks := risks - (OLD.at_risk_usd > 0)::int;
        spendings := spendings - (OLD.spent_usd > 0)::int;
    END IF;
    INSERT INTO api_key_ledger (api_key_id, month, live, reserved_usd, spent_usd, at_risk_usd)
    SELECT g.api_key_id, date_trunc('month', NEW.started_at AT TIME ZONE 'UTC'), 0, 0, spent, risk
    FROM generation_requests g WHERE g.id = NEW.generation_id AND g.api_key_id <> '';
    INSERT INTO statistics_ledger (kind, at, model_identifier, provider_id, count, cost_usd)
    SELECT money.kind, NEW.started_at, COALESCE(NEW.model_identifier, ''), NEW.provider_id, money.count, money.usd
    FROM (VALUES ('money_at_risk', risks, risk), ('money_spent', spendings, spent)) AS money (kind, count, usd)
    WHERE money.usd <> 0 OR money.count <> 0;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER submission_money_made AFTER INSERT ON submissions
FOR EACH ROW WHEN (NEW.at_risk_usd > 0 OR NEW.spent_usd > 0) EXECUTE FUNCTION submission_money();

CREATE OR REPLACE TRIGGER submission_money AFTER UPDATE ON submissions
FOR EACH ROW WHEN (OLD.at_risk_usd <> NEW.at_risk_usd OR OLD.spent_usd <> NEW.spent_usd)
EXECUTE FUNCTION submission_money();
