"""What left the outbox by key: the newest event among it that was published, apart from those that were held then."""

from kylo_outbox.store.migrate import script

revision = "store_0016"
down_revision = "store_0015"

# Whatever of a key had left while it was held, and is held no more, cannot be told any longer: nothing is said of a key
# of which something is held now.
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
 where id < (select coalesce(min(low), 0) from kylo.outbox_partitions);
update kylo.outbox_left l set published = array[generation, outbox_id]
 where not exists (select from kylo.outbox_left_held h where h.topic = l.topic and h.key = l.key);
"""

DOWN = """
drop table kylo.outbox_left_held;
alter table kylo.outbox_left drop column published;
"""


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
