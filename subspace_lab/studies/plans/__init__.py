"""Does a recommended plan pay? Plans against the default of GrassWalk at equal state, trained; importing it is cheap.

`study` trains and writes ``results/plans/plans.json``; `page` writes the tables of
``docs/how-to/let-measurements-choose.md`` from it.
"""
