"""Writers ring only where a relay is asleep: while none runs at all, nobody pays for a notification."""

from kylo_outbox.store.migrate import script

revision = "store_0014"
down_revision = "store_0013"

UP = """
create or replace function kylo.wake_relay(p_slot smallint) returns void language plpgsql volatile as $$
-- A relay that sleeps holds the lock of the bucket and is called; one that is awake finds the event by itself, and
-- where there is none nobody needs to hear, because commits with a NOTIFY queue behind each other. A lock that was free
-- is given back at once: an open transaction that kept it would keep the relay from saying that it sleeps. PREPARE
-- TRANSACTION refuses a transaction with a NOTIFY, so where transactions can be prepared there is no hint; the relay's
-- own clock finds the event then.
begin
    if current_setting('max_prepared_transactions') <> '0' then
        return;
    end if;
    if pg_try_advisory_lock_shared(1802068091, p_slot >> 6) then
        perform pg_advisory_unlock_shared(1802068091, p_slot >> 6);
    else
        perform pg_notify('kylo_outbox', (p_slot >> 6)::text);
    end if;
end $$;
"""

DOWN = """
create or replace function kylo.wake_relay(p_slot smallint) returns void language plpgsql volatile as $$
-- A relay that is awake holds the lock of the bucket and finds the event by itself; only one that sleeps is called,
-- because commits with a NOTIFY queue behind each other. The lock is given back at once: an open transaction that
-- kept it would keep the relay from saying that it is awake. PREPARE TRANSACTION refuses a transaction with a NOTIFY,
-- so where transactions can be prepared there is no hint; the relay's own clock finds the event then.
begin
    if current_setting('max_prepared_transactions') = '0'
       and pg_try_advisory_lock_shared(1802068090, p_slot >> 6) then
        perform pg_advisory_unlock_shared(1802068090, p_slot >> 6);
        perform pg_notify('kylo_outbox', (p_slot >> 6)::text);
    end if;
end $$;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
