"""What left the outbox by key: the newest event among it that was published, apart from those that were held then."""

from kylo_outbox.store.migrate import script

revision = "store_0016"
down_revision = "store_0015"

# What had left while it was held and was let go or taken out since cannot be told any more: nothing is said of a key of
# which something is held now, nor of one whose newest event was taken out. A partition that housekeeping has marked as
# leaving was counted already.
UP = """
alter table kylo.outbox_left add column published bigint[];
comment on column kylo.outbox_left.published is
    '(generation, id) of the newest of them that was published; NULL: none, or not known.';

create table kylo.outbox_left_held (
    topic text not null,
    key text not null,
    id bigint not null,
    generation integer not null,
    primary key (topic, key, id)
);
comment on table kylo.outbox_left_held is
    'Events that were held when their partition left. Once they are held no more they were published (then they count '
    'in kylo.outbox_left) or taken out.';

insert into kylo.outbox_left_held (topic, key, id, generation)
select topic, convert_from(key, 'UTF8'), id, generation from kylo.outbox_held
 where id < (select coalesce(min(low), 0) from kylo.outbox_partitions
              where not leaving and obj_description(partition::regclass, 'pg_class')
                    is distinct from 'kylo: published and older than the retention; it is detached and dropped');
update kylo.outbox_left l set published = array[generation, outbox_id]
 where not exists (select from kylo.outbox_left_held h where h.topic = l.topic and h.key = l.key)
   and outbox_id not in (
       select outbox_id from kylo.verify_gaps
       union all
       select outbox_id from kylo.dead_letters where stage = 'relay' and outbox_id is not null
       union all
       select unnest(ids) from kylo.audit where verb = 'outbox discard');
"""

DOWN = """
drop table kylo.outbox_left_held;
alter table kylo.outbox_left drop column published;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
