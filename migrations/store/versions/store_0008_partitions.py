"""Partitions as housekeeping sees them; a last partition that writers got into becomes one like any other."""

import re

from alembic import context

from kylo_outbox.store.migrate import script

revision = "store_0008"
down_revision = "store_0007"

UP = """
create view kylo.outbox_partitions as
select format('%I.%I', n.nspname, c.relname) as partition, i.inhdetachpending as leaving,
       coalesce((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(\\d+)'))[1]::bigint, 0) as low,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''?(\\d+)'))[1]::bigint as high
  from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
 where i.inhparent = 'kylo.outbox_log'::regclass;
comment on view kylo.outbox_partitions is
    'The partitions of the outbox with their ids, low <= id < high; the last one has no end (high is null).';

create function kylo.newest_outbox_id() returns bigint language sql volatile as $$
    select coalesce(pg_sequence_last_value(pg_get_serial_sequence('kylo.outbox_log', 'id')::regclass), 0)
$$;
comment on function kylo.newest_outbox_id is 'The newest id drawn, committed or not; 0 before the first.';

create or replace function kylo.extend_outbox(ahead bigint, width bigint default 1000000) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
-- Keeps bounded partitions for `ahead` ids beyond the newest one, behind them one without an end, so that a writer
-- never misses one. Locks the outbox for a moment: call it with a short lock_timeout. When writers got into the last
-- one, it becomes a bounded one itself; that needs kylo.bound_last_partition before, and its constraint validated.
declare
    newest bigint := kylo.newest_outbox_id();
    edge bigint := (select coalesce(max(high), 1) from kylo.outbox_partitions);
    bound bigint;
    made integer := 0;
    used boolean := false;
begin
    if to_regclass('kylo.outbox_log_last') is null then
        create table kylo.outbox_log_last (like kylo.outbox_log including defaults including constraints);
    elsif edge > newest + ahead then
        return 0;
    else
        execute 'select exists (select from kylo.outbox_log_last)' into used;
        select substring(pg_get_constraintdef(oid) from 'id < ''?(\\d+)')::bigint into bound
          from pg_constraint
         where conrelid = 'kylo.outbox_log_last'::regclass and conname = 'outbox_log_bound' and convalidated;
        if used and bound is null then
            return 0;
        end if;
        alter table kylo.outbox_log detach partition kylo.outbox_log_last;
        if used then
            execute format('alter table kylo.outbox_log_last rename to outbox_log_%s', edge);
            execute format('alter table kylo.outbox_log attach partition kylo.outbox_log_%s '
                           'for values from (%s) to (%s)', edge, edge, bound);
            execute format('alter table kylo.outbox_log_%s drop constraint outbox_log_bound', edge);
            create table kylo.outbox_log_last (like kylo.outbox_log including defaults including constraints);
            edge := bound;
            made := 1;
        end if;
    end if;
    while edge <= newest + ahead or (used and made = 1) loop
        execute format('create table kylo.outbox_log_%s '
                       '(like kylo.outbox_log including defaults including constraints)', edge);
        execute format('alter table kylo.outbox_log attach partition kylo.outbox_log_%s for values from (%s) to (%s)',
                       edge, edge, edge + width);
        edge := edge + width;
        made := made + 1;
    end loop;
    execute format('alter table kylo.outbox_log attach partition kylo.outbox_log_last '
                   'for values from (%s) to (maxvalue)', edge);
    return made;
end $$;

create function kylo.bound_last_partition(room bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
-- If writers got into the last partition: gives it an end, `room` ids beyond the newest, as a constraint that is not
-- validated yet. True if there is one to validate.
declare
    used boolean;
begin
    if to_regclass('kylo.outbox_log_last') is null then
        return false;
    end if;
    execute 'select exists (select from kylo.outbox_log_last)' into used;
    if used and not exists (select from pg_constraint where conrelid = 'kylo.outbox_log_last'::regclass
                                                        and conname = 'outbox_log_bound') then
        execute (select format('alter table kylo.outbox_log_last add constraint outbox_log_bound '
                               'check (id >= %s and id < %s) not valid', low, kylo.newest_outbox_id() + room)
                   from kylo.outbox_partitions where partition = 'kylo.outbox_log_last');
    end if;
    return used;
end $$;
"""

DOWN = """
drop function kylo.bound_last_partition(bigint);
drop function kylo.extend_outbox(bigint, bigint);
drop function kylo.newest_outbox_id();
drop view kylo.outbox_partitions;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
    former = context.script.get_revision("store_0001").module.UP
    script(re.findall(r"create function kylo\.extend_outbox\(.*?\nend \$\$;\n", former, re.DOTALL)[0])
