"""Up to which row a company's Pending tab is complete, kept with the tab itself, whatever it is called."""

from kylo_outbox.store.migrate import script

revision = "control_0005"
down_revision = "control_0004"

UP = """
alter table control.sheet_tabs add column upto bigint;
comment on column control.sheet_tabs.upto is
    'pending_txns.seq up to which this very tab holds every open row; null where nobody has looked yet.';
update control.sheet_tabs t
   set upto = (select max(p.upto) from control.sheet_posts p
                where (p.company_id, p.spreadsheet_id, p.tab_name) = (t.company_id, t.spreadsheet_id, t.title)
                  and p.state = 'posted')
 where t.kind = 'pending';
"""

DOWN = "alter table control.sheet_tabs drop column upto;"


def upgrade() -> None:
    script(UP)


def downgrade() -> None:
    script(DOWN)
