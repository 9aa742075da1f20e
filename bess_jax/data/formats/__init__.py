"""Triples in files: what `KGDataset.from_file` and `KGDataset.from_folder` read.

`sources` tells the format by the name of a file: `delimited` for CSV and TSV, `columnar` for parquet, NumPy and frames,
`rdf` for N-Triples and Turtle. `header` finds the columns, `vocabulary` gives names their ids, and `cells` many at a
time. `folder` reads what lies beside the triples too, and `folder_writer` writes it.
"""
