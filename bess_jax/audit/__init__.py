"""What a compiled step consists of, read from its HLO text; nothing of it runs.

`hlo` reads the text, `report` counts operations, bytes sent and copies of tables in it, `ipu` tells which operations
an IPU has, and `traffic` has the bytes that BESS says a shard sends.
"""
