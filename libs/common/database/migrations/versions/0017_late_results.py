"""Triggers that announce late results."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_CHANGED = """
CREATE OR REPLACE FUNCTION generation_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE place smallint := CASE WHEN NEW.ended_at IS NULL THEN 1 ELSE 2 END;
BEGIN{FIRST}
    INSERT INTO callbacks (id, generation_id, sequence, owner, api_key_id, event, url, give_up_at)
    VALUES (replace(NEW.id, 'gen_', 'cb_') || '_' || place, NEW.id, place, NEW.owner, NEW.api_key_id,
        'generation.' || CASE {LATE}WHEN place = 1 THEN 'processing' ELSE lower(NEW.state) END, NEW.callback_url,
        now() + interval '24 hours')
    ON CONFLICT (generation_id, sequence) DO NOTHING;
    RETURN NULL;
END $$"""
# The owner was informed of the end of the generation that a late one continues: only a result is news.
_FIRST = """
    IF NEW.is_late AND NEW.state <> 'SUCCESS' THEN
        RETURN NULL;
    END IF;"""


def upgrade() -> None:
    op.execute(_CHANGED.replace("{FIRST}", _FIRST).replace("{LATE}", "WHEN NEW.is_late THEN 'late_result' "))


def downgrade() -> None:
    op.execute(_CHANGED.replace("{FIRST}", "").replace("{LATE}", ""))
