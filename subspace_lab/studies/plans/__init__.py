"""Does a recommended plan pay? Plans against the default of GrassWalk at equal state, trained; importing it is cheap.

`study` trains, writes ``results/plans/plans.json`` and, from it, the tables of
``docs/how-to/let-measurements-choose.md``.
"""
