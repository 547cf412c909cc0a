"""A local server that speaks the part of Google Sheets v4 that we use, so that the official client can talk to it.

It keeps workbooks on disk, applies a batchUpdate whole or not at all, checks every body against the discovery document
that comes with google-api-python-client, shows its tabs as pages and can be told to fail. It serves demo, tests and
people without an account.

Besides the account of the API it knows a person, who edits on its pages, and the owner of the workbooks
(`/_standin/people`). What it is not: it computes no formulas (they are kept and shown as text), enforces validation
rules against people only, and speaks the methods of `api` only. Quotas are off unless asked for.
An unknown workbook id is created empty on first use unless the server runs strict.

Here may not live: anything that a real run against Google needs; the gateway does not know that this exists.
"""
