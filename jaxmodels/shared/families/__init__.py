"""What each kind of data set reads, feeds, compares and leaves behind.

A family is a module of plain functions; `family.Family` says what it must have, and `registry` has
them all. Everything else (engines, loop, scripts, ladder) is written once for all.
"""
